"""A host's own memory: frames for its guests, its home space, and its guests' tables as it reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from random import Random

import numpy as np

from protocol.arch.s390 import dat
from protocol.arch.s390.runs import by_segment
from protocol.arch.s390.tables import SEGMENT_PAGES, GuestTable
from protocol.effects import Fault
from protocol.level import HostMemory
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import OwnMemory

BATCH = 512  # frames that are shuffled together
VMALLOC = 1 << 41  # home-virtual address of the first area that is contiguous there only


class Backing:
    """Frames for pages of guests, in a seeded random order: contiguity would hide mistakes.

    The order is the same whether they are taken one by one or many at once.
    """

    def __init__(self, pool: Pool, random: Random) -> None:
        self._pool = pool
        self._random = random
        self._stock = np.empty(0, np.int64)  # the last one goes first
        self._left = 0

    @property
    def left(self) -> int:
        """Frames that were taken from the pool and not handed out."""
        return self._left

    def take(self, count: int) -> np.ndarray:
        """Take `count` frames. Raises OutOfFrames with nothing taken."""
        if count > self._left:
            self._restock(count - self._left)
        self._left -= count
        return self._stock[self._left : self._left + count][::-1].copy()

    def take_one(self) -> int:
        """The same for a single frame."""
        if not self._left:
            self._restock(1)
        self._left -= 1
        return int(self._stock[self._left])

    def put_back(self, frames: np.ndarray) -> None:
        """Undo a `take`: these are handed out next, in the same order."""
        self._stock = np.concatenate((self._stock[: self._left], frames[::-1]))
        self._left = self._stock.size

    def give(self, frames: np.ndarray) -> None:
        self._pool.give(frames)

    def put_away(self) -> None:
        """Nobody wants frames any more: what is in stock goes back to the pool."""
        self._pool.give(self._stock[: self._left])
        self._left = 0

    def _restock(self, missing: int) -> None:
        if missing > self._pool.free:
            raise OutOfFrames(f"no further {missing} frames for guests: {self._pool.free} are free")
        batches = [self._stock[: self._left]]
        while missing > 0:
            batch = self._pool.take_many(min(BATCH, self._pool.free))
            np.random.default_rng(self._random.getrandbits(64)).shuffle(batch)
            batches.append(batch)
            missing -= batch.size
        self._stock = np.concatenate(batches[::-1])
        self._left = self._stock.size


class LowEnd(Pool):
    """A pool taken from at its low end, frame by frame.

    What guests' pages get comes from the other end, so no table changes which frames these are.
    """

    __slots__ = ("_whole",)

    def __init__(self, whole: Pool) -> None:
        super().__init__(0, 0)
        self._whole = whole

    def take_run(self, count: int) -> int:
        return self._whole.take_run(count)

    def give_run(self, first: int, count: int) -> None:
        self._whole.give_run(first, count)

    def take(self) -> int:
        return self._whole.take_run(1)

    def give(self, frames: Iterable[int] | np.ndarray) -> None:
        for frame in frames:
            self._whole.give_run(int(frame), 1)


class HomeSpace:
    """The kernel's address space, as far as the Ultravisor is given addresses in it.

    What Linux passes as physical is mapped one to one, what it takes from vmalloc is contiguous here only.
    """

    def __init__(self, memory: OwnMemory, pool: Pool, tables: LowEnd) -> None:
        self._pool = pool
        self._table = GuestTable(memory, tables)
        self._next = VMALLOC >> PAGE_SHIFT
        self._areas: dict[int, np.ndarray] = {}  # first page -> frames
        self._free: defaultdict[int, list[int]] = defaultdict(list)  # count -> first pages

    @property
    def asce(self) -> int:
        return self._table.asce

    @property
    def tables(self) -> int:
        """Frames that the space itself takes: it grows, and never shrinks."""
        return self._table.frames

    def reach(self, address: int) -> None:
        """Map the page of an absolute address at the same address."""
        self._table.map(address >> PAGE_SHIFT, address >> PAGE_SHIFT)

    def allocate(self, count: int) -> int:
        """An area of `count` pages on frames that lie anywhere. Raises OutOfFrames."""
        frames = self._pool.take_many(count)[::-1]
        if self._free[count]:
            first = self._free[count].pop()
        else:
            first, self._next = self._next, self._next + count + 1  # and a page that nothing maps
        self._table.map_run(first, frames)
        self._areas[first] = frames
        return first << PAGE_SHIFT

    def frames(self, area: int) -> np.ndarray:
        """The frames behind an area, in its order."""
        return self._areas[area >> PAGE_SHIFT]

    def release(self, area: int) -> None:
        first = area >> PAGE_SHIFT
        frames = self._areas.pop(first)
        for page in range(first, first + len(frames)):
            self._table.unmap(page)
        self._free[len(frames)].append(first)
        self._pool.give(frames)

    def put_away(self) -> None:
        """The space is gone, areas in it before."""
        assert not self._areas, "an area that somebody has"
        self._table.drop()


# -- a guest's table, read by the host that wrote it -----------------------------------------------


def frame_of(memory: HostMemory, table: GuestTable, page: int) -> int | None:
    """The frame that backs a page of the guest, None if none does."""
    absolute = dat.walk(memory.read, table.asce, page << PAGE_SHIFT, write=False)
    return None if isinstance(absolute, Fault) else absolute >> PAGE_SHIFT


def mapped(memory: HostMemory, table: GuestTable) -> tuple[np.ndarray, np.ndarray]:
    """All pages that are backed, ascending, and their frames."""
    pages, frames = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for segment in sorted(table.segments()):
        entries = _entries(memory, table, segment)
        there = np.flatnonzero((entries & dat.PAGE_INVALID) == 0)
        pages.append(there + segment * SEGMENT_PAGES)
        frames.append(entries[there] >> PAGE_SHIFT)
    return np.concatenate(pages), np.concatenate(frames)


def backed(memory: HostMemory, table: GuestTable, pages: np.ndarray) -> np.ndarray:
    """For each of `pages`, which ascend, its frame, or -1."""
    found = np.full(pages.size, -1, np.int64)
    known = set(table.segments())
    for segment, start, stop in by_segment(pages):
        if segment in known:
            entries = _entries(memory, table, segment)[pages[start:stop] % SEGMENT_PAGES]
            found[start:stop] = np.where(entries & dat.PAGE_INVALID, -1, entries >> PAGE_SHIFT)
    return found


def _entries(memory: HostMemory, table: GuestTable, segment: int) -> np.ndarray:
    """The 256 entries of a page table."""
    trail: list[dat.Step] = []
    dat.walk(memory.read, table.asce, segment * SEGMENT_PAGES * PAGE, write=False, trail=trail)
    raw = memory.read(trail[-1].origin, 8 * SEGMENT_PAGES)
    assert isinstance(raw, bytes), "a host lost its own table"
    assert trail[-1].level < 0, "a segment without a page table"
    return np.frombuffer(raw, ">u8").astype(np.int64)
