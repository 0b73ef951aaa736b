"""A deployment file: what is to run, in which processes; every mistake in it at once.

The sizes of hosts and guests are those of a scenario, shipped or a file beside this one; `set` overrides its
settings by name. What a deployment adds: how many machines, how they are put into processes, when a process
that ended is started again, how long a silent one is believed, what the load does.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from actors.given import BadDocument, from_toml
from actors.scenario import BrokenScenario, Known, Resolved, UnreadableScenario, known_architectures
from actors.scenario import load as load_scenario
from protocol.fleet.subjects import RESERVED, is_token
from protocol.plan.fit import Mistake

DEPLOYMENT_BYTES = 1 << 16
MACHINES = 64
TENANTS = 16
_NAME = r"^[a-z0-9][a-z0-9-]{0,31}$"


def _tenant(name: str) -> str:
    if name in RESERVED or not is_token(name):
        raise ValueError(f"{name!r}: 1 to 32 of a-z, 0-9 and -, and none of {', '.join(RESERVED)}")
    return name


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RestartSettings(_Table):
    """How often parts may be started again before the whole deployment is given up."""

    intensity: int = Field(default=10, ge=0, le=1000, description="restarts")
    period_s: int = Field(default=60, ge=1, le=3600, description="within so many seconds")


class LeaseSettings(_Table):
    """How long a part that says nothing is believed to live."""

    length_ms: int = Field(
        default=15_000, ge=200, le=600_000, description="a part silent for longer is fenced"
    )


class LoadSettings(_Table):
    """What the load does. Each host gets one round after another."""

    paths: tuple[Literal["nested", "hosted"], ...] = Field(
        default=("nested", "hosted"), strict=False, description="ways that it drives"
    )
    rounds: int = Field(
        default=0, ge=0, le=1_000_000_000, description="lives of all guests; 0: until the end"
    )
    pause_ms: int = Field(default=0, ge=0, le=60_000, description="between two operations of a host")


class Deployment(_Table):
    """Everything that a deployment file says."""

    name: str = Field(default="lab", pattern=_NAME, description="what it is called")
    arch: str = Field(default="s390", description="architecture of its machines")
    scenario: str = Field(default="default", description="shipped scenario or file that gives the sizes")
    seed: int = Field(default=1, ge=0, le=(1 << 63) - 1 - MACHINES, description="of everything that is drawn")
    machines: int = Field(default=1, ge=1, le=MACHINES, description="L0s")
    placement: Literal["together", "apart"] = Field(
        default="apart", description="together: a process for each machine; apart: and one for each L1"
    )
    restart: RestartSettings = RestartSettings()
    lease: LeaseSettings = LeaseSettings()
    load: LoadSettings | None = LoadSettings()
    tenants: tuple[Annotated[str, AfterValidator(_tenant)], ...] = Field(
        default=(), strict=False, max_length=TENANTS, description="who may ask each machine for hosted guests"
    )
    set: dict[str, str] = Field(default_factory=dict, description="settings of the scenario, by name")


def read_deployment(path: Path) -> tuple[Deployment, Resolved]:
    """The deployment of a file, and the scenario that gives its sizes.

    Raises UnreadableScenario for a file that is none, BrokenScenario with every mistake in it.
    """
    tree = _tree(path)
    _texts(tree)
    deployment, mistakes = _accepted(tree)
    if deployment is None:
        raise BrokenScenario(str(path), mistakes)
    return deployment, scenario_of(deployment, path.parent)


@cache
def _known() -> Known:
    """The same for every process that is forked after it was asked for once."""
    return known_architectures()


def scenario_of(deployment: Deployment, folder: Path = Path()) -> Resolved:
    """The scenario that gives the sizes. Raises BrokenScenario."""
    name = deployment.scenario
    beside = folder / name
    flags = {"arch": deployment.arch, "seed": str(deployment.seed), **deployment.set}
    found = str(beside) if beside.is_file() else name
    resolved = load_scenario(found, flags=flags, environment={}, known=_known())
    if resolved.scenario.depth != 1 and deployment.load and "hosted" in deployment.load.paths:
        raise BrokenScenario(
            name,
            [
                Mistake(
                    "load.paths", list(deployment.load.paths), "nested",
                    "a host above level 1 asks its own hypervisor, which serves no hosting interface",
                )
            ],
        )  # fmt: skip
    return resolved


def _tree(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(DEPLOYMENT_BYTES + 1)
        if len(data) > DEPLOYMENT_BYTES:
            raise UnreadableScenario(
                f"{path}: larger than {DEPLOYMENT_BYTES} bytes; a deployment is a small file"
            )
        return from_toml(data.decode())
    except OSError as error:
        raise UnreadableScenario(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UnreadableScenario(f"{path}: not UTF-8 text (byte {error.start})") from None
    except BadDocument as error:
        raise UnreadableScenario(f"{path}: {error}") from None


def _texts(tree: dict[str, Any]) -> None:
    """`"guest.vcpus" = 4` may be written as a number, and `load = false` is no load."""
    given = tree.get("set")
    if isinstance(given, dict):
        tree["set"] = {
            name: str(value) if type(value) in (int, str) else value for name, value in given.items()
        }
    if tree.get("load") is False:
        tree["load"] = None


def _accepted(tree: dict[str, Any]) -> tuple[Deployment | None, list[Mistake]]:
    try:
        return Deployment.model_validate(tree), []
    except ValidationError as error:
        return None, [_mistake(dict(each)) for each in error.errors(include_url=False)]


def _mistake(error: dict[str, Any]) -> Mistake:
    """One of pydantic's findings in the words of this program."""
    names = [str(part) for part in error["loc"] if not isinstance(part, int)]
    names = [name for name in names if name != "LoadSettings"]
    table: Any = Deployment
    for name in names[:-1]:
        inner = table.model_fields.get(name)
        table = {"restart": RestartSettings, "lease": LeaseSettings, "load": LoadSettings}.get(name, table)
        if inner is None:
            break
    path, last = ".".join(names), names[-1] if names else ""
    known = list(table.model_fields)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(last, known, 1)
        hint = f"did you mean {near[0]}?" if near else "no such setting"
        return Mistake(path, error["input"], ", ".join(known), hint)
    field = table.model_fields.get(last)
    allowed = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return Mistake(path, error["input"], allowed, "" if field is None else field.description or "")
