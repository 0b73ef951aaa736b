"""A guest host moves: legacy SEV guests with their memory, all others cold; what cannot be taken in stays."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.arch import kinds, load
from protocol.arch.sev.comparison import COMPARISONS
from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.host.kinds import KINDS
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import PAGE
from protocol.effects import run
from protocol.errors import OperationFailed
from protocol.fleet.moving import RESTART, SEND, SOURCE, TARGET, Boot, Do, Mark, Moved, There, moved, way_of
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

IMAGE = derive(1, "guest image", 3 * PAGE)
BEHIND = FIRST_PAGES + 3
SAID = b"what the guest knew, and no host"


class Side:
    """One emulated machine with a guest host at depth 1."""

    def __init__(self, seed: int, kind: str) -> None:
        profile = PROFILES["small"].of_kind(kind)
        self.kind = kind
        self.rig: Rig = compose(profile, 1, 1, memory_bytes=32 * MIB, cpus=2, seed=seed)
        self.boot()

    def boot(self) -> None:
        seat = self.rig.seats[0]
        self.host = Host(seat.level, seat.cpus, Random(0), depth=1, image=IMAGE, kind=KINDS[self.kind])

    def do(self, *operations: op.Operation) -> None:
        for operation in operations:
            run(self.host.perform(operation))


def with_guests(kind: str, count: int = 2) -> dict[str, Side]:
    sides = {SOURCE: Side(1, kind), TARGET: Side(2, kind)}
    sides[SOURCE].do(op.BootHost())
    for number in range(count):
        sides[SOURCE].do(
            op.Create(number, 1, 1),
            op.Load(number),
            op.Start(number),
            op.Touch(number, 0, op.Pages(BEHIND, 4, 4)),
            op.Write(number, 0, BEHIND + 1, SAID, at=16),
        )
    return sides


def driven(sides: dict[str, Side], way: str, fails: type | None = None) -> tuple[Moved, list[Any]]:
    """Have it done; operations of the class `fails` are refused at the target. Returns the marks as well."""
    steps, found, marks = moved(sorted(sides[SOURCE].host.guests), way, 1, 1), None, []
    while True:
        try:
            act = steps.send(found)
        except StopIteration as end:
            return end.value, marks
        found = None
        match act:
            case Do(side, operation):
                if side == TARGET and fails is not None and isinstance(operation, fails):
                    found = OperationFailed("no")
                    continue
                try:
                    found = run(sides[side].host.perform(operation))
                except OperationFailed as failed:
                    found = failed
            case Boot(side):
                sides[side].boot()
            case There(side, guest):
                found = guest in sides[side].host.guests
            case Mark():
                marks.append(act)


@pytest.mark.parametrize(("kind", "way", "knows"), [("sev", SEND, True), ("sev-es", RESTART, False)])
def test_a_host_moves_and_its_guests_come_after(kind: str, way: str, knows: bool) -> None:
    sides = with_guests(kind)
    assert way_of(COMPARISONS[kind])[0] == way
    result, marks = driven(sides, way)
    assert (list(result.arrived), list(result.stayed), result.trouble) == ([0, 1], [], "")
    assert marks == [Mark(0, False), Mark(0, True), Mark(1, False), Mark(1, True)]
    assert not any(sides[SOURCE].rig.remains().values()), "nothing is left where it was"
    target = sides[TARGET]
    target.do(op.Touch(1, 0, op.Pages(BEHIND, 4, 4)), op.Read(1, 0, BEHIND + 1, len(SAID), 16))
    assert (target.host.heard == SAID) == knows
    assert all(size > 4 * PAGE for size in result.sent.values())
    assert sorted(result.sent) == ([0, 1] if way == SEND else [])


@pytest.mark.parametrize(("kind", "way", "fails"), [("sev", SEND, op.Carry), ("sev", RESTART, op.Load)])
def test_a_guest_that_is_not_taken_in_starts_again_where_it_was(kind: str, way: str, fails: type) -> None:
    sides = with_guests(kind)
    result, marks = driven(sides, way, fails)
    assert (list(result.arrived), list(result.stayed)) == ([], [0, 1])
    assert result.trouble == "guest 0: no"
    assert marks == [Mark(0, False), Mark(0, True)]
    assert sorted(sides[SOURCE].host.guests) == [0, 1]
    assert not sides[TARGET].host.guests
    sides[SOURCE].do(op.Exits(0, 0, "wait", "kernel", 1), op.Read(1, 0, BEHIND + 1, len(SAID), 16))
    assert sides[SOURCE].host.heard == SAID, "the other one noticed nothing"


def test_each_architecture_has_a_way_and_a_reason() -> None:
    for arch in kinds():
        way, why = way_of(load(arch).comparison)
        assert way == (SEND if arch == "sev" else RESTART)
        assert "nothing is known" not in why
