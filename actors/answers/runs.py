"""Runs behind the answers: a scenario with settings, run once however many pages ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from actors.compare.answer import duration
from actors.compare.outcome import Json, Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.costs import shipped
from actors.scenario import BrokenScenario, load
from protocol.arch import kinds
from protocol.arch import load as load_architecture
from protocol.cost.formulas import Formulas, groups
from protocol.cost.table import Costs
from protocol.feasibility import Feasibility, Fence

LIFE = ("create", "load", "boot", "run", "page_change", "destroy")  # what every architecture has
SPAN = ("ns", "low_ns", "high_ns")  # a time at the values, at the lower, at the upper bounds
ORDER = ("s390", "snp", "tdx", "pef")  # as the talk names them


def arches() -> list[str]:
    """Architectures in the order of the talk; others behind."""
    return [name for name in ORDER if name in kinds()]


@cache
def costs() -> Costs:
    """The table that comes with nestbed: answers do not depend on anybody's overlay."""
    return shipped()


def formulas(arch: str, which: str = "value") -> Formulas:
    """The formulas of an architecture, with costs at their `value`, or all at `low` or at `high`."""
    group = groups().get(arch, arch)
    table = costs()
    return Formulas(
        table,
        group,
        lambda name: getattr(table.of(group, name), which),
        lambda name: getattr(table.factor(group, name), which),
    )


def outcome(scenario: str, **settings: str) -> Outcome:
    """Run a scenario with other settings; `l1__count` is l1.count. Raises BrokenScenario."""
    return _outcome(scenario, tuple(sorted(settings.items())))


@cache
def _outcome(scenario: str, settings: tuple[tuple[str, str], ...]) -> Outcome:
    flags = {name.replace("__", "."): text for name, text in settings}
    return run(load(scenario, flags=flags).scenario, Progress(), costs=costs())


def refused(scenario: str, **settings: str) -> str:
    """Why a scenario with these settings cannot be; nothing if it can."""
    flags = {name.replace("__", "."): text for name, text in settings.items()}
    try:
        load(scenario, flags=flags)
    except BrokenScenario as error:
        return next((mistake.hint for mistake in error.mistakes if mistake.hint), error.mistakes[0].allowed)
    return ""


def result(outcome: Outcome, arch: str, path: str) -> Json:
    return next(each for each in outcome.results if (each["arch"], each["path"]) == (arch, path))


def counted(result: Json, family: str, phases: Iterable[str] | None = None) -> int:
    """A count over phases; over the whole run if none are named."""
    if phases is None:
        return int(result["counts"].get(family, 0))
    return sum((result["phases"].get(phase) or {}).get(family, 0) for phase in phases)


def modelled(result: Json, phases: Iterable[str]) -> Mapping[str, int]:
    """Modelled nanoseconds over phases: at the values, at the lower, at the upper bounds."""
    spans = [result["modelled"]["phases"].get(phase) or {} for phase in phases]
    return {name: sum(span.get(name, 0) for span in spans) for name in SPAN}


def fences(arch: str) -> Sequence[Fence]:
    """What a guest host of an architecture is not offered."""
    feasibility: Feasibility | None = getattr(load_architecture(arch), "feasibility", None)
    return () if feasibility is None else feasibility.fences


# -- how numbers are written -------------------------------


def times(value: float, base: float) -> str:
    return f"{value / base:.1f}x" if base else "-"


def spanned(span: Mapping[str, Any]) -> str:
    """A time with its range."""
    return f"{duration(span['ns'])} ({duration(span['low_ns'])} to {duration(span['high_ns'])})"


def added(spans: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Times with their ranges, one after the other."""
    listed = list(spans)
    return {name: sum(span[name] for span in listed) for name in SPAN}


def ranged(values: Iterable[float], unit: str = "") -> str:
    """A value with the range between its bounds, as a formula gave them."""
    value, *bounds = values
    return f"{value:.3g}{unit} ({min(bounds):.3g} to {max(bounds):.3g})"
