"""Two toy Trusted Entities on the machinery that every architecture shares. They model nothing real.

`Rmp` has one instruction and no calls: it gives a frame to the Trusted Entity or takes it back. The frame is
the very one that the guest host named, at every level. `Pager` runs a guest whose pages it fetches by an
upcall: it comes up as what `enter` or `call` returned, and the host answers by entering again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from protocol.calls import Donation
from protocol.effects import Fault, Issue, Step, issue
from protocol.ledger import Ledger
from protocol.memory.physical import Physical
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, GuestHost, Hypervisor, scattered
from protocol.nesting.linked import LinkedLevel

OK, TAKEN, NOT_YOURS, BAD_FRAME = range(4)
REFUSED = 13
FIRST_FREE = 16


@dataclass(frozen=True)
class Upcall:
    """The Trusted Entity wants something of its host before it goes on."""

    what: str
    page: int


@dataclass(frozen=True)
class Done:
    """The guest left, having read this."""

    data: bytes


Exit = Upcall | Done


# -- the machine -----------------------------------------------------------------------------------------


class ToyMachine:
    """Both toys on real bytes: a table of frames, and guests made of pages."""

    def __init__(self, frames: int, ledger: Ledger) -> None:
        self.size = frames << PAGE_SHIFT
        self.ledger = ledger
        self.storage = Physical(frames)
        self.taken: set[int] = set()
        self.guests: dict[int, Guest] = {}

    def read(self, address: int, length: int) -> bytes | Fault:
        refused = self._refused(address, write=False)
        return refused or self.storage.read(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        refused = self._refused(address, write=True)
        if refused is None:
            self.storage.write(address, data)
        return refused

    peek = read

    def poke(self, address: int, data: bytes) -> Fault | None:
        return self.write(address, data)

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        self.storage.clear_many(np.asarray(frames, np.int64))

    def move(self, old: int, new: int) -> None:
        self.storage.swap_homes(old, new)

    def _refused(self, address: int, write: bool) -> Fault | None:
        if not 0 <= address < self.size or address >> PAGE_SHIFT in self.taken:
            return Fault(REFUSED, "refused", address, write)
        return None

    # -- the instruction

    def rmpupdate(self, frame: int, assign: bool) -> Step[int]:
        if not 0 <= frame < self.storage.frames:
            return BAD_FRAME
        if assign == (frame in self.taken):
            return TAKEN
        (self.taken.add if assign else self.taken.discard)(frame)
        return OK
        yield

    # -- the pager

    def create(self, guest: int, pages: int) -> Step[int]:
        self.guests[guest] = Guest(pages)
        return OK
        yield

    def page_in(self, guest: int, page: int, frame: int) -> Step[int]:
        """The contents of a host's frame become the guest's page."""
        self.guests[guest].pages[page] = self.storage.read(frame << PAGE_SHIFT, 16)
        return OK
        yield

    def enter(self, guest: int, level: int) -> Step[Exit]:
        """Run the guest, which is at `level` and reads all its pages, until one is missing."""
        found = self.guests[guest]
        for page in range(found.length):
            if page not in found.pages:
                self.ledger.exit(level, "page_in")
                return Upcall("page_in", page)
        self.ledger.exit(level, "done")
        return Done(b"".join(found.pages[page] for page in range(found.length)))
        yield

    def terminate(self, guest: int) -> Step[Exit]:
        """A call that has an upcall of its own before it is done: each page goes out first."""
        found = self.guests[guest]
        if found.pages:
            return Upcall("page_out", max(found.pages))
        del self.guests[guest]
        return Done(b"")
        yield

    def page_out(self, guest: int, page: int, frame: int) -> Step[int]:
        self.storage.write(frame << PAGE_SHIFT, self.guests[guest].pages.pop(page))
        return OK
        yield


@dataclass
class Guest:
    """A guest of the pager."""

    length: int
    pages: dict[int, bytes] = field(default_factory=dict)


# -- the emulation of both ---------------------------------------------------------------------------------


class NestedToy(GuestHost[Any]):
    """L(level)'s view of either toy."""

    def __init__(self, below: Hypervisor[Any], frames: np.ndarray, ledger: Ledger) -> None:
        super().__init__(below, frames, ledger)
        self.guests: set[int] = set()

    def outside(self, address: int, write: bool) -> Fault:
        return Fault(REFUSED, "refused", address, write)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        return Fault(REFUSED, "refused", address)

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        return Fault(REFUSED, "refused", address, True)

    def table_written(self, address: int, length: int) -> None:
        raise AssertionError("the toys have no tables")

    def rmpupdate(self, frame: int, assign: bool) -> Step[int]:
        """The very frame of the guest host is given below; what it sees of it is its own table."""
        if not 0 <= frame < self.attention.size:
            return BAD_FRAME
        answer = TAKEN
        if assign != bool(self.attention_of(frame) & DONATED):
            answer = yield from self.below.memory.rmpupdate(self.frame_below(frame), assign)
            frames = np.array([frame])
            if answer == OK and assign:
                self.take_away(frames, Donation.SAME_FRAME)
            elif answer == OK:
                self.attention[frames] &= 0xFF ^ DONATED  # what was in it is still there
        self._trapped("rmpupdate")
        return answer

    def create(self, guest: int, pages: int) -> Step[int]:
        answer: int = yield from self.below.memory.create(guest, pages)
        self.guests.add(guest)
        self._trapped("call")
        return answer

    def page_in(self, guest: int, page: int, frame: int) -> Step[int]:
        return (yield from self._paged("page_in", guest, page, frame))

    def page_out(self, guest: int, page: int, frame: int) -> Step[int]:
        return (yield from self._paged("page_out", guest, page, frame))

    def _paged(self, call: str, guest: int, page: int, frame: int) -> Step[int]:
        if guest not in self.guests:
            return NOT_YOURS
        below = getattr(self.below.memory, call)
        answer: int = yield from below(guest, page, self.frame_below(frame))
        self._trapped("call")
        return answer

    def enter(self, guest: int, level: int) -> Step[Exit]:
        """The upcall is the guest host's own: it gets it as what its entry returned."""
        return (yield from self._handed_up("enter", guest, level))

    def terminate(self, guest: int) -> Step[Exit]:
        left = yield from self._handed_up("terminate", guest)
        if isinstance(left, Done):
            self.guests.discard(guest)
        return left

    def _handed_up(self, what: str, guest: int, *more: int) -> Step[Exit]:
        assert guest in self.guests, "only its own"
        self.ledger.trap(self.level, what)
        left: Exit = yield from getattr(self.below.memory, what)(guest, *more)
        self.ledger.count(("reflections", str(self.below.level), str(self.level)))
        self.ledger.reenter(self.below.level)
        return left

    def _trapped(self, reason: str) -> None:
        self.ledger.trap(self.level, reason)
        self.ledger.reenter(self.below.level)


