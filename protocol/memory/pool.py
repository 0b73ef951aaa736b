"""Free frames of one host's own memory, from which its hypervisor takes what emulation needs.

Contiguous runs come from one arena, first fit; single frames prefer those that were taken away from a guest
host, so that what a guest host donates pays for what is donated in its place. Where no run is long enough the
single frames are laid together again, so that a run is refused only if there is none.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np

from protocol.errors import OperationFailed


class OutOfFrames(OperationFailed):
    """The pool cannot serve a request; nothing was taken."""


class Pool:
    """Frames [first, first + count) at the start; all numbers are frame numbers of the owning host."""

    __slots__ = ("_runs", "_singles")

    def __init__(self, first: int, count: int) -> None:
        self._runs: list[tuple[int, int]] = [(first, count)] if count else []
        self._singles = array("q")  # 8 bytes for each frame of a machine with a million of them

    @property
    def free(self) -> int:
        """Frames that could be taken, one by one."""
        return len(self._singles) + sum(count for _, count in self._runs)

    def listed(self) -> np.ndarray:
        """All free frames, in any order."""
        runs = [np.arange(first, first + count) for first, count in self._runs]
        return np.concatenate([np.array(self._singles, np.int64), *runs])

    # -- runs ------------------------------------------------------------------------------

    def take_run(self, count: int) -> int:
        """Take `count` contiguous frames and return the first. Raises OutOfFrames."""
        first = self._first_fit(count)
        if first is None and self._singles:
            self._lay_together()
            first = self._first_fit(count)
        if first is None:
            raise OutOfFrames(f"no {count} contiguous frames")
        return first

    def _first_fit(self, count: int) -> int | None:
        for index, (first, length) in enumerate(self._runs):
            if length >= count:
                if length == count:
                    del self._runs[index]
                else:
                    self._runs[index] = (first + count, length - count)
                return first
        return None

    def give_run(self, first: int, count: int) -> None:
        """Give back what `take_run` gave, or a part of it."""
        insort(self._runs, (first, count))
        at = bisect_left(self._runs, (first, count))
        if at + 1 < len(self._runs) and first + count == self._runs[at + 1][0]:
            count += self._runs[at + 1][1]
            self._runs[at : at + 2] = [(first, count)]
        if at and sum(self._runs[at - 1]) == first:
            before = self._runs[at - 1]
            self._runs[at - 1 : at + 1] = [(before[0], before[1] + count)]

    def _lay_together(self) -> None:
        """Make runs of the single frames."""
        frames = np.sort(np.array(self._singles, np.int64))
        del self._singles[:]
        ends = np.append(np.flatnonzero(np.diff(frames) != 1), frames.size - 1)
        starts = np.append(0, ends[:-1] + 1)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self.give_run(int(frames[start]), end - start + 1)

    # -- single frames ---------------------------------------------------------------------

    def take_many(self, count: int) -> np.ndarray:
        """Take `count` frames, wherever they lie. Raises OutOfFrames with nothing taken."""
        if count > self.free:
            raise OutOfFrames(f"no {count} frames")
        cut = max(0, len(self._singles) - count)
        parts = [np.array(self._singles[cut:], np.int64)]
        del self._singles[cut:]
        missing = count - parts[0].size
        while missing:
            first, length = self._runs[-1]
            n = min(length, missing)
            parts.append(np.arange(first + length - n, first + length))
            if n == length:
                self._runs.pop()
            else:
                self._runs[-1] = (first, length - n)
            missing -= n
        return np.concatenate(parts)

    def take_each(self, count: int) -> np.ndarray:
        """The frames that `count` calls of `take` would give, in their order. Raises OutOfFrames."""
        singles = min(count, len(self._singles))
        taken = self.take_many(count)
        return np.concatenate((taken[:singles][::-1], np.sort(taken[singles:])[::-1]))

    def take_singles(self, count: int) -> list[int]:
        """The same as a list: for a handful."""
        taken: list[int] = self.take_many(count).tolist()
        return taken

    def take(self) -> int:
        """Take one frame."""
        return self._singles.pop() if self._singles else self.take_singles(1)[0]

    def give(self, frames: Iterable[int] | np.ndarray) -> None:
        """Give single frames back."""
        if isinstance(frames, np.ndarray):
            self._singles.frombytes(frames.astype(np.int64, copy=False).tobytes())
        else:
            self._singles.extend(frames)
