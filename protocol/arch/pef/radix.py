"""Partition-scoped page tables: radix trees of 64 KiB pages in a hypervisor's memory.

Four levels of 13, 9, 9 and 5 bits above a page of 16: 52 bits of guest address. Entries are big endian. The
machine walks such a tree for every access of a normal VM, a hypervisor that runs hypervisors walks theirs.
Hash tables are not modelled: a VM that uses one has a tree behind an entry without the HR bit.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.arch.pef.tables import ADDRESS_LIMIT
from protocol.effects import Fault

Load = Callable[[int, int], bytes | Fault]
Store = Callable[[int, bytes], Fault | None]

ROOT_BYTES = 1 << 16
_BITS = (9, 9, 5)  # below the root's 13, from the top
_SHIFTS = (39, 30, 21, 16)
_INDEX_MASKS = (0x1FFF, 0x1FF, 0x1FF, 0x1F)

VALID = 1 << 63
LEAF = 1 << 62
ADDRESS = 0x01FF_FFFF_FFFF_F000
PAGE_ADDRESS = 0x01FF_FFFF_FFFF_0000
TABLE_ADDRESS = 0x0FFF_FFFF_FFFF_FF00
READ, WRITE, EXECUTE = 4, 2, 1

HR = 1 << 63  # of the partition table entry: the host uses radix
_SIZE_52 = 0x4000_0000_0000_00A0  # RTS: 52 bits of address
_ROOT_SIZE = 13


def entry_of(root: int, radix: bool = True) -> int:
    """The first doubleword of a partition table entry."""
    return (HR if radix else 0) | _SIZE_52 | root | _ROOT_SIZE


def root_of(dw0: int) -> int:
    """Where the tree lies that a partition table entry names; 0 for none."""
    return dw0 & 0x0FFF_FFFF_FFFF_0000


def walk(load: Load, root: int, gpa: int) -> int:
    """The leaf that maps `gpa`, 0 if none does (or if the tree cannot be read)."""
    if not root or gpa >= ADDRESS_LIMIT:
        return 0
    table = root
    for level, shift in enumerate(_SHIFTS):
        index = gpa >> shift & _INDEX_MASKS[level]
        data = load(table + 8 * index, 8)
        if isinstance(data, Fault):
            return 0
        entry = int.from_bytes(data, "big")
        if not entry & VALID:
            return 0
        if entry & LEAF:
            return entry if level == len(_SHIFTS) - 1 else 0
        table = entry & TABLE_ADDRESS
    return 0


class Tree:
    """A radix tree that its hypervisor keeps. `take(size)` gives zeroed memory, aligned to its size."""

    def __init__(self, load: Load, store: Store, take: Callable[[int], int]) -> None:
        self._load = load
        self._store = store
        self._take = take
        self.root = take(ROOT_BYTES)

    def map(self, gpa: int, ra: int, rights: int = READ | WRITE | EXECUTE) -> None:
        """Let `gpa` lead to the page at `ra`."""
        at = self._slot(gpa, make=True)
        self._put(at, VALID | LEAF | ra & PAGE_ADDRESS | rights)

    def unmap(self, gpa: int) -> bool:
        """Take the page at `gpa` away; False if there was none."""
        at = self._slot(gpa, make=False)
        if not at or not self._get(at) & VALID:
            return False
        self._put(at, 0)
        return True

    def _slot(self, gpa: int, make: bool) -> int:
        table = self.root
        for level, shift in enumerate(_SHIFTS[:-1]):
            at = table + 8 * (gpa >> shift & _INDEX_MASKS[level])
            entry = self._get(at)
            if not entry & VALID:
                if not make:
                    return 0
                bits = _BITS[level]
                entry = VALID | self._take(8 << bits) | bits
                self._put(at, entry)
            table = entry & TABLE_ADDRESS
        return table + 8 * (gpa >> _SHIFTS[-1] & _INDEX_MASKS[-1])

    def _get(self, at: int) -> int:
        data = self._load(at, 8)
        assert not isinstance(data, Fault), f"a table of the hypervisor's own at {at:#x} cannot be read"
        return int.from_bytes(data, "big")

    def _put(self, at: int, entry: int) -> None:
        fault = self._store(at, entry.to_bytes(8, "big"))
        assert fault is None, f"a table of the hypervisor's own at {at:#x} cannot be written"
