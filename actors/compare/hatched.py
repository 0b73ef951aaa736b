"""Pictures of modelled time as inline SVG: hatched, with their range, so that nobody takes them for
measured.

What a clock of this program measured is drawn in plain lines, and stands in a picture of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.compare.answer import duration
from actors.compare.drawing import COLOURS, Scale, apart, svg, text_at
from actors.compare.markup import escaped, tag
from actors.compare.style import PATH_COLOURS

LABEL, BAR = 200, 290
ROW = 24
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
    scale = Scale(least, most, LABEL, LABEL + BAR)
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
        drawn.append(text_at(LABEL - 8, top + 13, label, end=True))
        drawn.append(
            text_at(LABEL + BAR + 10, top + 13, f"{duration(value)} ({duration(low)} to {duration(high)})")
        )
        top += ROW
    return svg(top, f"{title} (modelled, logarithmic)", drawn)


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
        drawn.append(text_at(LABEL - 8, top + 13, cost, end=True))
        drawn.append(
            text_at(LABEL + BAR + 10, top + 13, f"{min(low, high):.2f} to {max(low, high):.2f}, {basis}")
        )
        top += ROW
    for value, what in ((1.0, "1: the same"), (base, f"{base:.2f}: the table")):
        at = place(value)
        dash = ' stroke-dasharray="4 3"' if value == 1.0 else ""
        drawn.append(f'<line x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{top}" class="axis"{dash}/>')
        drawn.append(text_at(at, top + 14 + (14 if value == base else 0), what, middle=True))
    return svg(top + 34, title, drawn)


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
    scale = Scale(min(values), max(values), height - 30, 12)
    step = (right - left) / max(1, len(x_labels) - 1)
    drawn = list(_grid(scale, left, right))
    for place, text in enumerate(x_labels):
        drawn.append(text_at(left + place * step, height - 8, text, middle=True))
    ends = []
    for number, (name, ys) in enumerate(lines):
        colour = PATH_COLOURS.get(name.split()[0], COLOURS[number % len(COLOURS)])
        known = [(left + place * step, scale(value)) for place, value in enumerate(ys) if value]
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        dash = "" if measured else ' stroke-dasharray="7 4"'
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>')
        ends.append((known[-1][1], name, colour))
    for y, name, colour in apart(ends):
        drawn.append(f'<rect x="{right + 8}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>')
        drawn.append(text_at(right + 24, y + 4, name))
    for place, value, what in points:
        x, y = left + place * step, scale(value)
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="point"><title>{escaped(what)}</title></circle>'
        )
    kind = "measured by this program's clock" if measured else "modelled"
    return svg(height, f"{title} ({kind}, logarithmic)", drawn)


def _grid(scale: Scale, left: float, right: float) -> Sequence[str]:
    """A line for each power of ten."""
    found = []
    for power in range(int(scale.low) - 1, int(scale.high) + 2):
        if scale.low <= power <= scale.high:
            y = scale(10.0**power)
            found.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
            found.append(text_at(left - 8, y + 4, duration(10.0**power), end=True))
    return found


def _whisker(left: float, right: float, y: float) -> list[str]:
    ends = "".join(f"M{x:.1f} {y - 5}V{y + 5}" for x in (left, right))
    return [f'<path d="M{left:.1f} {y}H{right:.1f}{ends}" class="whisker"/>']
