"""The shared machinery carries what the other architectures need: instructions, same frames, upcalls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_machines import NOT_YOURS, OK, TAKEN, Done, Exit, Tower, Upcall, tower

from protocol.calls import Donation
from protocol.crossing import inline
from protocol.effects import Fault, Step, run
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED

GUEST = 7


@pytest.fixture(params=[1, 2, 3], ids=lambda depth: f"depth{depth}")
def depth(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture(params=[False, True], ids=["inline", "parked"])
def toy(depth: int, request: pytest.FixtureRequest) -> Tower:
    return tower(depth, apart=request.param)


def do(toy: Tower, step: Step[Any]) -> Any:
    return inline(step, toy.below()) if toy.apart else run(step)


class Ram:
    """A place of the guest host's own for its bytes, that notes what becomes of it."""

    def __init__(self) -> None:
        self.done: list[tuple[str, list[int], list[int]]] = []

    def left(self, below: Any) -> None:
        self.done.append(("left", [], list(below)))

    def joined(self, frames: Any, below: Any) -> None:
        self.done.append(("joined", list(frames), list(below)))

    def hide(self, below: Any) -> None:
        self.done.append(("hide", [], list(below)))

    def show(self, frames: Any, below: Any) -> None:
        self.done.append(("show", list(frames), list(below)))


def test_frames_that_are_swapped_for_a_donation_leave_the_guest_hosts_ram_and_others_join_it(
    depth: int,
) -> None:
    host = tower(depth).levels[-1]
    ram, marks, frames = Ram(), np.zeros(host.attention.size, np.uint8), np.array([5, 6])
    host.live_in(ram, marks)
    lent = host.slots[frames].tolist()
    assert host.may_clear(5)
    host.take_away(frames, Donation.SWAPPED)
    assert not host.may_clear(5) and marks[5] == DONATED, "the mark stands where the guest host reads it"
    host.give_back(frames, Donation.SWAPPED)
    assert host.may_clear(5)
    assert ram.done == [("left", [], lent), ("joined", [5, 6], host.slots[frames].tolist())]
    assert host.read(5 << PAGE_SHIFT, 8) == bytes(8)
    host.scrub_and_return()
    assert ram.done[-1][0] == "left" and len(ram.done[-1][2]) == host.attention.size
    host.moved_out()
    host.mark(5, DONATED)
    assert not marks[5], "nobody reads marks there any more"


# -- an instruction that gives the very frame away -----------------------------------------------------------


def test_the_very_frame_is_given_at_every_level(toy: Tower) -> None:
    toy.top.write(5 << PAGE_SHIFT, b"stays where it is")
    assert do(toy, toy.top.rmpupdate(5, True)) == OK
    assert toy.machine.taken == {toy.machine_frame(5)}
    assert isinstance(toy.top.read(5 << PAGE_SHIFT, 4), Fault)
    assert isinstance(toy.top.write(5 << PAGE_SHIFT, b"!"), Fault)
    frame = 5
    for level in reversed(toy.levels):
        assert isinstance(level.peek(frame << PAGE_SHIFT, 4), Fault), "no level on the way reaches it"
        frame = level.frame_below(frame)
    assert do(toy, toy.top.rmpupdate(5, False)) == OK
    assert toy.machine.taken == set()
    assert toy.top.read(5 << PAGE_SHIFT, 17) == b"stays where it is"


def test_an_empty_access_touches_nothing_not_even_at_the_end_of_memory(toy: Tower) -> None:
    for address in (0, toy.top.size - 1, toy.top.size):
        assert toy.top.write(address, b"") is None
        assert toy.top.read(address, 0) == b""
    assert isinstance(toy.top.write(toy.top.size, b"!"), Fault)


def test_there_is_nothing_before_memory_either(toy: Tower) -> None:
    for answer in (toy.top.read(-1, 1), toy.top.write(-8, b"12345678")):
        assert isinstance(answer, Fault)
        assert answer.address < 0
    assert toy.top.read(0, 8) == bytes(8)


