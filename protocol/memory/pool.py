"""Free frames of one host's own memory, from which its hypervisor takes what emulation needs.

Contiguous runs come from one arena, first fit; single frames prefer those that were taken away from a guest
host, so that what a guest host donates pays for what is donated in its place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class OutOfFrames(Exception):
    """The pool cannot serve a request; nothing was taken."""


class Pool:
    """Frames [first, first + count) at the start; all numbers are frame numbers of the owning host."""

    __slots__ = ("_runs", "_singles")

    def __init__(self, first: int, count: int) -> None:
        self._runs: list[tuple[int, int]] = [(first, count)] if count else []
        self._singles: list[int] = []

    @property
    def free(self) -> int:
        """Frames that could be taken, one by one."""
        return len(self._singles) + sum(count for _, count in self._runs)

    def take_run(self, count: int) -> int:
        """Take `count` contiguous frames and return the first. Raises OutOfFrames."""
        for index, (first, length) in enumerate(self._runs):
            if length >= count:
                if length == count:
                    del self._runs[index]
                else:
                    self._runs[index] = (first + count, length - count)
                return first
        raise OutOfFrames(f"no {count} contiguous frames")

    def give_run(self, first: int, count: int) -> None:
        """Give back what `take_run` gave."""
        insort(self._runs, (first, count))
        at = bisect_left(self._runs, (first, count))
        if at + 1 < len(self._runs) and first + count == self._runs[at + 1][0]:
            count += self._runs[at + 1][1]
            self._runs[at : at + 2] = [(first, count)]
        if at and sum(self._runs[at - 1]) == first:
            before = self._runs[at - 1]
            self._runs[at - 1 : at + 1] = [(before[0], before[1] + count)]

    def take_singles(self, count: int) -> list[int]:
        """Take `count` frames, wherever they lie. Raises OutOfFrames with nothing taken."""
        if count > self.free:
            raise OutOfFrames(f"no {count} frames")
        cut = max(0, len(self._singles) - count)
        taken = self._singles[cut:]
        del self._singles[cut:]
        while len(taken) < count:
            first, length = self._runs[-1]
            n = min(length, count - len(taken))
            taken.extend(range(first + length - n, first + length))
            if n == length:
                self._runs.pop()
            else:
                self._runs[-1] = (first, length - n)
        return taken

    def take(self) -> int:
        """Take one frame."""
        return self._singles.pop() if self._singles else self.take_singles(1)[0]

    def give(self, frames: Iterable[int]) -> None:
        """Give single frames back."""
        self._singles.extend(frames)
