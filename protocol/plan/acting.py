"""What every host has in common that does what a plan says: guests by their number, and its own book."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from protocol.effects import Step
from protocol.plan.operations import Operation
from protocol.tracking import Book

Guest = TypeVar("Guest")
Act = Callable[[Any, Any], Step[Any]]  # of host and operation


class Acting(Generic[Guest]):
    """The part of a host that operations look at. `depth` is its own level, 0 for L0."""

    def __init__(self, depth: int, book: Book | None) -> None:
        self.depth = depth
        self.guests: dict[int, Guest] = {}
        self._book = book

    def guest(self, number: int) -> Guest:
        """A guest of this host. Raises ValueError for one that it has not."""
        found = self.guests.get(number)
        if found is None:
            raise ValueError(f"the host at level {self.depth} has no guest {number}")
        return found

    def keep(self, kind: str, n: int) -> None:
        """Note `n` more records in the host's own book, or fewer where `n` is negative."""
        if self._book is not None:
            (self._book.add if n > 0 else self._book.drop)(kind, abs(n))


def act_of(acts: Mapping[type, Act], operation: Operation, host: str) -> Act:
    """How a `host`, "a TDX host", does an operation. Raises ValueError for one that it has not."""
    act = acts.get(type(operation))
    if act is None:
        raise ValueError(f"no operation of {host}: {operation!r}")
    return act
