"""Shared EPTs of a guest host's TDs, shadowed: section 7.3.

The guest host edits the shared half of its TDs' tables with plain stores, in its own addresses. The module
below is given tables of this level instead. They are filled when a guest misses something in them, entry
for entry with the guest host's own, whose pages trap from then on; a store to one empties what it changed.
What is empty here leaves the guest, so this level always sees a miss first.

A table here is known by the guest host's frame and the level of its entries, so TDs and paths that share a
table share its shadow. There is a limit; behind it all but the roots start anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.machine.access import MACHINE_CHECK, Exit, shared_exit
from protocol.arch.tdx.nesting.entities import TrackedVcpu
from protocol.arch.tdx.shared_ept import ADDRESS, RWX, SUPPRESS_VE, End, Visited, slot_of, walk
from protocol.arch.tdx.structs import U64
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import TABLE

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested

EMPTY = SUPPRESS_VE
ENTRIES = 512
LIMIT = 1024  # tables for one guest host, beside the roots of its VCPUs
DEEPEST = 5
LEVELS = range(DEEPEST)
ENTRY = 8

Key = tuple[int, int]  # the guest host's frame, the level of the entries


class Shadows:
    def __init__(self, n: Nested) -> None:
        self._n = n
        self._tables: dict[Key, int] = {}  # -> frame of the level below

    def __len__(self) -> int:
        return len(self._tables)

    # -- a guest missed something ------------------------------------------------------------------

    def resolve(self, vcpu: TrackedVcpu, gpa: int, kind: int) -> Exit | None:
        """Why the guest host has to know; None if it does not, and the guest can go on."""
        top = vcpu.td.eptp >> 3 & 7
        found = walk(self._n, vcpu.shared_eptp, top, gpa, kind)
        if found.end is End.MACHINE_CHECK:
            return MACHINE_CHECK
        if found.end in (End.LEAF, End.VE):
            self._fill(found.path, gpa)
            return None
        return shared_exit(found, gpa, kind)

    def _fill(self, path: list[Visited], gpa: int) -> None:
        self._make_room(DEEPEST)
        shadows = [self._table(visited.table >> PAGE_SHIFT, visited.level) for visited in path]
        for shadow, visited, following in zip(shadows, path, [*shadows[1:], None], strict=True):
            if following is None:
                entry = self._leaf(visited)
            else:
                entry = visited.entry & ~ADDRESS | following << PAGE_SHIFT
            self._put(shadow, slot_of(gpa, visited.level), entry)
        self._n.ledger.count(("translations", "shared_ept"))

    def _leaf(self, visited: Visited) -> int:
        """The guest host's last entry, its page by the address below."""
        entry = visited.entry
        if not entry & RWX:
            return entry & ~ADDRESS
        inside = PAGE << 9 * visited.level
        address = self._n.profile.without_hkid(entry & ADDRESS) & ~(inside - 1)
        return entry & ~ADDRESS | self._n.anywhere(address)

    def _put(self, shadow: int, slot: int, entry: int) -> None:
        self._n.below.memory.write(shadow << PAGE_SHIFT | ENTRY * slot, U64.pack(entry))
        self._n.ledger.count(("table_ops", "set"))

    # -- tables ------------------------------------------------------------------------------------

    def root(self, address: int, top: int) -> int:
        """The address below of what shadows the guest host's root at `address`, which a VCPU will have."""
        self._make_room(1)
        return self._table(address >> PAGE_SHIFT, top) << PAGE_SHIFT

    def _table(self, frame: int, level: int) -> int:
        shadow = self._tables.get((frame, level))
        if shadow is None:
            shadow = self._n.below.pool.take()
            self._n.below.memory.write(shadow << PAGE_SHIFT, U64.pack(EMPTY) * ENTRIES, ENTRIES)
            self._tables[frame, level] = shadow
            self._n.ledger.count(("table_ops", "alloc"))
            if frame << PAGE_SHIFT < self._n.size:
                self._n.mark(frame, TABLE)
        return shadow

    def written(self, address: int, length: int) -> None:
        """The guest host stored to a table: what changed is looked at again when a guest misses it."""
        frame = address >> PAGE_SHIFT
        first, last = (address & OFFSET) // ENTRY, ((address & OFFSET) + length - 1) // ENTRY
        count = last - first + 1
        for level in LEVELS:
            shadow = self._tables.get((frame, level))
            if shadow is not None:
                at = shadow << PAGE_SHIFT | ENTRY * first
                self._n.below.memory.write(at, U64.pack(EMPTY) * count, count)
                self._n.ledger.count(("table_ops", "zap"), count)

    # -- the end -----------------------------------------------------------------------------------

    def _make_room(self, tables: int) -> None:
        """For so many more tables. The guest host's VCPUs, and with them their roots, are paid for by it."""
        limit = LIMIT + len(self._n.vcpus)
        if len(self._tables) + tables > limit or self._n.below.pool.free < tables:
            self._start_anew()

    def _start_anew(self) -> None:
        """Drop everything but the roots, which are empty then."""
        roots = {
            (self._n.profile.without_hkid(root & ADDRESS) >> PAGE_SHIFT, vcpu.td.eptp >> 3 & 7)
            for vcpu in self._n.vcpus.values()
            for root in (vcpu.shared_eptp, *vcpu.coming)
        }
        for key in [key for key in self._tables if key not in roots]:
            self._drop(key)
        for frame, _ in self._tables:
            self.written(frame << PAGE_SHIFT, PAGE)

    def _drop(self, key: Key) -> None:
        self._n.below.pool.give([self._tables.pop(key)])
        frame = key[0]
        if frame << PAGE_SHIFT < self._n.size and not any((frame, level) in self._tables for level in LEVELS):
            self._n.unmark(frame, TABLE)

    def clear(self) -> None:
        for key in list(self._tables):
            self._drop(key)
