"""Where the spans of a tree stand in modelled time.

A span takes what its own counts cost and what its children take, one after another: the model knows no
waiting, so nothing overlaps. Of its own time each span spends the first half before it asks others and the
rest after: when exactly it counted is not known, and nothing but the picture depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol.ledger import Key
from protocol.trace.span import Span

Price = Callable[[Mapping[Key, int]], int]


@dataclass(frozen=True, slots=True)
class Bar:
    """A span in modelled time: nanoseconds from the beginning of the operation."""

    span: Span
    depth: int
    begin_ns: int
    end_ns: int

    @property
    def took_ns(self) -> int:
        return self.end_ns - self.begin_ns


def timeline(root: Span, price: Price) -> list[Bar]:
    """The bars of a tree in the order of their beginnings. `price` says what counts cost, in nanoseconds."""
    bars: list[Bar] = []
    _lay(root, 0, 0, price, bars)
    return bars


def _lay(span: Span, depth: int, at: int, price: Price, bars: list[Bar]) -> int:
    """Lay `span` down from `at` on; returns where it ends. Trees are as deep as levels are many."""
    place = len(bars)
    bars.append(Bar(span, depth, at, at))
    own = price(span.counts)
    now = at + own // 2
    for child in span.children:
        now = _lay(child, depth + 1, now, price, bars)
    now += own - own // 2
    bars[place] = Bar(span, depth, at, now)
    return now
