"""Dynamic address translation: walk the tables that a host wrote into its memory.

Follows section 8.4 of the fact sheet (general architecture; the sheet marks it inferred). The same walk
serves a host's home space, the guest tables that the Ultravisor reads, and a hypervisor that reads its guest
host's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from protocol.arch.s390 import cpu
from protocol.effects import Fault

PRIVATE = 0x100
REAL_SPACE = 0x20
ORIGIN = ~0xFFF
INVALID = 0x20
PAGE_INVALID = 0x400
PROTECT = 0x200
FORMAT = 0x400
TYPE = 0x0C
LENGTH = 0x03

# level of table (the type field) -> (shift of the index, exception when the entry is invalid)
_LEVELS = {
    3: (53, cpu.REGION_FIRST),
    2: (42, cpu.REGION_SECOND),
    1: (31, cpu.REGION_THIRD),
    0: (20, cpu.SEGMENT_TRANSLATION),
}

Read = Callable[[int, int], bytes | Fault]


class Step(NamedTuple):
    """One table that a walk read: its level (0 segment, -1 page), origin, bytes, first address it maps."""

    level: int
    origin: int
    length: int
    base: int


def walk(read: Read, asce: int, address: int, write: bool, trail: list[Step] | None = None) -> int | Fault:
    """Translate `address` (64 bits) and return the absolute address, or the exception of the walk.

    The tables are read through `read`; what it refuses is the result. `trail` collects the tables that were
    read.
    """
    if asce & REAL_SPACE:
        return address
    kind = (asce & TYPE) >> 2
    shift = _LEVELS[kind][0]
    if address >> (shift + 11):
        return cpu.program(cpu.ASCE_TYPE, address, write)
    origin, offset, length = asce & ORIGIN, 0, asce & LENGTH
    protected = 0
    for level in range(kind, -1, -1):
        shift, exception = _LEVELS[level]
        index = (address >> shift) & 0x7FF
        if trail is not None:
            base = address >> (shift + 11) << (shift + 11)
            trail.append(Step(level, origin, 8 * 512 * (length + 1), base))
        if index >> 9 > length or index >> 9 < offset:
            return cpu.program(exception, address, write)
        raw = read(origin + 8 * index, 8)
        if isinstance(raw, Fault):
            return cpu.program(raw.code, address, write)
        entry = int.from_bytes(raw, "big")
        if entry & INVALID:
            return cpu.program(exception, address, write)
        if (entry & TYPE) >> 2 != level:
            return cpu.program(cpu.TRANSLATION_SPECIFICATION, address, write)
        protected |= entry & PROTECT
        if level:
            origin, offset, length = entry & ORIGIN, (entry & 0xC0) >> 6, entry & LENGTH
    if entry & FORMAT:
        absolute = entry & ~0xFFFFF | address & 0xFFFFF
    else:
        page = _page(read, entry, address, write, trail)
        if isinstance(page, Fault):
            return page
        protected |= page & PROTECT
        absolute = page & ORIGIN | address & 0xFFF
    if write and protected:
        return cpu.program(cpu.PROTECTION, address, write)
    return absolute


def _page(read: Read, segment: int, address: int, write: bool, trail: list[Step] | None) -> int | Fault:
    table = segment & ~0x7FF
    if trail is not None:
        trail.append(Step(-1, table, 0x800, address & ~0xFFFFF))
    raw = read(table + 8 * (address >> 12 & 0xFF), 8)
    if isinstance(raw, Fault):
        return cpu.program(raw.code, address, write)
    entry = int.from_bytes(raw, "big")
    if entry & PAGE_INVALID:
        return cpu.program(cpu.PAGE_TRANSLATION, address, write)
    if entry & 0x800:
        return cpu.program(cpu.TRANSLATION_SPECIFICATION, address, write)
    return entry
