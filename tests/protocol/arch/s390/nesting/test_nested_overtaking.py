"""Two things at once about one guest: their messages overtake each other, and the books of all levels agree.

Two CPUs of a guest host call, or one calls and the level below it moves a frame. Whatever comes first, each
is done or refused, and nothing of either is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from nested_host import IMAGE_AT, Guest, NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import Read, Touch, Uvc
from protocol.arch.s390.instructions import KICKED, PREFIX
from protocol.arch.s390.nesting import Nested, Strategy, memory
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import (
    DUMP_STORAGE,
    EXECUTED,
    NOT_NOW,
    SET_STATE,
    SHARE,
    Outcome,
    SieExit,
    block,
)
from protocol.crossing import Crossing, Thread, inline
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import CLAIMED

AWAY, SHARED, FRESH = 8, 9, 20
HERE = IMAGE_AT >> PAGE_SHIFT
PIN, UNPIN, EXPORT, DESTROY = 0x0341, 0x0342, 0x0201, 0x0202
UNSHARE_ALL, DESTROY_CONFIG, DESTROY_CPU = 0x0340, 0x0101, 0x0121


class Meeting:
    """A guest host of two CPUs with a guest: a page that is away, one that is shared, one that is neither."""

    def __init__(self, seed: int, cpus: int = 2, **words: str) -> None:
        self.rig = compose(PROFILES["small"], 1, cpus=cpus, apart=True, strategy=Strategy(**words))
        self.host = NestedHost(self.rig)
        self.below = self.rig.below(0)
        level = self.host.seat.level
        assert isinstance(level, Nested)
        self.level = level
        inline(self.host.init(), self.below)
        self.guest: Guest = inline(self.host.boot(vcpus=1), self.below)
        for page in (AWAY, SHARED):
            self.host.map(self.guest, page)
            assert inline(self.host.convert(self.guest, page), self.below).rc == EXECUTED
        self.host.map(self.guest, FRESH)
        uvcb = bytes(block(0x30, 0x1000, SHARE, SHARED << PAGE_SHIFT))
        steps = Touch(SHARED << PAGE_SHIFT, True, uvcb), Uvc(SHARED << PAGE_SHIFT)
        inline(self.host.enter(self.guest, *steps), self.below)
        assert inline(memory.swap(self.level, self.guest.pages[AWAY]), self.below[1:])
        assert self.guest.pages[AWAY] in self.level.away
        self.crossing = Crossing(Random(seed))

    def paddr(self, page: int) -> int:
        return self.guest.pages[page] << PAGE_SHIFT

    def step(self, what: str, cpu: int) -> Step[Any]:
        """What CPU `cpu` does, or the level below it."""
        host, guest = self.host, self.guest
        name, _, page = what.partition(" ")
        at = {"away": AWAY, "shared": SHARED, "fresh": FRESH, "here": HERE}.get(page, 0)
        steps: dict[str, Callable[[], Step[Any]]] = {
            "swap": lambda: memory.swap(self.level, guest.pages[at]),
            "import": lambda: host.convert(guest, at, cpu),
            "unpin": lambda: host.unpin(guest, at, cpu),
            "export": lambda: host.page_call(EXPORT, self.paddr(at), cpu),
            "destroy": lambda: host.page_call(DESTROY, self.paddr(at), cpu),
            "pin": lambda: host.page_call(PIN, self.paddr(at), cpu),
            "unshare-all": lambda: host.handle_call(UNSHARE_ALL, guest.handle, cpu),
            "end": lambda: self._end(cpu),
            "enter": lambda: host.enter(guest, Touch(at << PAGE_SHIFT, True, b"x"), cpu=cpu),
        }
        return steps[name]()

    def _end(self, cpu: int) -> Step[Outcome]:
        yield from self.host.handle_call(DESTROY_CPU, self.guest.vcpus[0].handle, cpu)
        return (yield from self.host.handle_call(DESTROY_CONFIG, self.guest.handle, cpu))

    def meet(self, first: str, second: str, hops: int) -> list[Any]:
        """The first one is `hops` messages ahead of the second."""
        threads = []
        for cpu, what in enumerate((first, second)):
            below = self.below[1:] if what.startswith("swap") else self.below
            threads.append(self.crossing.start(what, self.step(what, cpu), below))
            self.crossing.run(lambda: self.crossing.hops >= hops)
        self.crossing.run()
        assert [thread.error for thread in threads] == [None, None]
        check(self.rig)
        return [thread.value for thread in threads]

    def under_way(self, step: Step[Any], until: Callable[[], bool], below: int = 0) -> Thread:
        """A step whose message is with the level below, as `until` shows."""
        thread = Thread("under way", step, self.below[below:])
        while not until():
            assert not thread.done
            thread.hop()
        return thread

    def claimed(self, page: int) -> Callable[[], bool]:
        """A call about the frame of this page is under way."""
        return lambda: bool(self.level.attention_of(self.guest.pages[page]) & CLAIMED)

    def held(self, guest: Guest, page: int) -> Callable[[], bool]:
        space = self.level.configs[guest.handle].space
        return lambda: space.first + page in space.held

    def now(self, step: Step[Any]) -> Any:
        """A step whose messages overtake all others."""
        return inline(step, self.below)

    def end(self, thread: Thread) -> Any:
        """The answer of the step that was under way."""
        while not thread.done:
            thread.hop()
        assert thread.error is None
        check(self.rig)
        return thread.value

    def go_on(self) -> None:
        """Whatever has met: the guest, if it is still there, gets at each of its pages; all can be ended."""
        for page in (AWAY, SHARED, HERE, FRESH) if self.guest.handle in self.level.configs else ():
            for _ in range(3):
                left = inline(self.host.enter(self.guest, Read(page << PAGE_SHIFT, 4)), self.below)
                if not isinstance(left, Fault):
                    break
                inline(self.host.convert(self.guest, page), self.below)
            assert isinstance(left, Fault | SieExit)
            self.guest.vcpus[0].program.steps.clear()
            check(self.rig)
        inline(self.level.death(), self.below[1:])
        assert not self.rig.machines[0].configs
        assert self.rig.chain[0].pool.free == self.rig.machines[0].base.start - 256


FIRST = ["swap here", "import away", "enter away", "unshare-all", "end"]
SECOND = [
    *("import away", "import fresh", "export here", "export away", "destroy away", "destroy here"),
    *("pin shared", "pin away", "unpin shared", "unshare-all", "end"),
    *("enter here", "enter away", "enter fresh", "swap shared", "swap away"),
]


@pytest.mark.parametrize("pages", ["two_fault", pytest.param("merged_l0", marks=pytest.mark.slow)])
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("hops", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_whatever_meets_whatever_nothing_is_lost(hops: int, first: str, second: str, pages: str) -> None:
    meeting = Meeting(hops, pages=pages)
    meeting.meet(first, second, hops)
    meeting.go_on()


# -- one message is with the level below, and another step comes before its answer -----------------------

STOPPED, VALIDITY, WAIT, NO_ACCESS, NO_DUMP = 2, 0x20, 0x1C, 0x0102, 0x0104


def test_a_page_whose_export_is_under_way_is_not_imported() -> None:
    meeting = Meeting(0)
    exporting = meeting.under_way(meeting.step("export away", 0), meeting.claimed(AWAY))
    assert meeting.now(meeting.step("import away", 1)) == NOT_NOW
    assert meeting.end(exporting).rc == EXECUTED
    assert not meeting.host.is_secure(meeting.paddr(AWAY)), "it is the host's to read"
    assert meeting.now(meeting.step("import away", 1)).rc == EXECUTED
    meeting.go_on()


def test_a_frame_whose_export_is_under_way_is_not_imported_as_another_page() -> None:
    meeting = Meeting(0)
    meeting.guest.table.map(0x30, meeting.guest.pages[AWAY])
    exporting = meeting.under_way(meeting.step("export away", 0), meeting.claimed(AWAY))
    assert meeting.now(meeting.host.convert(meeting.guest, 0x30, 1)) == NOT_NOW
    assert meeting.end(exporting).rc == EXECUTED
    meeting.go_on()


def test_a_page_is_not_unpinned_while_the_level_below_asks_whether_it_is_shared() -> None:
    """The pin would be the level's own, and not the one that this host has."""
    meeting = Meeting(0)
    assert meeting.now(meeting.step("pin shared", 0)).rc == EXECUTED
    frame = meeting.guest.pages[SHARED]
    meeting.now(meeting.step("unpin shared", 0))
    swap = memory.swap(meeting.level, frame)
    swapping = meeting.under_way(swap, meeting.held(meeting.guest, SHARED), 1)
    assert meeting.now(meeting.step("unpin shared", 1)) == NOT_NOW
    assert meeting.end(swapping) is False, "it is shared"
    meeting.go_on()


