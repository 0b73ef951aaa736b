"""Shadow tables: what a guest host maps for its guest, in frames of the level below.

Theory of operation. A `Space` is one address space of a guest host (the ASCE that it gave). It has a table of the level's
own, whose ASCE stays the same as long as the space exists, and which is filled lazily by walking the guest host's
tables: they may be empty when a guest is created. Each table that a walk read is write-protected; a store to it traps
and takes away exactly the entries that it changes. A frame that the level below moves is found by the reverse map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat
from protocol.arch.s390.tables import SEGMENT_PAGES, GuestTable
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import TABLE, GuestHost

SEGMENT_SHIFT = 20


class Table(NamedTuple):
    """A table of the guest host that was read: its level (-1 for a page table) and the first address it maps."""

    origin: int
    length: int
    level: int
    base: int


class Space:
    """One shadowed address space. Pages are virtual page numbers of the guest host's table (MSO included)."""

    def __init__(self, serial: int, asce: int, mso: int, length: int, table: GuestTable) -> None:
        self.serial = serial
        self.asce = asce
        self.mso = mso
        self.length = length
        self.table = table
        self.first = mso >> PAGE_SHIFT
        self.mapped = np.zeros((length + 0xFFF) >> PAGE_SHIFT, np.uint32)  # frame + 1
        self.seen: set[Table] = set()

    def frame_of(self, page: int) -> int | None:
        index = page - self.first
        if 0 <= index < self.mapped.size and (frame := int(self.mapped[index])):
            return frame - 1
        return None


