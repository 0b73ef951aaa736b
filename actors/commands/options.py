"""Arguments that several commands share: settings of a scenario, names that can be completed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, say

if TYPE_CHECKING:
    from actors.scenario import Resolved


def complete_architecture(incomplete: str) -> list[str]:
    from protocol.arch import architectures

    return [name for name in architectures() if name.startswith(incomplete)]


def complete_scenario(incomplete: str) -> list[tuple[str, str]]:
    from actors.scenario import shipped

    return [(name, text) for name, text in shipped().items() if name.startswith(incomplete)]


def _settings(incomplete: str) -> list[tuple[str, str]]:
    from protocol.plan.scenario import Scenario, leaves

    return [
        (f"{path}=", kind.help)
        for path, _, kind in leaves(Scenario())
        if kind.kind != "thresholds" and path.startswith(incomplete)
    ]


def _words(setting: str) -> list[str]:
    from protocol.plan.scenario import Scenario, kind_of

    return list(kind_of(Scenario, setting).one_of or ())


ArchName = Annotated[
    str, typer.Argument(help="Name of an architecture.", autocompletion=complete_architecture)
]
ScenarioName = Annotated[
    str | None,
    typer.Argument(
        metavar="SCENARIO",
        help="A TOML file, or the name of a scenario that comes with nestbed; default if not given.",
        autocompletion=complete_scenario,
        show_default=False,
    ),
]
Arch = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="Architecture to run; may be repeated.",
        autocompletion=complete_architecture,
    ),
]
Paths = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="PATH",
        help="direct, nested, hosted or mixed; may be repeated.",
        autocompletion=lambda incomplete: [w for w in _words("paths") if w.startswith(incomplete)],
    ),
]
Depth = Annotated[
    str | None, typer.Option("--depth", metavar="N", help="Level of the hosts whose guests are secure.")
]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")]
Fidelity = Annotated[
    str | None,
    typer.Option(
        "--fidelity",
        metavar="HOW",
        help="call: every page call by itself; bulk: runs of them in one step.",
        autocompletion=lambda incomplete: [w for w in _words("fidelity") if w.startswith(incomplete)],
    ),
]
Transport = Annotated[
    str | None,
    typer.Option(
        "--transport",
        metavar="HOW",
        help="memory: messages as they are; packed: packed and unpacked; unix, tcp: between processes.",
        autocompletion=lambda incomplete: [w for w in _words("transport") if w.startswith(incomplete)],
    ),
]
Image = Annotated[
    str | None, typer.Option("--image", metavar="FILE", help="Boot this image instead of a made one.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, like guest.vcpus=4; may be repeated.",
        autocompletion=_settings,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]


def overrides(
    settings: list[str] | None,
    *,
    arch: list[str] | None = None,
    paths: list[str] | None = None,
    **single: str | None,
) -> dict[str, str]:
    """The settings that flags gave, as `actors.scenario.load` takes them. A proper flag wins over --set."""
    given: dict[str, str] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            end(exit_codes.USAGE, f"--set {text}: allowed: --set NAME=VALUE, like --set guest.vcpus=4")
        given[name.strip()] = value.strip()
    lists = {"arch": arch, "paths": paths}
    given |= {name: ",".join(words) for name, words in lists.items() if words}
    given |= {name.replace("__", "."): text for name, text in single.items() if text is not None}
    return given


def resolve(name: str | None, flags: dict[str, str]) -> Resolved:
    """The scenario that a command was asked for, or the end of the command with everything that is wrong."""
    from actors.fitting import load_fitting
    from actors.scenario import BrokenScenario, UnreadableScenario

    try:
        resolved = load_fitting(name, flags=flags, environment=dict(os.environ))
    except UnreadableScenario as error:
        end(exit_codes.USAGE, str(error))
    except BrokenScenario as error:
        end(exit_codes.USAGE, error.text())
    for note in resolved.notes:
        say(note)
    return resolved