def test_a_page_comes_back_though_its_host_rewrites_the_table_meanwhile() -> None:
    meeting = Meeting(0)
    frame = meeting.guest.pages[AWAY]
    importing = meeting.under_way(meeting.step("import away", 0), meeting.claimed(AWAY))
    meeting.guest.table.unmap(AWAY)
    meeting.guest.table.map(AWAY, frame)
    assert meeting.end(importing).rc == 0x0104, "to its host it was secure all the time"
    assert frame not in meeting.level.away
    meeting.go_on()


def test_the_pages_of_a_guest_that_starts_come_in_but_for_one_that_is_being_exported() -> None:
    meeting = Meeting(0, pages="prefault")
    host = meeting.host
    guest = meeting.now(host.create())
    one, other = host.map(guest, 0x30, b"mine"), host.map(guest, 0x31)
    exporting = meeting.under_way(
        host.page_call(EXPORT, one), lambda: bool(meeting.level.attention_of(one >> PAGE_SHIFT) & CLAIMED)
    )
    meeting.now(host.load(guest, 1))
    assert (host.is_secure(one), host.is_secure(other)) == (False, True)
    assert meeting.end(exporting).rc == EXECUTED
    assert host.read(one, 4) == b"mine"
    assert meeting.now(host.convert(guest, 0x30)).rc == EXECUTED