# -- levels that live apart ---------------------------------------------------------------------------------


class LinkedToy(LinkedLevel):
    """Every operation is a message."""

    def __getattr__(self, name: str) -> Any:
        if name not in ("rmpupdate", "create", "page_in", "page_out", "enter", "terminate"):
            raise AttributeError(name)
        return lambda *arguments: issue(name, *arguments)


def serve(level: Any) -> Any:
    def served(effect: Issue) -> Step[Any]:
        step: Step[Any] = getattr(level, effect.operation)(*effect.arguments)
        return step

    return served


# -- composition --------------------------------------------------------------------------------


@dataclass
class Tower:
    """A machine with one guest host on the other; `top` is what the uppermost host meets."""

    machine: ToyMachine
    levels: list[NestedToy]
    top: Any
    ledger: Ledger
    apart: bool

    def below(self) -> list[Any]:
        return [serve(level) for level in (*reversed(self.levels), self.machine)]

    def machine_frame(self, frame: int) -> int:
        """Where a frame of the uppermost host really is."""
        for level in reversed(self.levels):
            frame = level.frame_below(frame)
        return frame


def tower(depth: int, apart: bool = False) -> Tower:
    """`depth` guest hosts, each with scattered frames of the level below."""
    ledger = Ledger()
    machine = ToyMachine(64 << depth, ledger)
    built = Tower(machine, [], machine, ledger, apart)
    for number in range(depth):
        seen = LinkedToy(built.top) if apart else built.top
        frames = seen.size >> PAGE_SHIFT
        below = Hypervisor(number, seen, Pool(FIRST_FREE, frames - FIRST_FREE))
        built.top = NestedToy(below, scattered(below.pool, frames // 2, Random(number)), ledger)
        built.levels.append(built.top)
    built.top = LinkedToy(built.top) if apart else built.top
    return built
