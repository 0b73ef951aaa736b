"""The bundle's page: what was found, one picture for each dimension and kind, every law beside its fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.compare.markup import escaped, page, table, tag
from benchmarks.growth.curve import POWERS, Curve, Kind, holds, power
from benchmarks.growth.picture import picture, said

TITLES = {
    "guests": "Guests of one host",
    "pages": "Pages of one guest",
    "L1s": "Guest hosts of one machine",
    "depth": "Levels under the host",
}
NOTES = {
    Kind.CPU: "Seconds of the CPU's time of this program, of the fastest of several; they say nothing about "
    "any hardware.",
    Kind.MEMORY: "Python's objects and numpy's arrays. Bytes of frames, and tables with an entry for each "
    "frame, lie in sparse mappings and are not in.",
    Kind.COUNT: "Exits that arrive at L0: exact, whatever the machine that this ran on.",
}


def report(curves: Sequence[Curve], environment: Mapping[str, Any]) -> str:
    """One self-contained file about all curves."""
    body = [
        tag("h1", "How cost grows"),
        *(tag("p", escaped(text), class_="verdict") for text in verdict(curves)),
    ]
    for dimension in dict.fromkeys(curve.dimension for curve in curves):
        body.append(tag("h2", escaped(TITLES[dimension]), id=dimension))
        for kind in Kind:
            chosen = [curve for curve in curves if (curve.dimension, curve.kind) == (dimension, kind)]
            if chosen:
                body += _section(chosen)
    where = ", ".join(f"{environment[key]}" for key in ("system", "processor", "cpus") if key in environment)
    made = f"nestbed, revision {environment.get('revision') or 'not known'}; {where} CPUs"
    body.append(tag("footer", tag("p", escaped(made))))
    return page("nestbed: how cost grows", *body)


def _section(curves: Sequence[Curve]) -> Iterator[str]:
    first = curves[0]
    title = f"{first.what[0].upper()}{first.what[1:]}"
    yield tag("h3", escaped(f"{title} ({first.kind})"))
    yield picture(title, curves)
    yield table(["", "from", "to", "law", "found"], [row(curve) for curve in curves])
    yield tag("p", escaped(NOTES[first.kind]), class_="note")


def row(curve: Curve) -> list[str]:
    """A curve in a line: who, its first and its last point, its law, what was found."""
    (n0, v0), (n1, v1) = curve.points[0], curve.points[-1]
    ends = (f"{said(curve.kind, value)} at {n:,}" for n, value in ((n0, v0), (n1, v1)))
    return [f"{curve.arch} {curve.path}", *ends, expected(curve), found(curve)]


def expected(curve: Curve) -> str:
    if curve.kind is Kind.COUNT:
        return str(curve.law)
    return f"{curve.law}: n^{POWERS[curve.law]:.0f}"


def found(curve: Curve) -> str:
    if curve.kind is Kind.COUNT:
        return {True: "holds exactly", False: "DOES NOT HOLD", None: "too few points"}[holds(curve)]
    k = power(curve)
    return "too few points" if k is None else f"n^{k:.2f}"


def verdict(curves: Sequence[Curve]) -> Iterator[str]:
    """What came out, in a sentence for counts and one for each kind that was measured."""
    counted = [holds(curve) for curve in curves if curve.kind is Kind.COUNT]
    yield f"{counted.count(True)} of {len(counted)} laws of counts hold exactly."
    for kind in (Kind.CPU, Kind.MEMORY):
        over = [
            (k - POWERS[curve.law], curve)
            for curve in curves
            if curve.kind is kind and (k := power(curve)) is not None
        ]
        if over:
            most, curve = max(over, key=lambda each: each[0])
            who = f"{curve.arch} {curve.path}, {curve.dimension}"
            yield f"{kind}: no curve grows faster than its law by more than n^{most:.2f} ({who})."
