"""Fold runs of identical operations: one of each kind is done for real, and its counts stand for the others.

What one operation takes, at whatever depth, is what was counted while it was done; the state that the others
leave is brought about at once, by whoever knows how, and what is counted meanwhile is replaced. So the counts
are those of single operations, and no formula for them stands anywhere twice. It is only valid where nobody
else counts meanwhile: everything below in the same process, and no step that yields.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from protocol.ledger import PEAKS, Key, Ledger


class Fold:
    """Costs of operations by their kind, as measured in one run."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._costs: dict[Hashable, dict[Key, int]] = {}

    def knows(self, kind: Hashable) -> bool:
        return kind in self._costs

    @contextmanager
    def measured(self, kind: Hashable, but: Key | None = None) -> Iterator[None]:
        """What is counted inside, except under `but`, is the cost of one operation of `kind`."""
        before = self._ledger.here()
        yield
        cost = self._costs[kind] = _difference(before, self._ledger.here())
        if but is not None:
            cost.pop(but, None)

    def add(self, kind: Hashable, n: int) -> None:
        """Count `n` operations of a known kind more, or fewer where `n` is negative."""
        for key, each in self._costs[kind].items():
            self._ledger.count(key, n * each)

    @contextmanager
    def instead(self, *runs: tuple[Hashable, int]) -> Iterator[None]:
        """What is done inside stands for `n` operations of each `kind`; what it counts does not matter."""
        before = self._ledger.here()
        yield
        for key, n in _difference(before, self._ledger.here()).items():
            self._ledger.count(key, -n)
        for kind, n in runs:
            self.add(kind, n)


def _difference(before: dict[Key, int], after: dict[Key, int]) -> dict[Key, int]:
    """What was counted meanwhile. A peak is no cost of an operation: it follows from the state, and stays."""
    return {
        key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0) and key[0] != PEAKS
    }
