"""Secure memory, and what the ultravisor keeps for each SVM.

Secure memory is divided into units of 2 MiB and those into frames of 64 KiB. The page table of states has a
row for each frame: the SVM and GFN that it is reserved for, the GFN's state, the hypervisor's frame of a
shared GFN, IV and tag of one that is paged out. Rows are numpy columns; bytes of secure memory are reached
from here alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocol.arch.pef.cpu import Vcpu
from protocol.arch.pef.crypto import IV_BYTES, TAG_BYTES, PageKey
from protocol.arch.pef.tables import PAGE, PAGE_SHIFT, PAGES_PER_UNIT, UNIT_SHIFT, Page, SvmState
from protocol.memory.columns import column
from protocol.memory.store import PrivateStore

NOBODY = 0


class OutOfUnits(Exception):
    """Secure memory has not that many free units; nothing was taken."""


@dataclass(slots=True)
class Slot:
    """A registered range: GFNs [first, first + frames.size), each with its secure frame."""

    number: int
    first: int
    frames: np.ndarray
    units: list[int]

    @property
    def end(self) -> int:
        return self.first + int(self.frames.size)


@dataclass(slots=True)
class Thread:
    """A vcpu of an SVM in the ultravisor: what goes on when the hypervisor comes back with its cookie."""

    vcpu: Vcpu
    work: Generator[Any, Any, None]
    cookie: int = 0


@dataclass(slots=True)
class Reader:
    """Who reads an attached file, and up to where."""

    pid: int
    offset: int


@dataclass(slots=True)
class Svm:
    """One SVM. `shared` are the GFNs that the ultravisor shares for itself, by their use."""

    lpid: int
    state: SvmState = SvmState.ACTIVE
    slots: dict[int, Slot] = field(default_factory=dict)
    open: dict[int, Thread] = field(default_factory=dict)  # by cookie
    key: PageKey | None = None
    shared: dict[str, int] = field(default_factory=dict)
    paged_in: set[int] = field(default_factory=set)  # during the transition, each page once
    files: dict[str, bytes] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    starting: dict[int, tuple[int, int]] = field(default_factory=dict)  # vcpu -> where it begins, and its R3

    def slot_of(self, gfn: int) -> Slot | None:
        for slot in self.slots.values():
            if slot.first <= gfn < slot.end:
                return slot
        return None

    def frame(self, gfn: int) -> int | None:
        """The secure frame of a GFN; None if it lies in no slot."""
        slot = self.slot_of(gfn)
        return None if slot is None else int(slot.frames[gfn - slot.first])

    def gfns(self) -> Iterator[tuple[int, int]]:
        """All GFNs with their secure frames, ascending."""
        for slot in sorted(self.slots.values(), key=lambda slot: slot.first):
            yield from zip(range(slot.first, slot.end), slot.frames.tolist(), strict=True)


class SecureMemory:
    """Units, the page table of states, and the bytes."""

    def __init__(self, units: int) -> None:
        self.units = units
        frames = units * PAGES_PER_UNIT
        self._free = list(range(units - 1, -1, -1))
        self._bytes = PrivateStore(frames << PAGE_SHIFT)
        self.owner = column(frames, np.uint32)
        self.gfn = column(frames, np.uint64)
        self.state = column(frames, np.uint8)
        self.normal = column(frames, np.uint64)  # the hypervisor's frame of a shared GFN
        self.iv = column(frames, np.uint8, IV_BYTES)
        self.tag = column(frames, np.uint8, TAG_BYTES)
        self._state = self.state.data
        self._normal = self.normal.data

    # -- reservation -----------------------------------------------------------------------------------------

    @property
    def free_units(self) -> int:
        return len(self._free)

    def reserve(self, lpid: int, number: int, first: int, count: int) -> Slot:
        """Secure frames for GFNs [first, first + count). Raises OutOfUnits."""
        shift = UNIT_SHIFT - PAGE_SHIFT
        wanted = ((first + count - 1) >> shift) - (first >> shift) + 1
        if wanted > len(self._free):
            raise OutOfUnits
        units = [self._free.pop() for _ in range(wanted)]
        gfns = np.arange(first, first + count)
        bases = np.array(units, np.int64) * PAGES_PER_UNIT
        frames = bases[(gfns >> shift) - (first >> shift)] + gfns % PAGES_PER_UNIT
        self.owner[frames] = lpid
        self.gfn[frames] = gfns
        self.state[frames] = Page.SECURE
        return Slot(number, first, frames, units)

    def release(self, slot: Slot) -> None:
        """Free a slot's frames: nothing of them stays."""
        self.owner[slot.frames] = NOBODY
        self.gfn[slot.frames] = 0
        self.state[slot.frames] = Page.SECURE
        self.normal[slot.frames] = 0
        self.iv[slot.frames] = 0
        self.tag[slot.frames] = 0
        for unit in slot.units:
            self._bytes.clear(unit << UNIT_SHIFT, 1 << UNIT_SHIFT)
        self._free.extend(sorted(slot.units, reverse=True))

    # -- single frames ---------------------------------------------------------------------------------------

    def page(self, frame: int) -> Page:
        return Page(self._state[frame])

    def become(self, frame: int, page: Page) -> None:
        self._state[frame] = page

    def normal_of(self, frame: int) -> int:
        return int(self._normal[frame])

    def bind(self, frame: int, address: int) -> None:
        self._normal[frame] = address

    def read(self, frame: int, offset: int, length: int) -> bytes:
        return self._bytes.read((frame << PAGE_SHIFT) + offset, length)

    def write(self, frame: int, offset: int, data: bytes) -> None:
        self._bytes.write((frame << PAGE_SHIFT) + offset, data)

    def zero(self, frame: int) -> None:
        self._bytes.clear(frame << PAGE_SHIFT, PAGE)
