"""A folded tree as rows of text: who asked for what, how it was treated, what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from protocol.trace.fold import Row

HEAD = ("message", "at", "treatment", "exits at L0", "translated", "copied", "tracked", "faults")


@dataclass(frozen=True, slots=True)
class Line:
    """One row. `depth` is how far it is indented; empty cells are zeros. `cells` are in the order of HEAD."""

    depth: int
    cells: tuple[str, ...]
    row: Row


def lines(root: Row) -> Iterator[Line]:
    """The rows of a tree from the top down."""
    for depth, row in root.walk():
        yield Line(depth, _cells(row), row)


def label(row: Row) -> str:
    """What a row asks for: its message, and the call that it is."""
    names = " ".join(call.name for call in row.calls)
    named = f"{row.what} {names}" if names and names != row.what else row.what
    return f"{row.times} x {named}" if row.times > 1 else named


def reasons(row: Row) -> str:
    """The exits that arrived at L0 meanwhile, by why."""
    found: Counter[str] = Counter()
    for (family, *labels), n in row.counts.items():
        if family == "exits":
            found[f"L{labels[0]} {labels[1]}"] += n
    return ", ".join(f"{n:,} {reason}" for reason, n in found.items())


def _cells(row: Row) -> tuple[str, ...]:
    treatment = " ".join(dict.fromkeys(call.treatment for call in row.calls))
    copied = row.amount("copied_bytes")
    return (
        label(row),
        row.who,
        row.error or treatment,
        reasons(row),
        _number(row.amount("translations")),
        f"{copied:,} B" if copied else "",
        _number(row.amount("tracking_updates") + row.amount("table_ops")),
        _number(row.amount("injections")),
    )


def _number(n: int) -> str:
    return f"{n:,}" if n else ""
