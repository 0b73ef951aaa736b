"""Build and edit guest tables in a host's own memory, entry by entry as a host does.

The shape is Linux's: region and segment tables of 2048 entries (16 KiB), page tables of 256 entries (2 KiB,
two in a frame). The top is a region-third table, good for 4 TiB, unless more is asked for. A store goes
through the host's own memory, so it traps where that host's tables are shadowed. Layout: section 8.4 of the
fact sheet.
"""

from __future__ import annotations

from array import array

import numpy as np

from protocol.arch.s390 import dat
from protocol.effects import Fault
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import OwnMemory

CRST_FRAMES = 4
SEGMENT_PAGES = 256
CRST_ENTRIES = 2048
REGION_THIRD, REGION_FIRST = 1, 3  # levels of a top table; 0 is a segment table, -1 a page table
_LENGTH = 0x03  # a full table
_INVALID_CRST = tuple((dat.INVALID | level << 2).to_bytes(8, "big") * CRST_ENTRIES for level in range(4))
_LEVEL_SHIFT = 48
_PAGE_TABLES = 7 << _LEVEL_SHIFT  # where a level stands; there is none of this number
_NONE = array("q")  # of every table without page tables; it stays empty
_INVALID_PAGES = dat.PAGE_INVALID.to_bytes(8, "big") * SEGMENT_PAGES


