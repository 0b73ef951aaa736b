"""Pictures of modelled time as inline SVG: hatched, with their range, so that nobody takes them for
measured.

What a clock of this program measured is drawn in plain lines, and stands in a picture of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

from actors.compare.answer import duration
from actors.compare.markup import escaped, tag
from actors.compare.style import PATH_COLOURS

WIDTH, LABEL, BAR = 760, 200, 290
ROW = 24
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#5b2a86", "#6c7a89")
Span = Sequence[float]  # value, low, high

HATCHES = tag(
    "svg",
    tag(
        "defs",
        *(
            f'<pattern id="hatch-{path}" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="6" height="6" fill="{colour}" fill-opacity="0.25"/>'
            f'<line x1="0" y1="0" x2="0" y2="6" stroke="{colour}" stroke-width="3"/></pattern>'
            for path, colour in PATH_COLOURS.items()
        ),
    ),
    class_="defs",
    width="0",
    height="0",
)


def bars(title: str, rows: Sequence[tuple[str, str, Span]]) -> str:
    """A hatched bar for each (label, path, span) on one logarithmic scale, a whisker for its range."""
    spans = [span for _, _, span in rows if span[0] > 0]
    if not spans:
        return ""
    least, most = min(max(span[1], 1e-3) for span in spans), max(span[2] for span in spans)
    scale = _Scale(least, most, LABEL, LABEL + BAR)
    drawn, top = [], 0
    for label, path, (value, low, high) in rows:
        colour = path if path in PATH_COLOURS else "direct"
        if value > 0:
            width = scale(value) - LABEL
            drawn.append(
                f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="16" fill="url(#hatch-{colour})" '
                f'stroke="{PATH_COLOURS[colour]}"/>'
            )
            drawn += _whisker(scale(max(low, 1e-3)), scale(high), top + 8)
        drawn.append(_text(LABEL - 8, top + 13, label, end=True))
        drawn.append(
            _text(LABEL + BAR + 10, top + 13, f"{duration(value)} ({duration(low)} to {duration(high)})")
        )
        top += ROW
    return _svg(top, f"{title} (modelled, logarithmic)", drawn)


def tornado(title: str, base: float, rows: Sequence[tuple[str, str, float, float]]) -> str:
    """For each (cost, basis, at low, at high) how far it moves a ratio from `base`; the line is 1."""
    ends = [1.0, base, *(value for _, _, low, high in rows for value in (low, high))]
    least, most = min(ends), max(ends)
    room = (most - least) or 1.0

    def place(value: float) -> float:
        return LABEL + 30 + (BAR - 60) * (value - least) / room

    drawn, top = [], 4
    for cost, basis, low, high in rows:
        left, right = sorted((place(low), place(high)))
        drawn.append(
            f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" height="16" '
            f'fill="url(#hatch-nested)" stroke="{PATH_COLOURS["nested"]}"/>'
        )
        drawn.append(_text(LABEL - 8, top + 13, cost, end=True))
        drawn.append(
            _text(LABEL + BAR + 10, top + 13, f"{min(low, high):.2f} to {max(low, high):.2f}, {basis}")
        )
        top += ROW
    for value, what in ((1.0, "1: the same"), (base, f"{base:.2f}: the table")):
        at = place(value)
        dash = ' stroke-dasharray="4 3"' if value == 1.0 else ""
        drawn.append(f'<line x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{top}" class="axis"{dash}/>')
        drawn.append(_text(at, top + 14 + (14 if value == base else 0), what, middle=True))
    return _svg(top + 34, title, drawn)


def curves(
    title: str,
    x_labels: Sequence[str],
    lines: Sequence[tuple[str, Sequence[float | None]]],
    points: Sequence[tuple[int, float, str]] = (),
    measured: bool = False,
) -> str:
    """Lines over named places, logarithmic upwards; `points` are (place, value, what): circles."""
    values = [value for _, ys in lines for value in ys if value] + [value for _, value, _ in points]
    if not values:
        return ""
    height, left, right = 250, 90, 560
    scale = _Scale(min(values), max(values), height - 30, 12)
    step = (right - left) / max(1, len(x_labels) - 1)
    drawn = list(_grid(scale, left, right))
    for place, text in enumerate(x_labels):
        drawn.append(_text(left + place * step, height - 8, text, middle=True))
    ends = []
    for number, (name, ys) in enumerate(lines):
        colour = PATH_COLOURS.get(name.split()[0], COLOURS[number % len(COLOURS)])
        known = [(left + place * step, scale(value)) for place, value in enumerate(ys) if value]
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        dash = "" if measured else ' stroke-dasharray="7 4"'
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>')
        ends.append((known[-1][1], name, colour))
    for y, name, colour in _apart(ends):
        drawn.append(f'<rect x="{right + 8}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(right + 24, y + 4, name))
    for place, value, what in points:
        x, y = left + place * step, scale(value)
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="point"><title>{escaped(what)}</title></circle>'
        )
    kind = "measured by this program's clock" if measured else "modelled"
    return _svg(height, f"{title} ({kind}, logarithmic)", drawn)


def _apart(ends: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Names at the ends of lines, moved down where they would lie on each other."""
    placed: list[tuple[float, str, str]] = []
    for y, name, colour in sorted(ends):
        placed.append((max(y, placed[-1][0] + 16) if placed else y, name, colour))
    return placed


class _Scale:
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


def _grid(scale: _Scale, left: float, right: float) -> Sequence[str]:
    """A line for each power of ten."""
    found = []
    for power in range(int(scale.low) - 1, int(scale.high) + 2):
        if scale.low <= power <= scale.high:
            y = scale(10.0**power)
            found.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
            found.append(_text(left - 8, y + 4, duration(10.0**power), end=True))
    return found


def _whisker(left: float, right: float, y: float) -> list[str]:
    ends = "".join(f"M{x:.1f} {y - 5}V{y + 5}" for x in (left, right))
    return [f'<path d="M{left:.1f} {y}H{right:.1f}{ends}" class="whisker"/>']


def _text(x: float, y: float, text: str, end: bool = False, middle: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchor}>{escaped(text)}</text>'


def _svg(height: float, title: str, drawn: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height + 4:.0f}" role="img" aria-label="{escaped(title)}">'
    return f"{head}<title>{escaped(title)}</title>{''.join(drawn)}</svg>"
