"""The host's memory in pages of 64 KiB: which ones KVM took, which ones were given out at the keyboard."""

from __future__ import annotations

import numpy as np

from protocol.arch.pef.tables import PAGE, PAGE_SHIFT
from protocol.memory.columns import column

FREE, KVM, GIVEN = 0, 1, 2
PIECE = 256  # the smallest table
FIRST = 1 << 20  # what lies below is the kernel's own


class OutOfMemory(Exception):
    """The host has no free page. Nothing was taken."""


class Frames:
    """All pages of one host. KVM takes from the top, so that the bottom stays contiguous."""

    def __init__(self, size: int, own: range | None = None) -> None:
        """`own`: the addresses that this KVM may have, if not all."""
        self.use = column(size >> PAGE_SHIFT, np.uint8)
        if own is not None:
            self.use[:] = GIVEN
            self.use[own.start >> PAGE_SHIFT : own.stop >> PAGE_SHIFT] = FREE
        self._use = self.use.data
        self._first = FIRST >> PAGE_SHIFT
        self._top = self.use.size - 1

    def take(self) -> int:
        """The address of a free page. Raises OutOfMemory."""
        at = self._top
        while at >= self._first and self._use[at] != FREE:
            at -= 1
        if at < self._first:
            raise OutOfMemory
        self._use[at] = KVM
        self._top = at - 1
        return at << PAGE_SHIFT

    def give(self, address: int) -> None:
        at = address >> PAGE_SHIFT
        self._use[at] = FREE
        self._top = max(self._top, at)

    def mark(self, address: int, length: int, use: int) -> None:
        """Note what the keyboard gave out or took back."""
        first, end = address >> PAGE_SHIFT, -(-(address + length) // PAGE)
        self.use[first:end] = use
        if use == FREE:
            self._top = max(self._top, end - 1)

    def taken_by_kvm(self, address: int, length: int) -> int | None:
        """An address in the range that KVM uses, None if there is none."""
        first, end = address >> PAGE_SHIFT, -(-(address + length) // PAGE)
        held = np.flatnonzero(self.use[first:end] == KVM)
        return None if not held.size else (first + int(held[-1])) << PAGE_SHIFT

    def forget_kvm(self) -> None:
        """KVM is gone, and all that it had is free."""
        self.use[self.use == KVM] = FREE
        self._top = self.use.size - 1


class Arena:
    """Pages of tables for one VM, cut into pieces that live as long as it does."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self.pages: list[int] = []
        self._at = 0
        self._left = 0

    def take(self, size: int) -> int:
        """`size` bytes, aligned to it, not zeroed. Raises OutOfMemory."""
        size = max(size, PIECE)
        start = -(-self._at // size) * size
        if start + size > self._at + self._left or not self._left:
            start = self._frames.take()
            self.pages.append(start)
            self._at, self._left = start, PAGE
        self._left -= start + size - self._at
        self._at = start + size
        return start

    def give_all(self) -> None:
        for page in self.pages:
            self._frames.give(page)
        self.pages.clear()
        self._at = self._left = 0
