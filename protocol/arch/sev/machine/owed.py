"""Memory of the machine in which stores may be owed: what a guest left in a page that nobody has looked at.

A guest that touches all of its memory stores ciphertext to each page. Where a run of such stores is one step
(`machine.bulk`), the bytes are made when somebody looks at the page, so that pages that nobody reads again
take neither time nor memory. For everybody outside they are there from the moment of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from protocol.memory.columns import column
from protocol.memory.physical import Physical
from protocol.memory.store import PAGE_SHIFT, Store

Make = Callable[[int], bytes]


class OwingPhysical(Physical):
    """`Physical`, whose frames may owe what a `Make` gives for their address, from their first byte on."""

    __slots__ = ("_left", "_made_by", "_makers", "_numbers", "_owed")

    def __init__(self, frames: int, ram: Store | None = None) -> None:
        super().__init__(frames, ram)
        self._makers: list[Make] = []
        self._numbers: dict[Make, int] = {}
        self._left = 0  # frames that owe something
        self._owed = np.zeros(0, np.uint32)  # frame -> number of its maker + 1, once any frame owes something
        self._made_by = memoryview(b"")

    def owe(self, frames: np.ndarray, make: Make) -> None:
        """These frames, which are `zero`, hold zeroes but for what `make(address)` gives."""
        if not self._owed.size:
            self._owed = column(self.frames, np.uint32)
            self._made_by = memoryview(self._owed)  # type: ignore[arg-type]
        if make not in self._numbers:
            self._makers.append(make)
            self._numbers[make] = len(self._makers)
        self._owed[frames] = self._numbers[make]
        self._left += frames.size

    def zero(self, frames: np.ndarray) -> bool:
        """Do all of these hold zeroes, for all that is known, and owe nothing?"""
        known = not self._filled[self.homes(frames) >> PAGE_SHIFT].any()
        return len(self._stores) == 1 and known and not (self._left and self._owed[frames].any())

    def _settle(self, first: int, last: int) -> None:
        for frame in range(first, last + 1):
            maker = self._made_by[frame]
            if maker:
                self._made_by[frame] = 0
                self._left -= 1
                super().write(frame << PAGE_SHIFT, self._makers[maker - 1](frame << PAGE_SHIFT))

    # -- whoever looks finds it -------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        if self._left and length:
            self._settle(address >> PAGE_SHIFT, address + length - 1 >> PAGE_SHIFT)
        return super().read(address, length)

    def write(self, address: int, data: bytes) -> None:
        if self._left and data:
            self._settle(address >> PAGE_SHIFT, address + len(data) - 1 >> PAGE_SHIFT)
        super().write(address, data)

    def clear(self, frame: int) -> None:
        self._forgive(np.array([frame]))
        super().clear(frame)

    def clear_many(self, frames: Iterable[int] | np.ndarray) -> None:
        if self._left:
            frames = frames if isinstance(frames, np.ndarray) else np.array(list(frames), np.int64)
            self._forgive(frames)
        super().clear_many(frames)

    def exposed(self, needle: bytes) -> list[int]:
        self._all()
        return super().exposed(needle)

    def join(self, frames: np.ndarray, store: int, pages: np.ndarray) -> None:
        self._all()
        super().join(frames, store, pages)

    def leave(self, frames: np.ndarray) -> None:
        self._all()
        super().leave(frames)

    def swap_homes(self, one: int, other: int) -> None:
        if self._left:
            self._settle(one, one)
            self._settle(other, other)
        super().swap_homes(one, other)

    def _forgive(self, frames: np.ndarray) -> None:
        """They are zeroed."""
        if self._left:
            self._left -= int(np.count_nonzero(self._owed[frames]))
            self._owed[frames] = 0
        if not self._left:
            self._makers.clear()
            self._numbers.clear()

    def _all(self) -> None:
        for frame in np.flatnonzero(self._owed).tolist() if self._left else ():
            self._settle(frame, frame)
