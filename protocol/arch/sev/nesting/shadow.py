"""Shadows of the nested tables that a guest host keeps for its guests.

Section 7 of the fact sheet.

A shadow maps guest pages to frames of the level below, leaf by leaf as faults ask for them, always in 4
KiB: a small leaf is right inside a large RMP entry. The guest host's tables are write-protected as far as a
shadow depends on them; a store to one drops all shadows made from it, and they are filled again. So does a
change of the RMP for the frames around.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.sev.npt import PRESENT, USER, WRITABLE, Leaf, Missing, walk
from protocol.arch.sev.rmp import SUBPAGES
from protocol.arch.sev.structs import PAGE, U64
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import TABLE

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

SPACES = 64  # shadows kept for a host at the top, or fewer if there are many hosts; the oldest makes room
LEAST = 4
_LEVELS = (39, 30, 21)
_ZERO = bytes(PAGE)


@dataclass(slots=True)
class Space:
    """The shadow of one table for one kind of guest.

    `pages` maps guest pages to (frame of the guest host, writable); `read` are the frames of the guest host's
    tables that it depends on. So many CPUs have `entered`: as long as one has, it may be emptied, not closed.
    """

    key: tuple[int, int, int]
    root: int
    tables: dict[tuple[int, int], int] = field(default_factory=dict)
    pages: dict[int, tuple[int, bool]] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    entered: int = 0


class Shadows:
    """All shadows of one guest host."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested
        self._memory: Any = nested.below.memory
        self._spaces: dict[tuple[int, int, int], Space] = {}
        self._made_from: dict[int, set[tuple[int, int, int]]] = {}  # frame of a table -> shadows
        self._around: dict[
            tuple[int, int], set[tuple[tuple[int, int, int], int]]
        ] = {}  # 2 MiB block of frames, as far as it is one host's at the top -> mappings

    def space(self, ncr3: int, asid: int, mode: int) -> Space:
        key = ncr3, asid, mode
        found = self._spaces.get(key)
        if found is None:
            self._make_room(asid)
            found = self._spaces[key] = Space(key, self._new_table())
            self._nested.ledger.count(("table_ops", "shadow_open"))
        return found

    def _make_room(self, asid: int) -> None:
        """Among those of the same host at the top: what one of them has must not depend on another."""
        shares, share = self._nested.shares, self._nested.share_of_asid(asid)
        mine = [space for key, space in self._spaces.items() if self._nested.share_of_asid(key[1]) == share]
        if len(mine) >= (SPACES if shares == 1 else max(LEAST, 4 * SPACES // shares)):
            for space in [space for space in mine if not space.entered][:1]:
                self._close(space)

    def walk(self, space: Space, gpa: int, write: bool) -> Leaf | Missing:
        """Walk the guest host's own table; what was read is protected, as the shadow may come to depend on
        it.
        """
        nested = self._nested

        def read(address: int) -> bytes | None:
            data = nested.peek(address, 8)
            if not isinstance(data, bytes):
                return None
            frame = address >> PAGE_SHIFT
            nested.mark(frame, TABLE)
            self._made_from.setdefault(frame, set()).add(space.key)
            space.read.add(frame)
            return data

        return walk(read, space.key[0], gpa, write)

    def map(self, space: Space, page: int, frame: int, writable: bool) -> None:
        table = space.root
        for shift in _LEVELS:
            key = shift, page >> (shift - PAGE_SHIFT)
            below = space.tables.get(key)
            if below is None:
                below = space.tables[key] = self._new_table()
                self._store(table + 8 * (key[1] & 0x1FF), below | PRESENT | WRITABLE | USER)
            table = below
        address = self._nested.frame_below(frame) << PAGE_SHIFT
        self._store(table + 8 * (page & 0x1FF), address | PRESENT | USER | (WRITABLE if writable else 0))
        if page in space.pages:
            self._forget(space, page)
        space.pages[page] = frame, writable
        self._around.setdefault(self._block(frame), set()).add((space.key, page))
        self._nested.ledger.count(("table_ops", "map"))

    def known(self, ncr3: int, asid: int, mode: int) -> Space | None:
        """The shadow that `space` would give, if it is open."""
        return self._spaces.get((ncr3, asid, mode))

    def map_each(self, space: Space, pages: np.ndarray, frames: np.ndarray) -> None:
        """Map guest pages, writable, whose tables are there: a store for each table."""
        order = np.argsort(pages)
        pages, frames = pages[order], frames[order]
        below = self._nested.slots[frames].astype(np.uint64) << np.uint64(PAGE_SHIFT)
        entries = below | np.uint64(PRESENT | USER | WRITABLE)
        starts = np.flatnonzero(np.diff(pages >> 9, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], pages.size], strict=True):
            table = space.tables[21, int(pages[start]) >> 9]
            leaves = np.frombuffer(bytearray(self._memory.peek(table, PAGE)), "<u8")
            leaves[pages[start:stop] & 0x1FF] = entries[start:stop]
            fault = self._memory.write(table, leaves.tobytes())
            assert fault is None, f"a level cannot store to its own table: {fault}"
        for page, frame in zip(pages.tolist(), frames.tolist(), strict=True):
            space.pages[page] = frame, True
            self._around.setdefault(self._block(frame), set()).add((space.key, page))

    def forget_around(self, frame: int) -> None:
        """The RMP changes there: what was mapped is looked at again."""
        for key, page in self._around.pop(self._block(frame), ()):
            space = self._spaces[key]
            del space.pages[page]
            self._store(space.tables[21, page >> 9] + 8 * (page & 0x1FF), 0)
            self._nested.ledger.count(("table_ops", "unmap"))

    def near(self, frames: np.ndarray) -> np.ndarray:
        """Which of these frames have a mapping around them, that a change of the RMP there would drop."""
        if not self._around:
            return np.zeros(frames.size, bool)
        _, firsts, inverse = np.unique(frames // SUBPAGES, return_index=True, return_inverse=True)
        known = [self._block(int(frame)) in self._around for frame in frames[firsts]]
        found: np.ndarray = np.array(known, bool)[inverse]
        return found

    def _block(self, frame: int) -> tuple[int, int]:
        """No large page has frames of two hosts at the top, so what one changes is nothing to the other."""
        return self._nested.share_of(frame), frame // SUBPAGES

    def written(self, frame: int) -> None:
        """A store of the guest host to one of its tables: every shadow made from it is dropped."""
        for key in tuple(self._made_from.get(frame, ())):
            self._flush(self._spaces[key])

    def clear(self) -> None:
        """Nothing is shadowed any more. Guests that run meanwhile find nothing mapped."""
        for space in list(self._spaces.values()):
            if space.entered:
                self._flush(space)
            else:
                self._close(space)

    def _close(self, space: Space) -> None:
        self._flush(space)
        del self._spaces[space.key]
        self._nested.below.pool.give((space.root >> PAGE_SHIFT,))

    def _flush(self, space: Space) -> None:
        self._memory.write(space.root, _ZERO, 1)
        self._nested.below.pool.give([table >> PAGE_SHIFT for table in space.tables.values()])
        space.tables.clear()
        for page in space.pages:
            self._forget(space, page)
        space.pages.clear()
        self._depends_no_more(space)
        self._nested.ledger.count(("table_ops", "flush"))

    def _forget(self, space: Space, page: int) -> None:
        """Its mapping is no longer around any frame."""
        block = self._block(space.pages[page][0])
        around = self._around[block]
        around.discard((space.key, page))
        if not around:
            del self._around[block]

    def _depends_no_more(self, space: Space) -> None:
        """What no shadow is made from is protected no more: whoever uses that frame next finds no trace."""
        for frame in space.read:
            keys = self._made_from[frame]
            keys.discard(space.key)
            if not keys:
                del self._made_from[frame]
                self._nested.unmark(frame, TABLE)
        space.read.clear()

    def _new_table(self) -> int:
        address = self._nested.below.pool.take() << PAGE_SHIFT
        self._memory.write(address, _ZERO, 1)
        return address

    def _store(self, address: int, entry: int) -> None:
        fault = self._memory.write(address, U64.pack(entry))
        assert fault is None, f"a level cannot store to its own table: {fault}"
