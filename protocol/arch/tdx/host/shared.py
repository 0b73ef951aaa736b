"""The shared EPT of a TD, in memory of its host, who writes it with plain stores: section 5.3.

An entry that maps nothing says that the host is told of an access (no #VE), as KVM has it.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.arch.tdx.host.module import Module
from protocol.arch.tdx.shared_ept import RWX, SUPPRESS_VE, slot_of
from protocol.arch.tdx.structs import U64

TOP = 3
ENTRIES = 512
WRITE_BACK = 6 << 3


class SharedEpt:
    """`page` gives a page of the host's."""

    def __init__(self, module: Module, page: Callable[[], int]) -> None:
        self._module = module
        self._page = page
        self._tables: dict[tuple[int, int], int] = {}  # (level of its entries, its part of the address)
        self.root = self._table(TOP, 0)

    @property
    def pages(self) -> list[int]:
        return list(self._tables.values())

    def _table(self, level: int, gpa: int) -> int:
        key = level, gpa >> (21 + 9 * level)
        if key not in self._tables:
            at = self._tables[key] = self._page()
            self._module.write(at, U64.pack(SUPPRESS_VE) * ENTRIES, ENTRIES)
            if level != TOP:
                parent = self._table(level + 1, gpa)
                self._module.write(parent + 8 * slot_of(gpa, level + 1), U64.pack(at | RWX))
        return self._tables[key]

    def put(self, gpa: int, page: int) -> None:
        self._module.write(self._table(0, gpa) + 8 * slot_of(gpa, 0), U64.pack(page | WRITE_BACK | RWX))

    def drop(self, gpa: int) -> None:
        self._module.write(self._table(0, gpa) + 8 * slot_of(gpa, 0), U64.pack(SUPPRESS_VE))
