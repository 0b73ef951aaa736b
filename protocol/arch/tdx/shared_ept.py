"""Walking a shared EPT: the tables of a TD's shared half, that its host edits with plain stores.

Section 5.3 of the fact sheet. The module walks them for the guest, and whoever shadows them for a guest
host walks that host's own; both meet the same ends.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from protocol.arch.tdx.front import Front
from protocol.arch.tdx.platform import NOT_OURS
from protocol.arch.tdx.structs import LEVEL_1G, LEVEL_4K, U64
from protocol.effects import Fault
from protocol.memory.store import OFFSET

READ, WRITE = 1, 2  # of an exit qualification; bits 3 to 5 say what the entry allows
RWX = 7
LARGE = 1 << 7
SUPPRESS_VE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
_RESERVED_TYPES = (2, 3, 7)  # of memory in an EPT leaf


class End(Enum):
    """How a walk ended."""

    LEAF = auto()
    VIOLATION = auto()
    VE = auto()  # the entry says that the guest itself is told
    MISCONFIGURED = auto()
    MACHINE_CHECK = auto()


class Visited(NamedTuple):
    """An entry on the way: the address of its table, its level, what stood there."""

    table: int
    level: int
    entry: int


class Walk(NamedTuple):
    end: End
    path: list[Visited]
    rights: int
    address: int = 0  # what a leaf maps the guest address to


def walk(front: Front, root: int, top: int, gpa: int, kind: int) -> Walk:
    """Walk from the table at `root`, whose entries have level `top`; `kind` is READ or WRITE.

    Rights are those of all entries. Bit 63 of one says who hears of a violation: of the entry that is not
    present, else of the one that maps the page, whichever of them forbids the access. Entries that lead to
    a table have no say (Intel SDM, volume 3C, on EPT violations that are convertible).
    """
    at = front.profile.without_hkid(root & ADDRESS)
    rights = RWX
    path: list[Visited] = []
    for level in range(top, -1, -1):  # pragma: no branch - level 0 is a leaf
        raw = front.peek(at + 8 * slot_of(gpa, level), 8)
        if isinstance(raw, Fault):
            return Walk(End.MACHINE_CHECK, path, rights)
        entry = U64.unpack(raw)[0]
        path.append(Visited(at, level, entry))
        rights &= entry & RWX
        last = level == LEVEL_4K or bool(entry & LARGE and level <= LEVEL_1G)
        if _misconfigured(front, entry, level, last):
            return Walk(End.MISCONFIGURED, path, rights)
        if not entry & RWX or (last and not rights & kind):
            return Walk(End.VIOLATION if entry & SUPPRESS_VE else End.VE, path, rights)
        if last:
            inside = (1 << (12 + 9 * level)) - 1
            address = entry & ADDRESS & ~inside | gpa & inside
            if front.platform.shared_form(address & ~OFFSET, 4096, 4096) == NOT_OURS:
                return Walk(End.MISCONFIGURED, path, rights)
            return Walk(End.LEAF, path, rights, front.profile.without_hkid(address))
        at = front.profile.without_hkid(entry & ADDRESS)
    raise AssertionError("an EPT walk ends at a leaf")  # pragma: no cover - a mistake of ours


def slot_of(gpa: int, level: int) -> int:
    return gpa >> (12 + 9 * level) & 511


def _misconfigured(front: Front, entry: int, level: int, last: bool) -> bool:
    """Write without read; a reserved bit or memory type; a table at an address that cannot be shared."""
    if entry & WRITE and not entry & READ:
        return True
    if not entry & RWX:
        return False
    if last:
        reserved = ((1 << (9 * level)) - 1) << 12
        return bool(entry & reserved) or entry >> 3 & 7 in _RESERVED_TYPES
    return bool(entry & 0xF8) or front.platform.shared_form(entry & ADDRESS, 4096, 4096) == NOT_OURS
