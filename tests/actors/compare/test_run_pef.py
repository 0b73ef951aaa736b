"""A whole comparison on POWER: counts do not depend on where hosts live, nor on how their messages travel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lives
from lives import EXITS

from actors.compare.outcome import Outcome
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario, Strategy

pytestmark = pytest.mark.slow

GUESTS = 4  # of two hosts
Json = dict[str, Any]
HANDLES = pytest.mark.parametrize("handles", ["passed", "mapped"])
DEPTHS = pytest.mark.parametrize("depth", [1, 2])


def small(**changes: Any) -> Scenario:
    """Two hosts with two guests each, and everything happens to them."""
    base = Scenario(
        name="small",
        arch=("pef",),
        l1=GuestHosts(count=2, memory_mib=64, cpus=2),
        guest=Guests(
            per_l1=GUESTS // 2, memory_mib=1, vcpus=2, image_pages=16, touch_pages=32, share_pages=16
        ),
        run=Run(exits=EXITS, swap_pages=3, page_changes=4, resets=2, reboots=1, deaths=1),
    )
    return replace(base, **changes)


def outcome(processes: int = 1, **changes: Any) -> Outcome:
    return lives.outcome(small(**changes), processes=processes)


def counted(found: Outcome) -> list[tuple[Any, ...]]:
    """Everything that must not depend on where hosts live."""
    return [(result["path"], result["phases"], result["tracking"]) for result in found.results]


@HANDLES
@DEPTHS
def test_packed_messages_count_the_same(depth: int, handles: str) -> None:
    """Every message as bytes: a guest's program is a copy below, whose state the host's own takes over."""
    one, packed = (
        outcome(depth=depth, strategy=Strategy(handles=handles), transport=transport)
        for transport in ("memory", "packed")
    )
    assert counted(packed) == counted(one)


@HANDLES
@DEPTHS
def test_hosts_in_processes_of_their_own_count_the_same(depth: int, handles: str) -> None:
    changes: Json = {"depth": depth, "strategy": Strategy(handles=handles), "paths": ("nested",)}
    assert counted(outcome(processes=3, **changes)) == counted(outcome(**changes))


@HANDLES
@DEPTHS
def test_nested_and_hosted_guests_live_side_by_side_on_one_l0(depth: int, handles: str) -> None:
    """Half of the SVMs are L0's own, under LPIDs of its own; nothing of either is left."""
    (mixed,) = outcome(depth=depth, strategy=Strategy(handles=handles), paths=("mixed",)).results
    made = {
        key: n
        for key, n in mixed["phases"]["load"].items()
        if key.startswith("te_calls.UV_REGISTER_MEM_SLOT.")
    }
    treated = "passed" if handles == "passed" else "modified"
    assert sum(n for key, n in made.items() if ".own." in key) == GUESTS // 2
    assert sum(n for key, n in made.items() if f".{treated}." in key) == GUESTS // 2 * depth
    assert mixed["phases"]["load"]["te_issued.UV_REGISTER_MEM_SLOT.0"] == GUESTS // 2