class Shadows:
    """All spaces of one guest host."""

    def __init__(self, host: GuestHost, ledger: Ledger) -> None:  # type: ignore[type-arg]
        self._host = host
        self._ledger = ledger
        self._serial = 0
        self.spaces: dict[int, Space] = {}
        self._protected: dict[int, set[tuple[int, Table]]] = {}  # frame -> (serial, table) that lie in it
        frames = host.attention.size
        self.mapper = np.zeros(frames, np.uint32)  # frame -> serial of the space that maps it
        self.mapped_at = np.zeros(frames, np.uint32)  # and where
        self._more: dict[int, set[tuple[int, int]]] = {}  # frames that are mapped more than once

    def open(self, asce: int, mso: int, length: int) -> Space:
        """A new, empty shadow. Raises OutOfFrames."""
        below = self._host.below
        self._serial += 1
        space = Space(self._serial, asce, mso, length, GuestTable(below.memory, below.pool))
        self.spaces[space.serial] = space
        return space

    def close(self, space: Space) -> None:
        """Nobody enters a guest with this space any more."""
        for index in np.flatnonzero(space.mapped).tolist():
            self._forget_frame(int(space.mapped[index]) - 1, space.serial, space.first + index)
        for table in list(space.seen):
            self._unprotect(space, table)
        space.table.drop()
        del self.spaces[space.serial]

    # -- filling --------------------------------------------------------------------------------------------------

    def walk(self, space: Space, address: int, write: bool) -> int | Fault:
        """The guest host's own frame behind `address` of the space, or the exception that its own table gives."""
        trail: list[dat.Step] = []
        absolute = dat.walk(self._host.peek, space.asce, address, write, trail)
        self._ledger.count(("translations", "guest_table"))
        if not isinstance(absolute, Fault):
            if absolute >= self._host.size:
                return z.program(z.ADDRESSING, address, write)
            for step in trail:
                self._protect(space, Table(step.origin, step.length, step.level, step.base))
            return absolute >> PAGE_SHIFT
        return absolute

    def fill(self, space: Space, address: int, write: bool) -> int | Fault:
        """Map the page at `address` as the guest host does and return its frame there, or the guest host's exception."""
        frame = self.walk(space, address, write)
        if isinstance(frame, Fault):
            return frame
        if self._host.frame_below(frame) < 0:
            return z.program(z.SECURE_ACCESS, address, write)
        protect = not write and isinstance(self.walk(space, address, True), Fault)
        self.map(space, address >> PAGE_SHIFT, frame, protect)
        return frame

    def map(self, space: Space, page: int, frame: int, protect: bool = False) -> None:
        old = space.frame_of(page)
        if old is not None and old != frame:
            self._forget_frame(old, space.serial, page)
        if old != frame:
            self._remember_frame(frame, space.serial, page)
        space.mapped[page - space.first] = frame + 1
        space.table.map(page, self._host.frame_below(frame), protect)
        self._ledger.count(("table_ops", "map"))

    # -- taking away ------------------------------------------------------------------------------------------------

    def unmap(self, space: Space, page: int) -> None:
        frame = space.frame_of(page)
        if frame is None:
            return
        space.mapped[page - space.first] = 0
        space.table.unmap(page)
        self._forget_frame(frame, space.serial, page)
        self._ledger.count(("table_ops", "unmap"))

    def unmap_frame(self, frame: int) -> None:
        """The level below is about to move this frame: no shadow may map it."""
        for serial, page in self._mappings(frame):
            self.unmap(self.spaces[serial], page)

    def written(self, address: int, length: int) -> None:
        """The guest host stores to a frame with tables in it."""
        end = address + length
        for serial, table in sorted(self._protected.get(address >> PAGE_SHIFT, ())):
            first, last = max(address, table.origin), min(end, table.origin + table.length)
            if first < last:
                index, final = (first - table.origin) >> 3, (last - 1 - table.origin) >> 3
                self._entries_changed(self.spaces[serial], table, index, final)

    def _entries_changed(self, space: Space, table: Table, first: int, last: int) -> None:
        if table.level < 0:
            base = table.base >> PAGE_SHIFT
            for page in range(base + first, base + last + 1):
                self.unmap(space, page)
            return
        shift = SEGMENT_SHIFT + 11 * table.level
        start, stop = table.base + (first << shift), table.base + ((last + 1) << shift)
        for segment in space.table.segments():
            if start <= segment << SEGMENT_SHIFT < stop:
                for page in range(segment * SEGMENT_PAGES, (segment + 1) * SEGMENT_PAGES):
                    self.unmap(space, page)
        for below in list(space.seen):
            if below.level < table.level and start <= below.base < stop:
                self._unprotect(space, below)

    # -- write protection --------------------------------------------------------------------------------------------

    def _protect(self, space: Space, table: Table) -> None:
        if table in space.seen:
            return
        space.seen.add(table)
        for frame in _frames(table):
            if frame < self._host.attention.size:
                self._protected.setdefault(frame, set()).add((space.serial, table))
                self._host.mark(frame, TABLE)
                self._ledger.count(("table_ops", "protect"))

    def _unprotect(self, space: Space, table: Table) -> None:
        space.seen.discard(table)
        for frame in _frames(table):
            users = self._protected.get(frame)
            if users is None:
                continue
            users.discard((space.serial, table))
            if not users:
                del self._protected[frame]
                self._host.unmark(frame, TABLE)

    # -- the reverse map -----------------------------------------------------------------------------------------------

    def _remember_frame(self, frame: int, serial: int, page: int) -> None:
        if self.mapper[frame]:
            self._more.setdefault(frame, set()).add((serial, page))
        else:
            self.mapper[frame], self.mapped_at[frame] = serial, page

    def _forget_frame(self, frame: int, serial: int, page: int) -> None:
        more = self._more.get(frame)
        if self.mapper[frame] == serial and self.mapped_at[frame] == page:
            self.mapper[frame] = 0
            if more:
                self.mapper[frame], self.mapped_at[frame] = more.pop()
        elif more:
            more.discard((serial, page))
        if more is not None and not more:
            del self._more[frame]

    def _mappings(self, frame: int) -> list[tuple[int, int]]:
        if not self.mapper[frame]:
            return []
        return [(int(self.mapper[frame]), int(self.mapped_at[frame])), *self._more.get(frame, ())]


def _frames(table: Table) -> range:
    return range(table.origin >> PAGE_SHIFT, (table.origin + table.length + 0xFFF) >> PAGE_SHIFT)