def test_the_pages_of_a_guest_that_starts_come_in_but_for_one_that_the_level_below_moves() -> None:
    meeting = Meeting(0, pages="prefault")
    host = meeting.host
    guest = meeting.now(host.create())
    first, other = host.map(guest, 0x30), host.map(guest, 0x31)
    assert meeting.now(host.convert(guest, 0x30)).rc == EXECUTED
    swap = memory.swap(meeting.level, first >> PAGE_SHIFT)
    swapping = meeting.under_way(swap, meeting.held(guest, 0x30), 1)
    meeting.now(host.load(guest, 1))
    assert host.is_secure(other)
    assert meeting.end(swapping) is True
    assert isinstance(meeting.now(host.enter(guest, Read(0x30 << PAGE_SHIFT, 4))), SieExit)
    assert host.results(guest) == [{"hex": "00000000"}]


def test_a_cpu_that_is_stopped_while_its_page_comes_back_has_left_as_if_interrupted() -> None:
    """Only the next entry says why it cannot be entered."""
    meeting = Meeting(0)
    entering = meeting.under_way(meeting.step("enter away", 0), meeting.claimed(AWAY))
    stop = block(0x50, 0x0330, SET_STATE, meeting.guest.vcpus[0].handle, STOPPED)
    assert meeting.now(meeting.host.uvc(stop, 1)).rc == EXECUTED
    assert meeting.end(entering).code == KICKED
    assert meeting.now(meeting.step("enter away", 0)).code == VALIDITY


@pytest.mark.parametrize("hops", range(1, 10))
def test_a_page_that_its_host_unmaps_under_a_guest_that_touches_it_is_its_hosts_to_see_to(hops: int) -> None:
    meeting = Meeting(0)
    entering = Thread("entering", meeting.step("enter fresh", 0), meeting.below)
    for _ in range(hops):
        if not entering.done:
            entering.hop()
    meeting.guest.table.unmap(FRESH)
    left = meeting.end(entering)
    assert isinstance(left, Fault) and left.address == FRESH << PAGE_SHIFT
    assert left.code in (0x11, 0x3E), "not mapped, or not secure"
    meeting.guest.table.map(FRESH, meeting.guest.pages[FRESH])
    assert meeting.now(meeting.step("import fresh", 0)).rc == EXECUTED
    meeting.go_on()


