"""Shadow tables: what a guest host maps for its guest, in frames of the level below.

Theory of operation. A `Space` is one address space of a guest host (the ASCE that it gave). It has a table of
the level's own, whose ASCE stays the same as long as the space exists, and which is filled lazily by walking
the guest host's tables: they may be empty when a guest is created. Each table that a walk read is
write-protected; a store to it traps and takes away exactly the entries that it changes. A frame that the
level below moves is found by the reverse map.

A space that *follows* has no gaps: it maps whatever the guest host's tables map, from the very store on that
says so. Nobody can enter a guest anew that is being dumped, so while a CPU is in such a guest a gap of this
level's own making would throw it out.

A page is *held* while a call that names it is under way below: it may lose its entry but gets no other one,
so the frame that the call used is known when the answer comes.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat
from protocol.arch.s390.tables import CRST_FRAMES, REGION_FIRST, REGION_THIRD, SEGMENT_PAGES, GuestTable
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.memory.columns import column
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, LEFTOVER, TABLE

if TYPE_CHECKING:
    from protocol.arch.s390.nesting.frames import Frames

SEGMENT_SHIFT = 20
REGION_THIRD_END = 1 << 42
PAGE_TABLE = -1


class Table(NamedTuple):
    """A table of the guest host that was read: for which space, its level (-1: page table), the first address
    it maps."""

    serial: int
    origin: int
    length: int
    level: int
    base: int


class Space:
    """One shadowed address space. Pages are virtual page numbers of the guest host's table (MSO included).

    There is one for every guest, so what is kept is small: an empty dict is a third of an empty set.
    """

    __slots__ = (
        "asce",
        "first",
        "follows",
        "held",
        "length",
        "mso",
        "page_tables",
        "read_only",
        "segments",
        "serial",
        "table",
        "upper",
        "users",
    )

    def __init__(self, serial: int, asce: int, mso: int, length: int, table: GuestTable) -> None:
        self.serial = serial
        self.asce = asce
        self.mso = mso
        self.length = length
        self.first = mso >> PAGE_SHIFT  # where page 0 of the guest is
        self.table = table
        self.segments: dict[int, array[int]] = {}  # segment -> frame + 1 for each of its pages
        self.page_tables: dict[int, tuple[Table, ...]] = {}  # segment -> what a walk read for it
        self.upper: dict[Table, None] = {}
        self.read_only: dict[int, None] = {}
        self.held: dict[int, int] = {}  # page -> calls under way that name it
        self.follows = False
        self.users = 0  # CPUs inside: a space of a normal guest is not recycled then

    def hold(self, page: int) -> None:
        """A call that names the page goes below: it may lose its entry, and gets no other one."""
        self.held[page] = self.held.get(page, 0) + 1

    def release(self, page: int) -> None:
        """That call is done."""
        self.held[page] -= 1
        if not self.held[page]:
            del self.held[page]

    @property
    def is_normal(self) -> bool:
        """Is its guest one that is not secure?"""
        return not self.length

    def frame_of(self, page: int) -> int | None:
        number, index = divmod(page, SEGMENT_PAGES)
        segment = self.segments.get(number)
        if segment is None or index >= len(segment) or not (frame := segment[index]):
            return None
        return frame - 1


def reach(segment: array[int], pages: int = SEGMENT_PAGES) -> None:
    """Have room for so many pages; a segment is as long as its last page that was ever mapped."""
    if pages > len(segment):
        segment.frombytes(bytes(4 * (pages - len(segment))))


def whole(segment: array[int] | None) -> np.ndarray:
    """All pages of a segment: frame + 1, or 0."""
    frames = np.zeros(SEGMENT_PAGES, np.int64)
    if segment:
        frames[: len(segment)] = segment
    return frames


class Shadows:
    """All spaces of one guest host."""

    def __init__(self, host: Frames, ledger: Ledger) -> None:
        self._host = host
        self._ledger = ledger
        self._serial = 0
        self.spaces: dict[int, Space] = {}
        self._protected: dict[int, tuple[Table, ...]] = {}  # frame -> the tables that begin in it
        frames = host.attention.size
        self.mapper = column(frames, np.uint32)  # frame -> serial of the space that maps it
        self.mapped_at = column(frames, np.uint64)  # and where
        self._more: dict[int, set[tuple[int, int]]] = {}  # frames that are mapped more than once

    def open(self, asce: int, mso: int, length: int) -> Space:
        """The empty shadow of a secure guest, with all frames that it can need. Raises OutOfFrames."""
        below = self._host.below
        end = mso + length
        table = GuestTable(
            below.memory, below.pool, REGION_THIRD if end <= REGION_THIRD_END else REGION_FIRST
        )
        try:
            table.reserve(mso >> PAGE_SHIFT, (length + 0xFFF) >> PAGE_SHIFT)
            below.keep_promises()
        except OutOfFrames:
            table.drop()
            raise
        return self._opened(asce, mso, length, table)

    def open_normal(self, asce: int) -> Space:
        """The empty shadow of a guest that is not secure; it grows as it is used. Raises OutOfFrames."""
        below = self._host.below
        top = REGION_THIRD if asce & dat.REAL_SPACE else max(REGION_THIRD, (asce & dat.TYPE) >> 2)
        table = GuestTable(below.memory, below.pool, top)
        try:
            below.keep_promises()
        except OutOfFrames:
            table.drop()
            raise
        return self._opened(asce, 0, 0, table)

    def _opened(self, asce: int, mso: int, length: int, table: GuestTable) -> Space:
        self._serial += 1
        space = Space(self._serial, asce, mso, length, table)
        self.spaces[space.serial] = space
        return space

    def close(self, space: Space) -> None:
        """Nobody enters a guest with this space any more."""
        for number, segment in space.segments.items():
            self._forget_segment(space.serial, number, segment)
        for table in [*space.upper, *(table for tables in space.page_tables.values() for table in tables)]:
            self._unprotect(table)
        space.table.drop()
        del self.spaces[space.serial]

    # -- filling -----------------------------------------------------------------------------

    def walk(self, space: Space, address: int, write: bool) -> int | Fault:
        """The guest host's own frame behind `address`, or the exception that its own table gives."""
        trail: list[dat.Step] = []
        absolute = dat.walk(self._host.peek, space.asce, address, write, trail)
        self._ledger.count(("translations", "guest_table"))
        if isinstance(absolute, Fault):
            return absolute
        if absolute >= self._host.size:
            return z.program(z.ADDRESSING, address, write)
        for step in trail:
            self._protect(space, Table(space.serial, step.origin, step.length, step.level, step.base))
        return absolute >> PAGE_SHIFT

    def fill(self, space: Space, address: int, write: bool) -> int | Fault:
        """Map the page at `address` as the guest host does and return its frame there.

        Or the guest host's exception. Raises OutOfFrames for the space of a normal guest only.
        """
        frame = self.walk(space, address, write)
        if isinstance(frame, Fault):
            return frame
        if self._host.attention_of(frame) & DONATED:
            return z.program(z.SECURE_ACCESS, address, write)
        if self._host.attention_of(frame) & LEFTOVER:
            self._host.replace_leftover(frame)
        if space.is_normal and self._host.is_outside(
            frame
        ):  # ciphertext below, out of reach for the guest host
            return z.program(z.SECURE_ACCESS, address, write)
        protect = not write and isinstance(self.walk(space, address, True), Fault)
        if space.is_normal:
            self._host.below.keep_promises(space.table.wants(address >> PAGE_SHIFT))
        self.map(space, address >> PAGE_SHIFT, frame, protect)
        return frame

    def follow(self, space: Space) -> None:
        """Map all that the guest host maps for its guest, now and until `follows` is taken back."""
        space.follows = True
        self._close_gaps(space, space.first, space.first + (space.length >> PAGE_SHIFT))

    def _close_gaps(self, space: Space, first: int, last: int) -> None:
        """Map what the guest host maps of these pages, and watch the tables that say what it maps."""
        page = max(first, space.first)
        end = min(last, space.first + (space.length >> PAGE_SHIFT))
        while page < end:
            trail: list[dat.Step] = []
            found = dat.walk(self._host.peek, space.asce, page << PAGE_SHIFT, False, trail)
            for step in trail:
                self._protect(space, Table(space.serial, step.origin, step.length, step.level, step.base))
            if not isinstance(found, Fault) and page not in space.held:
                write = not isinstance(self.walk(space, page << PAGE_SHIFT, True), Fault)
                self.fill(space, page << PAGE_SHIFT, write)
            ends_above = isinstance(found, Fault) and trail[-1:] and trail[-1].level != PAGE_TABLE
            page = (page // SEGMENT_PAGES + 1) * SEGMENT_PAGES if ends_above else page + 1

    def map(self, space: Space, page: int, frame: int, protect: bool = False) -> bool:
        """Map a page; False, with nothing stored, if it is mapped so already."""
        number, index = divmod(page, SEGMENT_PAGES)
        segment = space.segments.get(number)
        if segment is None:
            segment = array("I")
        reach(segment, index + 1)
        old = segment[index] - 1
        if old == frame and protect == (page in space.read_only):
            return False
        space.table.map(page, self._host.frame_below(frame), protect)
        space.segments[number] = segment
        if old != frame:
            if old >= 0:
                self._forget_frame(old, space.serial, page)
            self._remember_frame(frame, space.serial, page)
            segment[index] = frame + 1
        if protect:
            space.read_only[page] = None
        else:
            space.read_only.pop(page, None)
        self._ledger.count(("table_ops", "map"))
        return True

    # -- taking away -------------------------------------------------------------------------

    def unmap(self, space: Space, page: int) -> None:
        frame = space.frame_of(page)
        if frame is None:
            return
        space.segments[page // SEGMENT_PAGES][page % SEGMENT_PAGES] = 0
        space.table.unmap(page)
        self._forget_frame(frame, space.serial, page)
        self._ledger.count(("table_ops", "unmap"))

    def unmap_frame(self, frame: int) -> None:
        """The level below is about to move this frame: no shadow may map it."""
        for serial, page in self._mappings(frame):
            self.unmap(self.spaces[serial], page)

    def unmap_all(self, space: Space) -> None:
        """Forget every entry of a space; they come back one by one."""
        for number in list(space.segments):
            self._drop_segment(space, number)

    def _drop_segment(self, space: Space, number: int) -> None:
        segment = space.segments.pop(number, None)
        if segment is not None:
            self._forget_segment(space.serial, number, segment)
            space.table.unmap_segment(number)
            self._ledger.count(("table_ops", "unlink"))
        for table in space.page_tables.pop(number, ()):
            self._unprotect(table)

    def written(self, address: int, length: int) -> None:
        """The guest host stores to a frame with tables in it."""
        end = address + length
        for table in sorted(self._tables_in(address >> PAGE_SHIFT)):
            first, last = max(address, table.origin), min(end, table.origin + table.length)
            if first < last:
                index, final = (first - table.origin) >> 3, (last - 1 - table.origin) >> 3
                space = self.spaces[table.serial]
                self._entries_changed(space, table, index, final)
                if space.follows:
                    pages = 1 << (SEGMENT_SHIFT - PAGE_SHIFT + 11 * table.level if table.level >= 0 else 0)
                    base = table.base >> PAGE_SHIFT
                    self._close_gaps(space, base + index * pages, base + (final + 1) * pages)

    def _entries_changed(self, space: Space, table: Table, first: int, last: int) -> None:
        if table.level == PAGE_TABLE:
            base = table.base >> PAGE_SHIFT
            segment = space.segments.get(base // SEGMENT_PAGES)
            # Mostly the entries are new, and the shadow has none of them.
            if segment is not None and any(segment[first : last + 1]):
                for page in range(base + first, base + last + 1):
                    self.unmap(space, page)
            return
        shift = SEGMENT_SHIFT + 11 * table.level
        start, stop = table.base + (first << shift), table.base + ((last + 1) << shift)
        if table.level == 0:
            for number in range(start >> SEGMENT_SHIFT, stop >> SEGMENT_SHIFT):
                self._drop_segment(space, number)
            return
        for number in [number for number in space.segments if start <= number << SEGMENT_SHIFT < stop]:
            self._drop_segment(space, number)
        for below in [below for below in space.upper if below.level < table.level]:
            if start <= below.base < stop:
                space.upper.pop(below, None)
                self._unprotect(below)

    # -- write protection --------------------------------------------------------------------

    def _tables_in(self, frame: int) -> list[Table]:
        """Tables of which a part lies in the frame: they begin in it, or a little before."""
        near = range(frame - CRST_FRAMES + 1, frame + 1)
        return [
            table for first in near for table in self._protected.get(first, ()) if frame in _frames(table)
        ]

    def _protect(self, space: Space, table: Table) -> None:
        if table.level == PAGE_TABLE:
            segment = table.base >> SEGMENT_SHIFT
            seen = space.page_tables.get(segment, ())
            if table in seen:
                return
            space.page_tables[segment] = (*seen, table)
        elif table in space.upper:
            return
        else:
            space.upper[table] = None
        first = table.origin >> PAGE_SHIFT
        self._protected[first] = (*self._protected.get(first, ()), table)
        for frame in _frames(table):
            if frame < self._host.attention.size:
                self._host.mark(frame, TABLE)
                self._ledger.count(("table_ops", "protect"))

    def _unprotect(self, table: Table) -> None:
        first = table.origin >> PAGE_SHIFT
        users = self._protected.get(first, ())
        if table not in users:
            return
        if left := tuple(user for user in users if user != table):
            self._protected[first] = left
        else:
            del self._protected[first]
        for frame in _frames(table):
            if frame < self._host.attention.size and not self._tables_in(frame):
                self._host.unmark(frame, TABLE)

    def forget_tables(self, frame: int) -> None:
        """The frame is no longer the guest host's to store to: what was read from it is no table any more."""
        for table in self._tables_in(frame):
            space, segment = self.spaces[table.serial], table.base >> SEGMENT_SHIFT
            self._entries_changed(space, table, 0, (table.length >> 3) - 1)
            space.upper.pop(table, None)
            if table in space.page_tables.get(segment, ()):
                left = tuple(other for other in space.page_tables[segment] if other != table)
                space.page_tables[segment] = left
            self._unprotect(table)

    # -- the reverse map -----------------------------------------------------------------------

    def _remember_frame(self, frame: int, serial: int, page: int) -> None:
        if self.mapper[frame]:
            self._more.setdefault(frame, set()).add((serial, page))
        else:
            self.mapper[frame], self.mapped_at[frame] = serial, page

    def _forget_frame(self, frame: int, serial: int, page: int) -> None:
        if self.mapper[frame] == serial and self.mapped_at[frame] == page:
            if frame not in self._more:
                self.mapper[frame] = 0
                return
            self.mapper[frame], self.mapped_at[frame] = self._more[frame].pop()
        else:
            self._more[frame].remove((serial, page))
        if not self._more[frame]:
            del self._more[frame]

    def _forget_segment(self, serial: int, number: int, segment: array[int]) -> None:
        """All entries of a segment at once."""
        entries = np.array(segment, np.int64)
        index = np.flatnonzero(entries)
        frames, pages = entries[index] - 1, (number * SEGMENT_PAGES + index).astype(np.uint64)
        alone = (self.mapper[frames] == serial) & (self.mapped_at[frames] == pages)
        if self._more:
            alone &= ~np.isin(frames, np.fromiter(self._more, np.int64))
        self.mapper[frames[alone]] = 0
        for frame, page in zip(frames[~alone].tolist(), pages[~alone].tolist(), strict=True):
            self._forget_frame(frame, serial, page)

    def _mappings(self, frame: int) -> list[tuple[int, int]]:
        if not self.mapper[frame]:
            return []
        return [(int(self.mapper[frame]), int(self.mapped_at[frame])), *sorted(self._more.get(frame, ()))]


def _frames(table: Table) -> range:
    return range(table.origin >> PAGE_SHIFT, (table.origin + table.length + 0xFFF) >> PAGE_SHIFT)
