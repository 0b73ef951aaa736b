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
from protocol.arch.s390.nesting import Nested, Strategy, memory
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import EXECUTED, SHARE, Outcome, SieExit, block
from protocol.crossing import Crossing, inline
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE_SHIFT

AWAY, SHARED, FRESH = 8, 9, 20
HERE = IMAGE_AT >> PAGE_SHIFT
PIN, UNPIN, EXPORT, DESTROY = 0x0341, 0x0342, 0x0201, 0x0202
UNSHARE_ALL, DESTROY_CONFIG, DESTROY_CPU = 0x0340, 0x0101, 0x0121


class Meeting:
    """A guest host of two CPUs with a guest: a page that is away, one that is shared, one that is neither."""

    def __init__(self, seed: int, **words: str) -> None:
        self.rig = compose(PROFILES["small"], 1, cpus=2, apart=True, strategy=Strategy(**words))
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
