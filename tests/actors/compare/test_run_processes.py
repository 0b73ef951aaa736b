"""One scenario in 1, 2, 5 and 12 processes: packed messages, Unix sockets, TLS; equal counts."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from actors.compare.elsewhere import GuestHostsElsewhere
from actors.compare.progress import Progress
from actors.compare.run import run
from protocol.plan.scenario import ExitKind, Exits, Scenario

pytestmark = pytest.mark.slow

HOSTS = 11


def small(depth: int, transport: str) -> Scenario:
    """As many hosts as the largest run has nodes, each with one small guest."""
    base = Scenario(paths=("nested",), depth=depth, transport=transport)
    exits = Exits(*(ExitKind(1, each.answered_by) for _, each in base.run.exits.kinds()))
    return replace(
        base,
        l1=replace(base.l1, count=HOSTS if depth == 1 else 2),
        guest=replace(
            base.guest, per_l1=1, memory_mib=2, vcpus=1, image_pages=2, touch_pages=4, share_pages=2
        ),
        run=replace(base.run, exits=exits, swap_pages=2, page_changes=2),
    )


def counted(depth: int, processes: int, transport: str) -> bytes:
    """Everything that is compared, as bytes."""
    (result,) = run(small(depth, transport), Progress(), processes=processes).results
    kept: dict[str, Any] = {name: result[name] for name in ("counts", "phases", "tracking")}
    return json.dumps(kept, sort_keys=True).encode()


@cache
def in_one_process(depth: int) -> bytes:
    return counted(depth, 1, "memory")


@pytest.mark.parametrize(
    ("processes", "transport"),
    [(1, "packed"), (2, "unix"), (5, "unix"), (12, "unix"), (2, "tcp"), (5, "tcp"), (12, "tcp")],
)
def test_counts_are_equal_to_the_byte(processes: int, transport: str) -> None:
    assert counted(1, processes, transport) == in_one_process(1)


def test_so_they_are_where_a_hypervisor_lies_between() -> None:
    assert counted(2, 2, "tcp") == in_one_process(2)


def test_what_waited_in_every_process_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much that is depends on timing, so each process is made to say a number."""
    told = GuestHostsElsewhere.tally

    async def tally(stage: GuestHostsElsewhere) -> list[Any]:
        tallies = await told(stage)
        assert [each["contention"] for each in tallies] == [{}] * 2  # each says so itself
        for number, each in enumerate(tallies):
            each["contention"] = {"absorbed_busy": 10**number}
        return tallies

    monkeypatch.setattr(GuestHostsElsewhere, "tally", tally)
    (result,) = run(small(1, "unix"), Progress(), processes=3).results
    assert result["contention"] == {"absorbed_busy": 11}
