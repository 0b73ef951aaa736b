"""What all pictures with a scale are drawn with: inline SVG, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from actors.compare.markup import escaped

WIDTH = 760
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#5b2a86", "#6c7a89")


class Scale:
    """Logarithmic, from a value at one place to a value at another."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low = log10(low)
        self.high = log10(high)
        if self.high - self.low < 0.3:
            self.low, self.high = self.low - 0.15, self.high + 0.15
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (log10(value) - self.low) / (self.high - self.low)
        return self._start + (self._end - self._start) * min(1.0, max(0.0, share))


def apart(ends: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Names at the ends of lines, moved down where they would lie on each other."""
    placed: list[tuple[float, str, str]] = []
    for y, name, colour in sorted(ends):
        placed.append((max(y, placed[-1][0] + 16) if placed else y, name, colour))
    return placed


def text_at(x: float, y: float, text: str, end: bool = False, middle: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchor}>{escaped(text)}</text>'


def svg(height: float, title: str, drawn: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height + 4:.0f}" role="img" aria-label="{escaped(title)}">'
    return f"{head}<title>{escaped(title)}</title>{''.join(drawn)}</svg>"
