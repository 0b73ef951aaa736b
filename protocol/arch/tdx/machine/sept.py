"""The Secure EPT of one TD: section 4.6 of the fact sheet.

Tables hold real 64-bit entries, as the module writes them; nobody but the module reads them. A table is
known by the frame of its page; the root is page 3 of the TDCS and so costs no donation of its own.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from protocol.arch.tdx.structs import LEVEL_4K
from protocol.arch.tdx.tables import BY_BITS, STATE, STATE_BITS, EntryState

ENTRIES = 512
RWX = 7
WRITE_BACK = 6 << 3
IPAT = 1 << 6
LEAF = 1 << 7
LOCKED = 1 << 11
HOST_PRIORITY = 1 << 52
SUPPRESS_VE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
FREE = STATE["FREE"].bits | SUPPRESS_VE
REMOVED = STATE["REMOVED"].bits | SUPPRESS_VE
_ARCH_LEAF = RWX | 7 << 3 | ADDRESS | IPAT | LEAF | SUPPRESS_VE
_ARCH_TABLE = RWX | LEAF


def state_of(entry: int) -> EntryState:
    return BY_BITS[entry & STATE_BITS]


def with_state(entry: int, state: EntryState) -> int:
    return entry & ~STATE_BITS | state.bits


def leaf(frame: int, state: EntryState) -> int:
    """A leaf for the page at `frame`: readable, writable, executable where the guest may use it."""
    rights = RWX if state.writable else 5 if state.readable else 0
    return rights | WRITE_BACK | IPAT | state.bits | frame << 12 | SUPPRESS_VE


def table(frame: int) -> int:
    return RWX | STATE["NL_MAPPED"].bits | frame << 12 | SUPPRESS_VE


def frame_of(entry: int) -> int:
    return (entry & ADDRESS) >> 12


def blocked(entry: int, state: EntryState) -> int:
    """The entry in a blocked state: nobody goes through it."""
    return with_state(entry, state) & ~RWX


def unblocked(entry: int, state: EntryState) -> int:
    """The entry in an unblocked state, its rights as that state has them."""
    rights = RWX if state.writable or not state.leaf else 5 if state.readable else 0
    return with_state(entry, state) & ~RWX | rights


def architectural(entry: int) -> int:
    """What a host is shown of an entry: no state, no locks, of a table its rights only."""
    if state_of(entry).name == "FREE":
        return SUPPRESS_VE
    return entry & (_ARCH_LEAF if entry & LEAF else _ARCH_TABLE)


class Place(NamedTuple):
    """Where a walk ended: a slot of a table, its level, and what stood there."""

    table: int
    slot: int
    level: int
    entry: int


class SecureEpt:
    """One tree. `top` is the level of the root's entries: 3 for four levels, 4 for five."""

    __slots__ = ("root", "tables", "top")

    def __init__(self, root: int, top: int) -> None:
        self.root = root
        self.top = top
        self.tables: dict[int, array[int]] = {}
        self.add(root)

    def add(self, frame: int) -> None:
        """A page becomes a table of free entries."""
        self.tables[frame] = array("Q", [FREE]) * ENTRIES

    def drop(self, frame: int) -> None:
        del self.tables[frame]

    def walk(self, gpa: int, level: int) -> Place:
        """Go down to `level`, or to a leaf or an entry without rights above it."""
        frame, now = self.root, self.top
        while True:
            slot = gpa >> (12 + 9 * now) & (ENTRIES - 1)
            entry = self.tables[frame][slot]
            if now == level or entry & LEAF or not entry & RWX:
                return Place(frame, slot, now, entry)
            frame, now = frame_of(entry), now - 1

    def leaf_at(self, gpa: int) -> Place:
        """Go down as far as it goes."""
        return self.walk(gpa, LEVEL_4K)

    def get(self, place: Place) -> int:
        return self.tables[place.table][place.slot]

    def put(self, place: Place, entry: int) -> None:
        self.tables[place.table][place.slot] = entry

    def path(self, gpa: int) -> list[int]:
        """The frames of the tables on the way to an address, the root first."""
        frames, now = [self.root], self.top
        while now:
            entry = self.tables[frames[-1]][gpa >> (12 + 9 * now) & (ENTRIES - 1)]
            if entry & LEAF or not entry & RWX:
                break
            frames.append(frame_of(entry))
            now -= 1
        return frames

    # -- the lock in an entry, section 3.5
    # -------------------------------------------------------------------

    def lock_for_host(self, place: Place) -> bool:
        """Take the entry's lock. A host that finds it taken marks the entry; one that gets it clears that."""
        entries = self.tables[place.table]
        entry = entries[place.slot]
        if entry & LOCKED:
            entries[place.slot] = entry | HOST_PRIORITY
            return False
        entries[place.slot] = (entry | LOCKED) & ~HOST_PRIORITY
        return True

    def lock_for_guest(self, place: Place) -> bool:
        """Take it for a guest, which yields to a waiting host."""
        entries = self.tables[place.table]
        entry = entries[place.slot]
        if entry & (LOCKED | HOST_PRIORITY):
            return False
        entries[place.slot] = entry | LOCKED
        return True

    def unlock(self, place: Place) -> None:
        entries = self.tables.get(place.table)
        if entries is not None:
            entries[place.slot] &= ~LOCKED
