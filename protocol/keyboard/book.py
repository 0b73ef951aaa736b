"""Which memory of a host was given out: the book behind `alloc` and `free`.

The lowest area that fits is given, so that the same requests get the same addresses. Whole pages only: what
two areas share could not be converted, donated or protected by one of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable

Run = tuple[int, int]  # first address, first address behind


class AllocationBook:
    """Free and given areas of `areas`, which do not overlap; all addresses are bytes."""

    __slots__ = ("_areas", "_free", "_given", "page")

    def __init__(self, areas: Iterable[Run], page: int) -> None:
        self.page = page
        self._areas = sorted(areas)
        self._free: list[Run] = []
        self._given: dict[int, int] = {}  # address -> length
        self.clear()

    def clear(self) -> None:
        """Nothing was given out."""
        self._free = list(self._areas)
        self._given.clear()

    def take(
        self, length: int, align: int, above: int, below: int, in_use: Callable[[int, int], int | None]
    ) -> int | None:
        """Give out `length` bytes in whole pages wholly inside [above, below); None if there is no such area.

        `in_use(address, length)` is an address in the area that somebody uses although this book does not
        know it, or None.
        """
        page = self.page
        length = -(-length // page) * page
        align = max(align, page)
        for index, (first, end) in enumerate(self._free):
            last = min(end, below) - length
            at = -(-max(first, above) // align) * align
            while at <= last:
                used = in_use(at, length)
                if used is None:
                    self._cut(index, at, length)
                    self._given[at] = length
                    return at
                at = -(-(used + 1) // align) * align
        return None

    def give(self, address: int) -> bool:
        """Take back the area that begins at `address`; False if none does."""
        length = self._given.pop(address, None)
        if length is None:
            return False
        at = bisect_left(self._free, (address, 0))
        end = address + length
        if at < len(self._free) and self._free[at][0] == end:
            end = self._free.pop(at)[1]
        if at and self._free[at - 1][1] == address:
            address = self._free.pop(at - 1)[0]
        insort(self._free, (address, end))
        return True

    def _cut(self, index: int, at: int, length: int) -> None:
        first, end = self._free[index]
        rest = [(first, at), (at + length, end)]
        self._free[index : index + 1] = [run for run in rest if run[0] < run[1]]
