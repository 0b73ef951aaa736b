"""Where the spans of a tree stand in modelled time.

A span takes what its own counts cost and what its children take, one after another: the model knows no
waiting, so nothing overlaps. Of its own time each span spends the first half before it asks others and the
rest after: when exactly it counted is not known, and nothing but the picture depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from protocol.ledger import Key

Price = Callable[[Mapping[Key, int]], int]


class Tree(Protocol):
    """What can be laid on a line of time: a span, or a row of a folded tree."""

    @property
    def counts(self) -> Mapping[Key, int]: ...
    @property
    def children(self) -> Sequence[Tree]: ...


T = TypeVar("T", bound=Tree)


@dataclass(frozen=True, slots=True)
class Bar(Generic[T]):
    """A node of a tree in modelled time: nanoseconds from the beginning of the operation."""

    span: T
    depth: int
    begin_ns: int
    end_ns: int

    @property
    def took_ns(self) -> int:
        return self.end_ns - self.begin_ns


def timeline(root: T, price: Price) -> list[Bar[T]]:
    """The bars of a tree in the order of their beginnings. `price` says what counts cost, in nanoseconds."""
    bars: list[Bar[T]] = []
    _lay(root, 0, 0, price, bars)
    return bars


def _lay(span: T, depth: int, at: int, price: Price, bars: list[Bar[T]]) -> int:
    """Lay `span` down from `at` on; returns where it ends. Trees are as deep as levels are many."""
    place = len(bars)
    bars.append(Bar(span, depth, at, at))
    own = price(span.counts)
    now = at + own // 2
    for child in span.children:
        now = _lay(cast(T, child), depth + 1, now, price, bars)
    now += own - own // 2
    bars[place] = Bar(span, depth, at, now)
    return now
