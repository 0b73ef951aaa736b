"""Nested page tables in the host's own memory, entry by entry as KVM builds them:

leaves of 4 KiB. Section 5.7.
"""

from __future__ import annotations

import numpy as np

from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.npt import PRESENT, USER, WRITABLE
from protocol.arch.sev.structs import PAGE, U64

_ALL = PRESENT | WRITABLE | USER


class Tables:
    """The table of one guest."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.root = driver.allocate(PAGE, PAGE)
        self._tables: dict[tuple[int, int], int] = {}  # (level's shift, index from the root on) -> address
        self.pages = [self.root]

    def map(self, gpa: int, address: int) -> None:
        self._driver.write(self._leaf(gpa), U64.pack(address | _ALL))

    def unmap(self, gpa: int) -> None:
        self._driver.write(self._leaf(gpa), U64.pack(0))

    def holds(self, gpa: int) -> bool:
        """Is there a table of the lowest level for this address?"""
        return (21, gpa >> 21) in self._tables

    def map_each(self, pages: np.ndarray, frames: np.ndarray) -> None:
        """Map guest pages whose tables are there, in any order: a store for each table."""
        order = np.argsort(pages)
        pages, entries = pages[order], frames[order].astype(np.uint64) << np.uint64(12) | np.uint64(_ALL)
        starts = np.flatnonzero(np.diff(pages >> 9, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], pages.size], strict=True):
            table = self._tables[21, int(pages[start]) >> 9]
            leaves = np.frombuffer(bytearray(self._driver.read(table, PAGE)), "<u8")
            leaves[pages[start:stop] & 0x1FF] = entries[start:stop]
            self._driver.write(table, leaves.tobytes())

    def _leaf(self, gpa: int) -> int:
        table = self.root
        for shift in (39, 30, 21):
            key = shift, gpa >> shift
            below = self._tables.get(key)
            if below is None:
                below = self._tables[key] = self._driver.allocate(PAGE, PAGE)
                self.pages.append(below)
                self._driver.write(table + 8 * (gpa >> shift & 0x1FF), U64.pack(below | _ALL))
            table = below
        return table + 8 * (gpa >> 12 & 0x1FF)