def test_a_guest_that_touches_a_page_whose_export_is_under_way_leaves_and_comes_again() -> None:
    meeting = Meeting(0)
    exporting = meeting.under_way(meeting.step("export fresh", 0), meeting.claimed(FRESH))
    assert meeting.now(meeting.step("enter fresh", 1)).code == KICKED
    assert meeting.end(exporting).rc == EXECUTED
    left = meeting.now(meeting.host.enter(meeting.guest, cpu=1))
    assert isinstance(left, Fault) and left.code == 0x3E
    meeting.go_on()


def test_a_guest_whose_prefix_is_away_waits_for_the_call_about_all_of_its_pages() -> None:
    meeting = Meeting(0)
    config = meeting.level.configs[meeting.guest.handle]
    assert inline(memory.swap(meeting.level, meeting.guest.pages[0]), meeting.below[1:])
    unsharing = meeting.under_way(meeting.step("unshare-all", 0), lambda: config.closed)
    assert meeting.now(meeting.step("enter here", 1)).code == KICKED
    assert meeting.guest.pages[0] in meeting.level.away
    assert meeting.end(unsharing).rc == 0x0101, "its CPU is not stopped"
    meeting.go_on()


def test_a_page_that_the_level_below_moves_is_not_imported_meanwhile() -> None:
    meeting = Meeting(0)
    swap = memory.swap(meeting.level, meeting.guest.pages[HERE])
    swapping = meeting.under_way(swap, meeting.held(meeting.guest, HERE), 1)
    assert meeting.now(meeting.step("import here", 1)) == NOT_NOW
    assert meeting.end(swapping) is True
    assert meeting.now(meeting.step("import here", 1)).rc == 0x0104, "to its host it was secure all the time"
    meeting.go_on()


def test_a_page_that_was_never_secure_is_not_imported_while_it_is_being_exported() -> None:
    meeting = Meeting(0)
    exporting = meeting.under_way(meeting.step("export fresh", 0), meeting.claimed(FRESH))
    assert meeting.now(meeting.step("import fresh", 1)) == NOT_NOW
    assert meeting.end(exporting).rc == EXECUTED
    assert meeting.now(meeting.step("import fresh", 1)).rc == EXECUTED
    meeting.go_on()


def test_a_configuration_is_not_destroyed_while_a_page_of_it_is_being_exported() -> None:
    meeting = Meeting(0)
    host, guest = meeting.host, meeting.guest
    assert meeting.now(host.handle_call(DESTROY_CPU, guest.vcpus[0].handle)).rc == EXECUTED
    exporting = meeting.under_way(meeting.step("export away", 0), meeting.claimed(AWAY))
    assert meeting.now(host.handle_call(DESTROY_CONFIG, guest.handle, 1)) == NOT_NOW
    assert guest.handle in meeting.level.configs
    assert meeting.end(exporting).rc == EXECUTED
    assert meeting.now(host.handle_call(DESTROY_CONFIG, guest.handle, 1)).rc == EXECUTED
    check(meeting.rig)
    meeting.go_on()


@pytest.mark.parametrize("page", [0, 1])
def test_a_guest_whose_prefix_the_level_below_moves_leaves_and_comes_again(page: int) -> None:
    meeting = Meeting(0)
    swap = memory.swap(meeting.level, meeting.guest.pages[page])
    swapping = meeting.under_way(swap, meeting.held(meeting.guest, page), 1)
    assert meeting.now(meeting.step("enter here", 1)).code == KICKED
    assert meeting.end(swapping) is True
    assert meeting.now(meeting.host.enter(meeting.guest, cpu=1)).code == WAIT
    meeting.go_on()


