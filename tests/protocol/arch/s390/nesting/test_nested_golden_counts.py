"""What one operation costs on real levels, beside numbers that were worked out by hand.

An exit is an arrival at L0. A level that emulates traps for two things only: to issue the call below, and to
enter its guest again.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nested_host import Guest, NestedHost

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import Diag
from protocol.arch.s390.profiles import PROFILES
from protocol.effects import run

Exits = dict[tuple[str, str], int]


class Counted:
    """A host at a depth with a guest that runs, and what of the ledger was counted since."""

    def __init__(self, depth: int) -> None:
        self.rig = compose(PROFILES["small"], depth)
        self.host = NestedHost(self.rig)
        run(self.host.init())
        self.guest: Guest = run(self.host.boot())

    def exits(self, operation: Callable[[], object]) -> Exits:
        """By (level, reason), whoever answers them."""
        before = self.rig.ledger.counts()
        operation()
        after = self.rig.ledger.counts()
        found: Exits = {}
        for key, n in after.items():
            if key[0] == "exits" and (new := n - before.get(key, 0)):
                found[key[1], key[2]] = found.get((key[1], key[2]), 0) + new
        return found

    def destroy_nothing(self) -> None:
        """A call with all of its checks that changes nothing: the host's own page is destroyed."""
        assert run(self.host.page_call(0x0202, self.host.some_frame() << 12)).rc == 1

    def enter(self) -> None:
        """Enter the guest; it executes one diagnose and is back."""
        run(self.host.enter(self.guest, Diag(0x500, 0, 0)))


@pytest.mark.parametrize(
    ("depth", "exits"),
    [
        (0, {}),
        (1, {("1", "uvc"): 1}),
        (2, {("2", "uvc"): 1, ("1", "uvc"): 1, ("1", "sie"): 1}),
        (3, {("3", "uvc"): 1, ("2", "uvc"): 1, ("1", "uvc"): 1, ("2", "sie"): 1, ("1", "sie"): 3}),
    ],
)
def test_a_call_costs_one_three_and_seven_exits(depth: int, exits: Exits) -> None:
    counted = Counted(depth)
    assert counted.exits(counted.destroy_nothing) == exits
    assert sum(exits.values()) == {0: 0, 1: 1, 2: 3, 3: 7}[depth]


# The entry: 1, 2, 4. The guest's own exit, at L0 at once: 1. It belongs to L(depth), so on the way up each
# level but the last enters the next one: none for L1, one by L1 for L2; for L3 one by L1 and one by L2, which
# is L1's, who enters again for it.
@pytest.mark.parametrize(
    ("depth", "exits"),
    [
        (0, {("1", "icpt_68"): 1}),
        (1, {("1", "sie"): 1, ("2", "icpt_68"): 1}),
        (2, {("2", "sie"): 1, ("1", "sie"): 1 + 1, ("3", "icpt_68"): 1}),
        (3, {("3", "sie"): 1, ("2", "sie"): 1 + 1, ("1", "sie"): 2 + 2, ("4", "icpt_68"): 1}),
    ],
)
def test_a_round_trip_costs_two_four_and_eight_exits(depth: int, exits: Exits) -> None:
    counted = Counted(depth)
    counted.enter()  # what the first entry fills is not what is looked at
    assert counted.exits(counted.enter) == exits
    assert sum(exits.values()) == 2**depth


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_exit_ends_in_an_entry(depth: int) -> None:
    counted = Counted(depth)
    flat = counted.rig.ledger.flat()
    assert flat["entries"] == flat["exits"] > 0
