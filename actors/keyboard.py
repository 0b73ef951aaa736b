"""Who sits at a keyboard, and one line that is typed there: a request in, its answer out.

What the requests mean is the architecture's keyboard, pure and elsewhere. Here is how one is made out of
options, and what a line of JSON has to be. Starts quickly: no Trio, no Typer, no Pydantic.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import NoReturn, Protocol

HOSTS = 64
DEPTH = 3
MEMORY_MIB = 65536
CPUS = 64
NESTING = (
    256  # of a request; an answer and a transcript put it a little deeper, and JSON has its limit there, too
)

Json = dict[str, object]


class Keyboard(Protocol):
    """What an architecture offers: one request, already parsed, in; one answer out."""

    def answer(self, request: Json) -> Json: ...


@dataclass(frozen=True, slots=True)
class Options:
    """Which host sits at the keyboard. None: what the profile says."""

    arch: str
    depth: int = 0
    hosts: int = 1
    memory_mib: int | None = None
    cpus: int | None = None
    profile: str = "small"
    seed: int = 0
    shares: int = 1  # each host has what so many of the profile have together
    strategy: tuple[tuple[str, str], ...] = ()  # words of a scenario, for the levels below the hosts


class WrongOptions(Exception):
    """Options that name nothing, or no such machine; the message says what is allowed."""


def keyboard(options: Options, explain: bool = False) -> Keyboard:
    """The keyboard of a fresh machine; with `explain` it says who refused a call. Raises WrongOptions."""
    from protocol.arch import kinds, load

    _within("--depth", options.depth, 0, DEPTH)
    _within("--hosts", options.hosts, 1, HOSTS)
    if options.memory_mib is not None:
        _within("--memory", options.memory_mib, 1, MEMORY_MIB)
    if options.cpus is not None:
        _within("--cpus", options.cpus, 1, CPUS)
    _within("--seed", options.seed, 0, 2**63 - 1)
    names = kinds()
    if options.arch not in names:
        raise WrongOptions(f"--arch {options.arch}: no such architecture; allowed: {', '.join(names)}")
    architecture = load(options.arch)
    if options.profile not in architecture.profiles:
        allowed = ", ".join(architecture.profiles)
        why = getattr(architecture, "refused_profiles", {}).get(options.profile, "no such profile")
        raise WrongOptions(f"--profile {options.profile}: {why}; allowed: {allowed}")
    try:
        made: Keyboard = architecture.keyboard(
            depth=options.depth,
            hosts=options.hosts,
            memory_mib=options.memory_mib,
            cpus=options.cpus,
            profile=options.profile,
            seed=options.seed,
            shares=options.shares,
            strategy=dict(options.strategy),
        )
    except ValueError as error:
        raise WrongOptions(str(error)) from error
    return _explaining(architecture, made) if explain else made


def _explaining(architecture: object, made: Keyboard) -> Keyboard:
    """The same keyboard, wrapped by the architecture: what is not asked for costs nothing."""
    from protocol.arch import architectures, load

    explaining = getattr(architecture, "explaining", None)
    if explaining is None:
        able = [name for name in architectures() if hasattr(load(name), "explaining")]
        raise WrongOptions(
            f"--explain: this architecture cannot say where an answer comes from; allowed: {', '.join(able)}"
        )
    watched: Keyboard = explaining(made)
    return watched


def _within(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise WrongOptions(f"{option} {value}: allowed: {low} to {high}")


def answer_line(keys: Keyboard, line: bytes) -> tuple[Json | None, Json]:
    """The request that `line` is, None if it is none, and its answer."""
    try:
        request = _DECODER.decode(line.decode())
    except RecursionError:
        return None, error_answer("bad_json", "nested too deeply")
    except ValueError as error:  # not JSON, not UTF-8, or a number that no machine has
        return None, error_answer("bad_json", str(error))
    if line.count(b"[") + line.count(b"{") > NESTING and nesting(request) > NESTING:
        return None, error_answer("bad_json", f"nested more than {NESTING} deep")
    if not isinstance(request, dict):
        return None, error_answer("bad_request", "a request is a JSON object")
    return request, keys.answer(request)


def error_answer(code: str, message: str) -> Json:
    """The answer to a line that has no id."""
    return {"id": None, "error": {"code": code, "message": message}}


def nesting(value: object) -> int:
    """How many lists and objects stand inside each other, at most."""
    deep, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        deep += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return deep


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
