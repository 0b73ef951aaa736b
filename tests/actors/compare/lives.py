"""Small comparisons of two hosts to which everything happens, and what is asked of them. A plain module."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from actors.compare.outcome import Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.costs import load as load_costs
from protocol.plan.scenario import ExitKind, Exits, Scenario

Json = dict[str, Any]
EXITS = Exits(ExitKind(3, "kernel"), ExitKind(2, "vmm"), ExitKind(2, "vmm"), ExitKind(2, "kernel"))


def outcome(scenario: Scenario, **how: Any) -> Outcome:
    """What `run` finds; it looks itself whether anything is left."""
    found = run(scenario, Progress(), costs=load_costs(None), **how)
    assert not found.stopped
    return found


def by_path(told: Outcome) -> dict[str, Json]:
    return {result["path"]: result for result in told.results}


def issued(result: Json, phase: str, but: Collection[str] = ()) -> dict[str, int]:
    """Calls at the real Trusted Entity in one phase, by their name, `but` for some."""
    found: dict[str, int] = {}
    for key, number in (result["phases"].get(phase) or {}).items():
        family, _, labels = key.partition(".")
        name = labels.split(".")[0]
        if family == "te_issued" and name and name not in but:
            found[name] = found.get(name, 0) + number
    return found
