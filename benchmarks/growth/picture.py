"""Curves as inline SVG, n to the right and their value upwards, with a circle for each point measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from actors.compare.answer import duration
from actors.compare.drawing import COLOURS, Scale, apart, svg, text_at
from actors.compare.markup import escaped
from benchmarks.growth.curve import Curve, Kind

HEIGHT, TOP, LEFT, RIGHT = 280, 12, 90, 590
BOTTOM = HEIGHT - 34
STEPS = (1, 2, 5)  # lines of each power of ten

Place = Callable[[float], float]


def said(kind: Kind, value: float) -> str:
    """A value in the unit that reads best."""
    match kind:
        case Kind.CPU:
            return duration(1000 * value)
        case Kind.MEMORY:
            return _bytes(value)
        case Kind.COUNT:
            return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:,.0f} bytes"


def picture(title: str, curves: Sequence[Curve]) -> str:
    """One picture of curves of one kind over one dimension. What is 0 lies at the lower edge."""
    kind = curves[0].kind
    assert {curve.kind for curve in curves} == {kind}, "counts, bytes and times have no axis in common"
    values = [value for curve in curves for _, value in curve.points if value > 0]
    upwards = Scale(min(values), max(values), BOTTOM, TOP)
    along = _along(sorted({n for curve in curves for n, _ in curve.points}))
    drawn = [*_grid(kind, upwards), *_ticks(along, curves)]
    ends = []
    for number, curve in enumerate(curves):
        colour = COLOURS[_rank(curves, curve) % len(COLOURS)]
        places = [(along(n), upwards(max(value, min(values)))) for n, value in curve.points]
        at = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        width = 1.2 if curve.path == "direct" else 2.5
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        for (x, y), (n, value) in zip(places, curve.points, strict=True):
            what = f"{curve.arch} {curve.path}, n = {n:,}: {said(kind, value)}"
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + width / 2:.1f}" fill="{colour}">'
                f"<title>{escaped(what)}</title></circle>"
            )
        ends.append((places[-1][1] + number / 1000, f"{curve.arch} {curve.path}", colour))
    for y, name, colour in apart(ends):
        drawn.append(f'<rect x="{RIGHT + 10}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>')
        drawn.append(text_at(RIGHT + 26, y + 4, name))
    return svg(max(HEIGHT, apart(ends)[-1][0] + 20), f"{title} ({kind}, logarithmic)", drawn)


def _rank(curves: Sequence[Curve], curve: Curve) -> int:
    return list(dict.fromkeys(each.arch for each in curves)).index(curve.arch)


def _along(sizes: Sequence[int]) -> Place:
    """Where an n is: logarithmic, but where 0 is one of them, as with depth."""
    if sizes[0] > 0:
        return Scale(sizes[0], sizes[-1], LEFT, RIGHT)
    step = (RIGHT - LEFT) / max(1, sizes[-1])
    return lambda n: LEFT + step * n


def _grid(kind: Kind, upwards: Scale) -> Iterator[str]:
    for power in range(int(upwards.low) - 1, int(upwards.high) + 2):
        for step in STEPS:
            value = step * 10.0**power
            if 10**upwards.low <= value <= 10**upwards.high:
                y = upwards(value)
                yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" class="grid"/>'
                yield text_at(LEFT - 8, y + 4, said(kind, value), end=True)


def _ticks(along: Place, curves: Sequence[Curve]) -> Iterator[str]:
    """Every n that was measured."""
    for n in sorted({n for curve in curves for n, _ in curve.points}):
        yield text_at(along(n), HEIGHT - 12, f"{n:,}", middle=True)