def test_frames_that_two_calls_name_are_claimed_by_one_of_them(depth: int) -> None:
    host = tower(depth, apart=False).levels[-1]
    assert host.claim([1, 2])
    assert not host.claim([2, 3])
    host.unclaim([1, 2])
    assert host.claim([2, 3]), "whoever had to go without has left no claim on 3"


def test_what_the_guest_hosts_own_table_forbids_is_not_issued(toy: Tower) -> None:
    do(toy, toy.top.rmpupdate(5, True))
    assert do(toy, toy.top.rmpupdate(5, True)) == TAKEN
    assert do(toy, toy.top.rmpupdate(6, False)) == TAKEN
    assert len(toy.machine.taken) == 1


def test_an_instruction_costs_as_many_exits_as_a_call(depth: int) -> None:
    toy = tower(depth)
    run(toy.top.rmpupdate(5, True))
    assert toy.ledger.flat()["exits"] == {1: 1, 2: 3, 3: 7}[depth]


# -- an upcall --------------------------------------------------------------------------------


def host(toy: Tower, pages: int) -> Step[bytes]:
    """A host that creates a guest and answers its upcalls by the call that they ask for and another entry."""
    assert (yield from toy.top.create(GUEST, pages)) == OK
    for page in range(pages):
        toy.top.write(20 + page << PAGE_SHIFT, f"page number {page} ..".encode())
    left: Exit = yield from toy.top.enter(GUEST, len(toy.levels) + 1)
    while isinstance(left, Upcall):
        assert left.what == "page_in"
        assert (yield from toy.top.page_in(GUEST, left.page, 20 + left.page)) == OK
        left = yield from toy.top.enter(GUEST, len(toy.levels) + 1)
    return left.data


def test_an_upcall_is_what_an_entry_returns_and_the_answer_is_another_entry(toy: Tower) -> None:
    assert do(toy, host(toy, 3)) == b"page number 0 ..page number 1 ..page number 2 .."


def test_a_call_may_end_in_an_upcall_too(toy: Tower) -> None:
    do(toy, host(toy, 2))
    left = do(toy, toy.top.terminate(GUEST))
    assert left == Upcall("page_out", 1), "it comes up as the return value of the call"
    while isinstance(left, Upcall):
        assert do(toy, toy.top.page_out(GUEST, left.page, 30 + left.page)) == OK
        left = do(toy, toy.top.terminate(GUEST))
    assert left == Done(b"")
    assert not toy.machine.guests
    assert toy.top.read(31 << PAGE_SHIFT, 13) == b"page number 1"


def test_a_page_in_is_two_round_trips_between_l0_and_l1() -> None:
    """L0 hands the upcall up and gets a call; it hands the answer up and gets an entry."""
    toy = tower(1)
    run(toy.top.create(GUEST, 1))
    toy.ledger.reset()
    assert run(toy.top.enter(GUEST, 2)) == Upcall("page_in", 0)
    assert run(toy.top.page_in(GUEST, 0, 20)) == OK
    assert isinstance(run(toy.top.enter(GUEST, 2)), Done)
    flat = toy.ledger.flat()
    upcall_and_answer = flat["exits.2.page_in.kernel"] + flat["exits.1.call.kernel"]
    assert upcall_and_answer == 2
    assert flat["exits.1.enter.kernel"] == 2, "the first entry, and the one that goes on"
    assert flat["reflections.0.1"] == 2, "the upcall, and the end"


def test_a_foreign_guest_is_none() -> None:
    one = tower(1)
    run(one.top.create(GUEST, 1))
    assert run(one.top.page_in(GUEST + 1, 0, 20)) == NOT_YOURS


def test_nothing_is_asked_upwards(toy: Tower) -> None:
    """A level below never yields towards a level above: all its effects are answered below or not at all."""
    step = toy.top.rmpupdate(5, True)
    if toy.apart:
        assert do(toy, step) == OK
    else:
        with pytest.raises(StopIteration):
            next(step)