def test_a_guest_whose_prefix_is_being_exported_leaves_and_is_told_when_it_comes_again() -> None:
    """Its host has stored to its table, so the page is found anew, and with it the call that names it."""
    meeting = Meeting(0)
    frame = meeting.guest.pages[0]
    exporting = meeting.under_way(meeting.host.page_call(EXPORT, frame << PAGE_SHIFT), meeting.claimed(0))
    meeting.guest.table.map(0, frame)
    assert meeting.now(meeting.step("enter here", 1)).code == KICKED
    assert meeting.end(exporting).rc == EXECUTED
    assert meeting.now(meeting.host.enter(meeting.guest, cpu=1)).code == PREFIX
    assert meeting.now(meeting.host.convert(meeting.guest, 0)).rc == EXECUTED
    assert meeting.now(meeting.host.enter(meeting.guest, cpu=1)).code == WAIT
    meeting.go_on()


def test_a_cpu_that_is_destroyed_as_it_is_entered_keeps_its_shadow_until_it_has_left() -> None:
    """The level below answers the destruction first; the entry that follows still names the block."""
    meeting = Meeting(0)
    level, vcpu, pool = meeting.level, meeting.guest.vcpus[0], meeting.rig.chain[0].pool
    secure = level.secure_cpus[vcpu.handle]
    destroying = meeting.under_way(
        meeting.host.handle_call(DESTROY_CPU, vcpu.handle), lambda: bool(level.locks.held())
    )
    entering = meeting.under_way(meeting.step("enter here", 1), lambda: secure.inside)
    while not destroying.done:
        destroying.hop()
    assert destroying.value.rc == EXECUTED
    assert vcpu.handle not in level.secure_cpus
    shadow = {secure.block >> PAGE_SHIFT, secure.sida >> PAGE_SHIFT}
    assert not shadow & set(pool.listed().tolist())
    assert meeting.end(entering).code == VALIDITY
    assert shadow <= set(pool.listed().tolist())
    meeting.go_on()


# -- a dump ---------------------------------------------------------------------------------------


def storage_state(meeting: Meeting, area: int, cpu: int) -> Step[Outcome]:
    made = block(0x50, 0x0401, DUMP_STORAGE, meeting.guest.handle, area, 0)
    return meeting.host.uvc(made, cpu)


def test_no_dump_begins_with_a_cpu_inside_while_a_page_that_is_away_is_being_exported() -> None:
    meeting = Meeting(0, cpus=3)
    secure = meeting.level.secure_cpus[meeting.guest.vcpus[0].handle]
    staying = meeting.under_way(meeting.host.enter(meeting.guest, stay=True), lambda: secure.inside)
    exporting = meeting.under_way(meeting.step("export away", 1), meeting.claimed(AWAY))
    assert meeting.now(meeting.host.handle_call(0x0400, meeting.guest.handle, 2)) == NOT_NOW
    assert not secure.config.space.follows
    assert meeting.end(exporting).rc == EXECUTED
    assert isinstance(meeting.end(staying), SieExit)
    meeting.go_on()


def test_what_a_guest_has_is_not_told_while_a_page_that_is_away_is_being_exported() -> None:
    meeting = Meeting(0)
    area = meeting.host.some_frame() << PAGE_SHIFT
    exporting = meeting.under_way(meeting.step("export away", 0), meeting.claimed(AWAY))
    assert meeting.now(storage_state(meeting, area, 1)) == NOT_NOW
    assert meeting.end(exporting).rc == EXECUTED
    assert meeting.now(storage_state(meeting, area, 1)).rc == NO_DUMP
    meeting.go_on()


def test_a_dump_area_that_is_being_exported_is_not_written_to() -> None:
    meeting = Meeting(0)
    area = meeting.paddr(FRESH)
    exporting = meeting.under_way(meeting.step("export fresh", 0), meeting.claimed(FRESH))
    assert meeting.now(storage_state(meeting, area, 1)) == NOT_NOW
    assert meeting.end(exporting).rc == EXECUTED
    meeting.go_on()


def test_a_dump_area_that_became_a_page_of_a_guest_meanwhile_cannot_be_stored_to() -> None:
    meeting = Meeting(0)
    other = meeting.now(meeting.host.create())
    area = meeting.host.map(other, 0x30)
    asking = meeting.under_way(storage_state(meeting, area, 0), meeting.claimed(AWAY))
    assert meeting.now(meeting.host.convert(other, 0x30, 1)).rc == EXECUTED
    assert meeting.end(asking).rc == NO_ACCESS
    assert meeting.host.is_secure(area)
    meeting.go_on()
