"""`nestbed scenario`: what a scenario resolves to, which ones there are, and their text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.options import (
    Arch,
    AsJson,
    Depth,
    Fidelity,
    Image,
    Paths,
    ScenarioName,
    Seed,
    Settings,
    Transport,
    overrides,
    resolve,
)
from actors.commands.speak import end, tell, tell_json

if TYPE_CHECKING:
    from actors.scenario import Resolved


def check(
    scenario: ScenarioName = None,
    arch: Arch = None,
    path: Paths = None,
    depth: Depth = None,
    seed: Seed = None,
    fidelity: Fidelity = None,
    transport: Transport = None,
    image: Image = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print the plan that a scenario resolves to and where each value came from; run nothing.

    A value comes from a flag, else from an environment variable NESTBED_..., else from the file, else it is
    the default. What is wrong is listed all at once, with what is allowed; then the exit code is 2.
    """
    flags = overrides(
        settings,
        arch=arch,
        paths=path,
        depth=depth,
        seed=seed,
        fidelity=fidelity,
        transport=transport,
        guest__image=image,
    )
    resolved = resolve(scenario, flags)
    if as_json:
        tell_json(_plan(resolved))
    else:
        _show(resolved)


def _plan(resolved: Resolved) -> dict[str, Any]:
    from protocol.plan.scenario import as_dict

    return {
        "source": resolved.source,
        "scenario": as_dict(resolved.scenario),
        "origins": dict(resolved.origins),
        "totals": totals(resolved),
    }


def totals(resolved: Resolved) -> dict[str, int]:
    """What the settings come to, for each path."""
    scenario = resolved.scenario
    guests = scenario.l1.count * scenario.guest.per_l1
    pages = scenario.guest.image_pages + scenario.guest.touch_pages + scenario.guest.share_pages
    return {
        "hosts": scenario.l1.count,
        "secure_guests": guests,
        "secure_vcpus": guests * scenario.guest.vcpus,
        "pages_at_boot": guests * pages,
        "guest_exits": guests * scenario.run.exits.total(),
        "pages_swapped_out_and_in": guests * scenario.run.swap_pages,
        "page_changes": guests * scenario.run.page_changes,
        "resets": guests * scenario.run.resets,
        "host_reboots": scenario.run.reboots,
        "host_deaths": scenario.run.deaths,
    }


def _show(resolved: Resolved) -> None:
    from rich.table import Table
    from rich.text import Text

    from actors.scenario import shown
    from protocol.plan.scenario import leaves

    plan = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "value", "unit", "from"):
        plan.add_column(column, overflow="fold")
    for path, value, kind in leaves(resolved.scenario):
        if kind.kind == "thresholds":
            text = "\n".join(f"{each.what} {each.text()}" for each in value) or "none"
        elif isinstance(value, tuple):
            text = ", ".join(value)
        elif value is None:
            text = "none"
        else:
            text = f"{value:,}" if isinstance(value, int) and path != "seed" else shown(value).strip('"')
        origin = resolved.origins[path]
        style = "dim" if origin == "default" else ""
        plan.add_row(*(Text(cell, style=style) for cell in (path, text, kind.unit, origin)))
    sums = Table(box=None, pad_edge=False, show_header=False)
    sums.add_column(justify="left")
    sums.add_column(justify="right")
    for name, number in totals(resolved).items():
        sums.add_row(name.replace("_", " "), f"{number:,}")
    tell(Text(f"scenario {resolved.scenario.name}, from {resolved.source}", style="bold"))
    tell("", plan, "", Text("on each path", style="bold"), sums)


def settings(as_json: AsJson = False) -> None:
    """List every setting of a scenario: its default, what it means, what it accepts.

    In the environment a setting is NESTBED_ and its path in capitals, with _ for the dots.
    """
    from actors.scenario import shown, variable_of
    from protocol.plan.scenario import Scenario, leaves

    known = [
        {
            "setting": path,
            "meaning": kind.help or kind.kind,
            "allowed": kind.allowed(),
            "default": list(value) if isinstance(value, tuple) else value,
            "variable": variable_of(path) if kind.kind != "thresholds" else None,
        }
        for path, value, kind in leaves(Scenario())
    ]
    if as_json:
        tell_json(known)
        return
    from rich.text import Text

    for each in known:
        tell(Text(f"{each['setting']} = {shown(each['default'])}", style="bold"))
        tell(Text(f"    {each['meaning']}"), Text(f"    {each['allowed']}"))


def listed(as_json: AsJson = False) -> None:
    """List the scenarios that come with nestbed."""
    from actors.scenario import shipped

    found = shipped()
    if as_json:
        tell_json([{"name": name, "text": text} for name, text in found.items()])
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in found.items():
        table.add_row(Text(name, style="bold"), Text(text))
    tell(table)


def show(
    scenario: Annotated[
        str, typer.Argument(metavar="NAME", help="A scenario that comes with nestbed, or a file.")
    ],
) -> None:
    """Print a scenario's file, comments and all, to start one of your own from."""
    from actors.scenario import UnreadableScenario, text_of

    try:
        sys.stdout.write(text_of(scenario))
    except UnreadableScenario as error:
        end(exit_codes.USAGE, str(error))
