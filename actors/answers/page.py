"""What a page of an answer is made of, and how it looks as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill

WIDTH = 120
MADE = "Made by `./x answers`; do not edit."


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: heads, and rows of as many texts. Columns of numbers are to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    before: str = ""  # a sentence that says what it shows


@dataclass(frozen=True, slots=True)
class Page:
    """One question. `answer` are the sentences that a reader needs, `scenarios` what they come from."""

    letter: str
    title: str
    answer: Sequence[str]
    parts: Sequence[Grid]
    limits: Sequence[str]  # what the answer does not say
    scenarios: Sequence[str]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"# ({self.letter}) {self.title}"
        yield ""
        shown = ", ".join(f"`nestbed scenario show {name}`" for name in self.scenarios)
        yield _wrapped(f"{MADE} " + (f"Scenario: {shown}." if shown else "Nothing is run for it."))
        for sentence in self.answer:
            yield ""
            yield _wrapped(sentence)
        for grid in self.parts:
            yield from _grid(grid)
        yield ""
        yield "## What this does not say"
        yield ""
        for limit in self.limits:
            yield _wrapped(f"- {limit}", "  ")


def _wrapped(text: str, further: str = "") -> str:
    return fill(text, WIDTH, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)


def _grid(grid: Grid) -> Iterator[str]:
    yield ""
    if grid.before:
        yield _wrapped(grid.before)
        yield ""
    yield _row(grid.heads)
    yield _row("---:" if _numbers(column) else "---" for column in zip(*grid.rows, strict=True))
    for row in grid.rows:
        assert len(row) == len(grid.heads), row
        yield _row(row)


def _numbers(column: Iterable[str]) -> bool:
    """Whether a column is one of numbers: those stand to the right."""
    return all(cell == "-" or cell[:1].isdigit() for cell in column)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