class GuestTable:
    """The table of one guest: maps its pages to frames of the host that owns `memory`."""

    __slots__ = ("_frames", "_free", "_memory", "_pool", "_tables", "_top", "root")

    def __init__(self, memory: OwnMemory, pool: Pool, top: int = REGION_THIRD) -> None:
        """An empty table. Raises OutOfFrames with nothing taken."""
        self._memory = memory
        self._pool = pool
        self._top = top
        # Level and number of a table -> origin. One map: every guest at rest has it.
        self._tables: dict[int, int] = {}
        self._free = _NONE  # origins of page tables that nothing links
        self._frames = _NONE  # where page tables lie
        self.root = self._new_crst(top, 0)

    @property
    def asce(self) -> int:
        """Full length, private space."""
        return self.root | dat.PRIVATE | self._top << 2 | _LENGTH

    @property
    def frames(self) -> int:
        return CRST_FRAMES * len(self._upper()) + len(self._frames)

    def occupied(self) -> list[int]:
        """All of them."""
        return [
            *((origin >> PAGE_SHIFT) + at for origin in self._upper() for at in range(CRST_FRAMES)),
            *self._frames,
        ]

    def reserve(self, first: int, pages: int) -> None:
        """Have all frames that mapping pages [first, first + pages) can need. Raises OutOfFrames."""
        segments = range(first // SEGMENT_PAGES, (first + max(pages, 1) - 1) // SEGMENT_PAGES + 1)
        for number in range(segments.start // CRST_ENTRIES, (segments.stop - 1) // CRST_ENTRIES + 1):
            self._crst_of(0, number)
        missing = len(segments) - len(self.segments()) - len(self._free)
        if missing > 0:
            self._more_page_tables(self._pool.take_singles((missing + 1) // 2))

    def wants(self, page: int) -> int:
        """How many frames more mapping this page takes."""
        segment = page // SEGMENT_PAGES
        if _PAGE_TABLES | segment in self._tables:
            return 0
        frames = 0 if self._free else 1
        level, number = 0, segment // CRST_ENTRIES
        while level << _LEVEL_SHIFT | number not in self._tables:
            frames += CRST_FRAMES
            level, number = level + 1, number // CRST_ENTRIES
        return frames

    # -- entries -----------------------------------------------------------------------------

    def map(self, page: int, frame: int, protect: bool = False) -> None:
        """Map one page. Raises OutOfFrames with nothing changed."""
        entry = frame << PAGE_SHIFT | (dat.PROTECT if protect else 0)
        table = self._page_table(page // SEGMENT_PAGES)
        self._store(table + 8 * (page % SEGMENT_PAGES), entry.to_bytes(8, "big"))

    def map_run(self, page: int, frames: np.ndarray) -> None:
        """Map pages [page, page + len(frames)); one store for each entry."""
        entries = (frames.astype(np.uint64) << np.uint64(PAGE_SHIFT)).astype(">u8").tobytes()
        done = 0
        while done < len(frames):
            at = page + done
            n = min(len(frames) - done, SEGMENT_PAGES - at % SEGMENT_PAGES)
            table = self._page_table(at // SEGMENT_PAGES)
            self._store(table + 8 * (at % SEGMENT_PAGES), entries[8 * done : 8 * (done + n)], n)
            done += n

    def unmap(self, page: int) -> bool:
        """Invalidate one entry; False if no table maps it."""
        table = self._tables.get(_PAGE_TABLES | page // SEGMENT_PAGES)
        if table is None:
            return False
        self._store(table + 8 * (page % SEGMENT_PAGES), dat.PAGE_INVALID.to_bytes(8, "big"))
        return True

    def unmap_segment(self, segment: int) -> bool:
        """Take 256 pages away by one store: their page table is unlinked."""
        table = self._tables.pop(_PAGE_TABLES | segment, None)
        if table is None:
            return False
        number, index = divmod(segment, CRST_ENTRIES)
        self._store(self._tables[number] + 8 * index, dat.INVALID.to_bytes(8, "big"))
        self._free.append(table)
        return True

    def segments(self) -> list[int]:
        """Numbers of the segments that have a page table."""
        return [key ^ _PAGE_TABLES for key in self._tables if key >= _PAGE_TABLES]

    def drop(self) -> None:
        """Give all frames back; nobody may walk the table any more."""
        for origin in self._upper():
            self._pool.give_run(origin >> PAGE_SHIFT, CRST_FRAMES)
        self._pool.give(self._frames)
        self._frames = self._free = _NONE
        self._tables.clear()

    # -- tables ------------------------------------------------------------------------------

    def _upper(self) -> list[int]:
        """Origins of the region and segment tables."""
        return [origin for key, origin in self._tables.items() if key < _PAGE_TABLES]

    def _page_table(self, segment: int) -> int:
        table = self._tables.get(_PAGE_TABLES | segment)
        if table is None:
            number, index = divmod(segment, CRST_ENTRIES)
            parent = self._crst_of(0, number)
            table = self._new_page_table()
            self._store(parent + 8 * index, table.to_bytes(8, "big"))
            self._tables[_PAGE_TABLES | segment] = table
        return table

    def _crst_of(self, level: int, number: int) -> int:
        """Origin of table `number` of a level, linked into the tables above it."""
        origin = self._tables.get(level << _LEVEL_SHIFT | number)
        if origin is None:
            above, index = divmod(number, CRST_ENTRIES)
            parent = self._crst_of(level + 1, above)
            origin = self._new_crst(level, number)
            self._store(parent + 8 * index, (origin | level + 1 << 2 | _LENGTH).to_bytes(8, "big"))
        return origin

    def _new_crst(self, level: int, number: int) -> int:
        origin = self._pool.take_run(CRST_FRAMES) << PAGE_SHIFT
        self._tables[level << _LEVEL_SHIFT | number] = origin
        self._store(origin, _INVALID_CRST[level])
        return origin

    def _new_page_table(self) -> int:
        if not self._free:
            self._more_page_tables([self._pool.take()])
        table = self._free.pop()
        self._store(table, _INVALID_PAGES)
        return table

    def _more_page_tables(self, frames: list[int]) -> None:
        if not self._frames:
            self._frames, self._free = array("q"), array("q")
        self._frames.extend(frames)
        for frame in frames:
            self._free.extend(((frame << PAGE_SHIFT) + 0x800, frame << PAGE_SHIFT))

    def _store(self, address: int, data: bytes, stores: int = 1) -> None:
        fault = self._memory.write(address, data, stores)
        assert not isinstance(fault, Fault), f"a host cannot store to its own table: {fault}"
