"""A guest host as the level below sees it: its memory, and what was taken from it.

The memory is a slot map onto frames of the level below, scattered. Each frame has a byte of attention: 0 is
plain and is reached directly; anything else is asked about below. Contiguity in the guest host says nothing
about contiguity below, and the level below may put another frame under it at any time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Generic, Protocol, TypeVar

import numpy as np

from protocol.calls import Donation
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.level import HostMemory
from protocol.memory.columns import column
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT

PLAIN = 0
DONATED = 1  # the Trusted Entity's, as far as this guest host knows
SECURE = 2  # holds a page of a secure guest of this guest host
TABLE = 4  # holds a table that was shadowed: stores trap
CLAIMED = 8  # a call that names it is under way below
LEFTOVER = 16  # was secure before a reset; plain to the guest host, replaced when it is touched
_GUARDED = DONATED | SECURE | LEFTOVER
ABSENT = -1


class OwnMemory(HostMemory, Protocol):
    """What a hypervisor can do with its own memory beyond the loads and stores of its CPUs."""

    def peek(self, address: int, length: int) -> bytes | Fault:
        """A load by the hardware or by the level below: it never traps."""
        ...

    def poke(self, address: int, data: bytes) -> Fault | None: ...

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero whole frames of its own that it may store to."""
        ...

    def move(self, old: int, new: int) -> None:
        """Put the contents of one frame of its own into another."""
        ...


class GuestRam(Protocol):
    """Where the bytes of a guest host's frames live, if they have a place of their own that it maps."""

    def left(self, below: np.ndarray) -> None:
        """These frames of the level below are no longer the guest host's."""
        ...

    def joined(self, frames: np.ndarray, below: np.ndarray) -> None:
        """The guest host's `frames` lie in these frames of the level below from now on."""
        ...

    def hide(self, below: np.ndarray) -> None:
        """Put the bytes of these frames of the level below where the guest host maps nothing."""
        ...

    def show(self, frames: np.ndarray, below: np.ndarray) -> None:
        """Put them back: `below` are the guest host's `frames`."""
        ...


M = TypeVar("M", bound=OwnMemory)


@dataclass(slots=True)
class Hypervisor(Generic[M]):
    """The level below at work: its own number, its own memory, the frames that emulation may use.

    `promised` frames of the pool are owed to guest hosts: what they donated comes back to them one day. What
    was lent in exchange comes back first, so it is not among them.
    """

    level: int
    memory: M
    pool: Pool
    promised: int = 0

    def held(self) -> tuple[str, ...]:
        """Locks of the kernel itself that are taken now, in words."""
        return ()

    def keep_promises(self, more: int = 0) -> None:
        """Hold what was just taken, and `more` frames that will be, against what is owed.

        Raises OutOfFrames: give back then what was taken.
        """
        if self.pool.free - more < self.promised:
            raise OutOfFrames(f"L{self.level} owes {self.promised} frames and has {self.pool.free}")


