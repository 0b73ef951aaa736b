"""A tree of spans as a person reads it: what repeats is said once, with its number.

Two subtrees are alike when the same parties asked each other the same things, whatever the amounts. A run of
alike siblings becomes one row with the counts of all; so does a run of a pattern of several (unpack, unpack,
seal; unpack, unpack, seal; ...). The sums stay those of the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from protocol.ledger import Key
from protocol.trace.span import Call, Span, calls

LONGEST = 6  # messages of a pattern that may repeat


@dataclass(eq=False, slots=True)
class Row:
    """`times` alike spans under one parent. Counts are their own, added up; `group`: rows that repeat."""

    who: str
    what: str
    times: int
    calls: tuple[Call, ...]
    error: str | None
    counts: defaultdict[Key, int]
    children: list[Row] = field(default_factory=list)

    def amount(self, family: str) -> int:
        return sum(n for key, n in self.counts.items() if key[0] == family)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Row]]:
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


Shape = tuple[object, ...]


def fold(root: Span) -> Row:
    """The rows of a tree."""
    return _rows([root])[0]


def _rows(spans: Sequence[Span]) -> list[Row]:
    """Rows of siblings in their order: each stretch of a repeated pattern as one turn of it."""
    shapes = [_shape(span) for span in spans]
    rows: list[Row] = []
    at = 0
    while at < len(spans):
        length, times = _pattern(shapes, at)
        for place in range(at, at + length):
            rows.append(_row(spans[place : at + length * times : length]))
        at += length * times
    return rows


def _pattern(shapes: Sequence[Shape], at: int) -> tuple[int, int]:
    """The pattern that covers most from `at` on: how long it is, how often it comes; (1, 1) if none."""
    best = (1, 1)
    for length in range(1, LONGEST + 1):
        turn = shapes[at : at + length]
        times = 1
        while shapes[at + length * times : at + length * (times + 1)] == turn:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


def _row(alike: Sequence[Span]) -> Row:
    """One row of spans that are alike: their children are alike, too, place by place."""
    first = alike[0]
    counts: defaultdict[Key, int] = defaultdict(int)
    for span in alike:
        for key, n in span.counts.items():
            counts[key] += n
    row = Row(first.who, first.what, len(alike), tuple(calls(first)), first.error, counts)
    if len(alike) == 1:
        row.children = _rows(first.children)
    else:
        row.children = _together([_rows(span.children) for span in alike])
    return row


def _together(sides: Sequence[list[Row]]) -> list[Row]:
    """The rows of alike parents, added up place by place."""
    made: list[Row] = []
    for rows in zip(*sides, strict=True):
        counts: defaultdict[Key, int] = defaultdict(int)
        for row in rows:
            for key, n in row.counts.items():
                counts[key] += n
        first, times = rows[0], sum(row.times for row in rows)
        merged = Row(first.who, first.what, times, first.calls, first.error, counts)
        merged.children = _together([row.children for row in rows])
        made.append(merged)
    return made


def _shape(span: Span) -> Shape:
    """What makes two spans alike. Numbers in what was asked tell them apart; amounts do not."""
    named = tuple((call.name, call.treatment) for call in calls(span))
    return (
        span.who,
        span.what,
        span.error,
        named,
        tuple(_pressed([_shape(child) for child in span.children])),
    )


def _pressed(shapes: Sequence[Shape]) -> list[object]:
    """Shapes of siblings without their number of repetitions: ten pages and twelve are loaded alike."""
    pressed: list[object] = []
    at = 0
    while at < len(shapes):
        length, times = _pattern(shapes, at)
        pressed.append((times > 1, *shapes[at : at + length]))
        at += length * times
    return pressed
