"""Build and edit guest tables in a host's own memory, entry by entry as a host does.

The shape is Linux's for guests up to 4 TiB: a region-third table, segment tables of 2048 entries (16 KiB), page tables
of 256 entries (2 KiB, two in a frame). A store goes through the host's own memory, so it traps where that host's tables
are shadowed. Layout: section 8.4 of the fact sheet.
"""

from __future__ import annotations

import numpy as np

from protocol.arch.s390 import dat
from protocol.effects import Fault
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import OwnMemory

CRST_FRAMES = 4
SEGMENT_PAGES = 256
REGION_SEGMENTS = 2048
_INVALID_CRST = {
    1: (0x04 | dat.INVALID).to_bytes(8, "big") * 2048,
    0: dat.INVALID.to_bytes(8, "big") * 2048,
}
_INVALID_PAGES = dat.PAGE_INVALID.to_bytes(8, "big") * SEGMENT_PAGES


class GuestTable:
    """The table of one guest: maps its pages to frames of the host that owns `memory`."""

    def __init__(self, memory: OwnMemory, pool: Pool) -> None:
        self._memory = memory
        self._pool = pool
        self._segments: dict[int, int] = {}  # region-third index -> origin of its segment table
        self._pages: dict[int, int] = {}  # segment number -> origin of its page table
        self._half: int | None = None  # the free half of a frame that holds one page table
        self._crst: list[int] = []
        self._frames: list[int] = []
        self.root = self._new_crst(1)

    @property
    def asce(self) -> int:
        """Region-third table of full length, private space."""
        return self.root | dat.PRIVATE | 0x04 | 0x03

    @property
    def frames(self) -> int:
        return CRST_FRAMES * len(self._crst) + len(self._frames)

    def map(self, page: int, frame: int, protect: bool = False) -> None:
        entry = frame << PAGE_SHIFT | (dat.PROTECT if protect else 0)
        self._store(self._page_table(page // SEGMENT_PAGES) + 8 * (page % SEGMENT_PAGES), entry.to_bytes(8, "big"))

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
        table = self._pages.get(page // SEGMENT_PAGES)
        if table is None:
            return False
        self._store(table + 8 * (page % SEGMENT_PAGES), dat.PAGE_INVALID.to_bytes(8, "big"))
        return True

    def unmap_segment(self, segment: int) -> bool:
        """Invalidate all 256 pages of a segment."""
        table = self._pages.get(segment)
        if table is None:
            return False
        self._store(table, _INVALID_PAGES, SEGMENT_PAGES)
        return True

    def segments(self) -> list[int]:
        """Numbers of the segments that have a page table."""
        return list(self._pages)

    def drop(self) -> None:
        """Give all frames back; nobody may walk the table any more."""
        for origin in self._crst:
            self._pool.give_run(origin >> PAGE_SHIFT, CRST_FRAMES)
        self._pool.give(self._frames)
        self._crst, self._frames, self._half = [], [], None
        self._segments.clear()
        self._pages.clear()

    def _page_table(self, segment: int) -> int:
        table = self._pages.get(segment)
        if table is None:
            table = self._pages[segment] = self._new_page_table()
            region, index = divmod(segment, REGION_SEGMENTS)
            self._store(self._segment_table(region) + 8 * index, table.to_bytes(8, "big"))
        return table

    def _segment_table(self, region: int) -> int:
        origin = self._segments.get(region)
        if origin is None:
            origin = self._segments[region] = self._new_crst(0)
            self._store(self.root + 8 * region, (origin | 0x04 | 0x03).to_bytes(8, "big"))
        return origin

    def _new_crst(self, level: int) -> int:
        origin = self._pool.take_run(CRST_FRAMES) << PAGE_SHIFT
        self._crst.append(origin)
        self._store(origin, _INVALID_CRST[level])
        return origin

    def _new_page_table(self) -> int:
        if self._half is not None:
            origin, self._half = self._half, None
        else:
            frame = self._pool.take()
            self._frames.append(frame)
            origin = frame << PAGE_SHIFT
            self._half = origin + 0x800
        self._store(origin, _INVALID_PAGES)
        return origin

    def _store(self, address: int, data: bytes, stores: int = 1) -> None:
        fault = self._memory.write(address, data, stores)
        assert not isinstance(fault, Fault), f"a host cannot store to its own table: {fault}"