class GuestHost(Generic[M]):
    """Memory of L(level), which runs on `below`. Subclasses say what an access to a guarded frame means."""

    def __init__(self, below: Hypervisor[M], frames: Sequence[int] | np.ndarray, ledger: Ledger) -> None:
        self.below = below
        self.level = below.level + 1
        self.ledger = ledger
        self.size = len(frames) << PAGE_SHIFT
        self.slots = np.array(frames, np.int64)
        self.attention = column(len(frames), np.uint8)
        self._slots = self.slots.data
        self._attention = self.attention.data
        self._memory = below.memory
        self.ram: GuestRam | None = None

    # -- accesses of the guest host's CPUs -----------------------------------------------------

    def read(self, address: int, length: int) -> bytes | Fault:
        """A load. One that is refused is an exit and an injected exception."""
        data = self.peek(address, length)
        return data if data.__class__ is bytes else self.injected(data)  # type: ignore[arg-type]

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        """A store. To a frame with a shadowed table it traps `stores` times."""
        for at in range(address & ~OFFSET, address + len(data), PAGE):
            if 0 <= at < self.size and self._attention[at >> PAGE_SHIFT] & TABLE:
                share = max(1, stores * min(PAGE, address + len(data) - at) // max(len(data), 1))
                self.ledger.trap(self.level, "table_write", n=min(share, stores))
                self.ledger.reenter(self.below.level, min(share, stores))
        fault = self.poke(address, data)
        return fault if fault is None else self.injected(fault)

    def injected(self, fault: Fault) -> Fault:
        """Count an exception that goes back into the guest host."""
        self.ledger.trap(self.level, f"pgm_{fault.code:02x}")
        self.ledger.count(("injections", f"pgm_{fault.code:02x}"))
        self.ledger.reenter(self.below.level)
        return fault

    # -- the same accesses, made by the level below for the guest host: nothing traps ----------

    def peek(self, address: int, length: int) -> bytes | Fault:
        if (address & OFFSET) + length > PAGE or address >= self.size or address < 0:
            return self._peek_pages(address, length)
        if self._attention[address >> PAGE_SHIFT] & _GUARDED:
            return self.guarded_peek(address, length)
        data = self._memory.peek(
            (self._slots[address >> PAGE_SHIFT] << PAGE_SHIFT) | address & OFFSET, length
        )
        return data if data.__class__ is bytes else replace(data, address=address)  # type: ignore[type-var]

    def poke(self, address: int, data: bytes) -> Fault | None:
        if (address & OFFSET) + len(data) > PAGE or address >= self.size or address < 0:
            return self._poke_pages(address, data)
        attention = self._attention[address >> PAGE_SHIFT]
        if attention & _GUARDED:
            fault = self.guarded_poke(address, data)
        else:
            fault = self._memory.poke(
                self._slots[address >> PAGE_SHIFT] << PAGE_SHIFT | address & OFFSET, data
            )
        if fault is not None:
            return fault if attention & _GUARDED else replace(fault, address=address)
        if attention & TABLE:
            self.table_written(address, len(data))
        return None

    def _peek_pages(self, address: int, length: int) -> bytes | Fault:
        if (at := self._first_outside(address, length)) is not None:
            return self.outside(at, write=False)
        parts = []
        while length > 0:
            n = min(length, PAGE - (address & OFFSET))
            part = self.peek(address, n)
            if isinstance(part, Fault):
                return part
            parts.append(part)
            address, length = address + n, length - n
        return b"".join(parts)

    def _poke_pages(self, address: int, data: bytes) -> Fault | None:
        if (at := self._first_outside(address, len(data))) is not None:
            return self.outside(at, write=True)
        fault = self.refusal(address, len(data))
        if fault is not None:
            return fault
        done = 0
        while done < len(data):
            n = min(len(data) - done, PAGE - ((address + done) & OFFSET))
            self.poke(address + done, data[done : done + n])
            done += n
        return None

    def refusal(self, address: int, length: int) -> Fault | None:
        """What a store to this range would answer. Nothing is counted."""
        if (outside := self._first_outside(address, length)) is not None:
            return self.outside(outside, write=True)
        first, last = address >> PAGE_SHIFT, (address + max(length, 1) - 1) >> PAGE_SHIFT
        for frame in np.flatnonzero(self.attention[first : last + 1] & _GUARDED).tolist():
            at = max(address, (first + frame) << PAGE_SHIFT)
            data = self.guarded_peek(at, 1)
            if isinstance(data, Fault):
                return replace(data, write=True)
        return None

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero frames of the guest host's own (as its hypervisor half does).

        Tables in them map nothing; the first store to each traps, and then nothing is left to protect.
        """
        listed = np.asarray(frames, np.int64)
        self._memory.clear(self.slots[listed])
        for frame in listed[self.attention[listed] & TABLE != 0].tolist():
            self.ledger.trap(self.level, "table_write")
            self.table_written(frame << PAGE_SHIFT, PAGE)
            self.ledger.reenter(self.below.level)

    def move(self, old: int, new: int) -> None:
        """Copy a page of the guest host's own to another frame of its own."""
        data = self.read(old << PAGE_SHIFT, PAGE)
        assert isinstance(data, bytes)
        self.write(new << PAGE_SHIFT, data)

    def _first_outside(self, address: int, length: int) -> int | None:
        if address < 0:
            return address
        return max(address, self.size) if address + length > self.size else None

    def address_below(self, address: int) -> int:
        """The address below of a byte that lies in a present frame."""
        return self._slots[address >> PAGE_SHIFT] << PAGE_SHIFT | address & OFFSET

    def frame_below(self, frame: int) -> int:
        return self._slots[frame]

    def attention_of(self, frame: int) -> int:
        return self._attention[frame]

    def may_clear(self, frame: int) -> bool:
        """Whether the guest host may store to all of this frame: not donated, not secure."""
        return not self._attention[frame] & ~TABLE

    # -- what the architecture says ------------------------------------------------------------

    @abstractmethod
    def outside(self, address: int, write: bool) -> Fault:
        """The fault of an access behind the end of memory."""

    @abstractmethod
    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        """A load from a frame that is donated, secure or left over, within one page."""

    @abstractmethod
    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        """A store to such a frame, within one page."""

    @abstractmethod
    def table_written(self, address: int, length: int) -> None:
        """Bytes of a frame with a shadowed table change: keep the shadows true."""

    # -- marks and donation --------------------------------------------------------------------

    def mark(self, frame: int, flag: int) -> None:
        self._attention[frame] |= flag

    def unmark(self, frame: int, flag: int) -> None:
        self._attention[frame] &= 0xFF ^ flag

    def claim(self, frames: np.ndarray | range) -> bool:
        """A call that names `frames` goes below. False, with nothing done, if another one names any."""
        listed = np.asarray(frames)
        if (self.attention[listed] & CLAIMED).any():
            return False
        self.attention[listed] |= CLAIMED
        return True

    def unclaim(self, frames: np.ndarray | range) -> None:
        self.attention[np.asarray(frames)] &= 0xFF ^ CLAIMED

    def claim_one(self, frame: int) -> bool:
        """The same for one frame."""
        if self._attention[frame] & CLAIMED:
            return False
        self._attention[frame] |= CLAIMED
        return True

    def unclaim_one(self, frame: int) -> None:
        self._attention[frame] &= 0xFF ^ CLAIMED

    def put_under(self, frame: int, new: int) -> int:
        """Let `frame` lie in another frame of the level below; returns the one in which it lay."""
        old = int(self._slots[frame])
        self._slots[frame] = new
        if self.ram is not None:
            self.ram.left(np.array([old]))
            self.ram.joined(np.array([frame]), np.array([new]))
        return old

    def move_under(self, frame: int, new: int) -> int:
        """Let `frame` lie in another one with what is in it, which `put_under` loses; returns the old one."""
        old = int(self._slots[frame])
        # A machine moves contents by moving their place: out of what the guest host maps while it does.
        if self.ram is not None:
            self.ram.hide(np.array([old]))
        self._memory.move(old, new)
        self._slots[frame] = new
        if self.ram is not None:
            self.ram.show(np.array([frame]), np.array([new]))
        return old

    def take_away(self, frames: np.ndarray, donation: Donation) -> None:
        """The guest host donated `frames`: it cannot reach them until `give_back`."""
        self.attention[frames] |= DONATED
        if donation is Donation.SWAPPED:
            self._give_below(self.slots[frames])
            self.slots[frames] = ABSENT

    def give_back(self, frames: np.ndarray, donation: Donation) -> None:
        """The donation ended: the guest host finds `frames` readable and zero. Raises OutOfFrames."""
        if donation is Donation.SWAPPED:
            self.slots[frames] = self.below.pool.take_many(len(frames))
            if self.ram is not None:
                self.ram.joined(frames, self.slots[frames])
        if donation is not Donation.NONE:
            self._memory.clear(self.slots[frames])
        self.attention[frames] &= 0xFF ^ DONATED

    def scrub_and_return(self) -> None:
        """The guest host is gone: its frames go back to the level below."""
        present = self.slots[self.slots != ABSENT]
        self._memory.clear(present)
        self._give_below(present)
        self.slots[:] = ABSENT

    def live_in(self, ram: GuestRam, attention: np.ndarray) -> None:
        """Keep bytes and marks where the guest host maps them: `attention` has one byte for each frame."""
        attention[:] = self.attention
        self.attention = attention
        self._attention = attention.data
        self.ram = ram

    def moved_out(self) -> None:
        """The guest host is gone and its mapping ends: keep the marks here again."""
        self.attention = np.array(self.attention)
        self._attention = self.attention.data
        self.ram = None

    def _give_below(self, frames: np.ndarray) -> None:
        if self.ram is not None:
            self.ram.left(frames)
        self.give_frames(frames)

    def give_frames(self, frames: np.ndarray) -> None:
        """Into the pool below. Where pages of the architecture are larger, they go back whole."""
        self.below.pool.give(frames)


def scattered(pool: Pool, count: int, random: Random) -> np.ndarray:
    """Take `count` frames and hand them out in random order: contiguity hides mistakes."""
    frames = pool.take_many(count)
    shuffle(frames, random.getrandbits(64))
    return frames


def shuffle(frames: np.ndarray, seed: int) -> None:
    """Put them into the order that belongs to `seed`."""
    np.random.default_rng(seed).shuffle(frames)
