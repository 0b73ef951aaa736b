"""From a user's own measurements to entries of the cost table: a straight line through (pages, seconds).

The slope is what a page costs, the intercept what everything else does. Their intervals are Student's at
95 %; the bounds of an entry are those of its interval. Measurements should come from sizes that differ:
boots or destructions with growing memory, launches of growing images (fact sheet of the costs, 2.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from protocol.cost.table import BadCosts, Costs

LEAST_POINTS = 3
NS = 1e9
# Student's t, 97.5 %, by degrees of freedom; beyond them the next smaller one is on the safe side.
STUDENT = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


class BadMeasurements(ValueError):
    """Measurements that no line can be drawn through. The message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds for each page, and seconds that do not depend on pages."""

    slope: Estimate
    intercept: Estimate
    points: int


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The least-squares line through (pages, seconds). Raises BadMeasurements."""
    n = len(points)
    if n < LEAST_POINTS:
        raise BadMeasurements(f"{n} measurements: allowed: at least {LEAST_POINTS}")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if min(xs) == max(xs):
        raise BadMeasurements("all measurements are of the same number of pages: allowed: sizes that differ")
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    intercept = mean_y - slope * mean_x
    left = sum((y - intercept - slope * x) ** 2 for x, y in points)
    error = sqrt(left / (n - 2))
    t = student(n - 2)
    of_slope, of_intercept = error / sqrt(spread), error * sqrt(1 / n + mean_x**2 / spread)
    return Line(
        Estimate(slope, slope - t * of_slope, slope + t * of_slope),
        Estimate(intercept, intercept - t * of_intercept, intercept + t * of_intercept),
        n,
    )


def student(freedom: int) -> float:
    """Student's t at 97.5 % for so many degrees of freedom."""
    return STUDENT[max(known for known in STUDENT if known <= freedom)]


def read_points(text: str) -> list[tuple[float, float]]:
    """Pages and seconds, two numbers on each line; a heading is allowed. Raises BadMeasurements."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = [word for word in line.replace(",", " ").replace(";", " ").split() if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            pages, seconds = (float(word) for word in words)
        except ValueError:
            if number == 1:
                continue
            raise BadMeasurements(f"line {number}: {line[:60]!r}: allowed: PAGES, SECONDS") from None
        if not (0 <= pages < 1e15 and 0 <= seconds < 1e9):
            raise BadMeasurements(f"line {number}: {line[:60]!r}: allowed: numbers from 0 on")
        found.append((pages, seconds))
    return found


def entry(costs: Costs, name: str, estimate: Estimate, source: str) -> Mapping[str, object]:
    """An entry for an overlay. Raises BadMeasurements for an unknown name, or a time below 0."""
    group, _, last = name.partition(".")
    try:
        known = costs.of(group, last) if last else None
    except KeyError:
        known = None
    if known is None or (group != "common" and last not in costs.names(group)):
        raise BadMeasurements(f"{name}: no such cost; allowed: GROUP.NAME, like s390.te_page_reclaim_dead")
    if estimate.value < 0:
        raise BadMeasurements(
            f"{name}: {estimate.value:g} s: a time below 0; allowed: measurements that grow"
        )
    return {
        "value_ns": round(estimate.value * NS, 3),
        "low_ns": round(max(0.0, estimate.low) * NS, 3),
        "high_ns": round(estimate.high * NS, 3),
        "basis": "measured",
        "unit": known.unit,
        "source": source,
    }


def overlay(entries: Mapping[str, Mapping[str, object]]) -> str:
    """The text of a file that `--costs` takes. Raises BadCosts if it would not be one."""
    lines = [
        "# Costs of an own machine, made by `nestbed calibrate`; lay it over the table with --costs.",
        "",
    ]
    for name, fields in entries.items():
        lines.append(f"[cost.{name}]")
        for field, value in fields.items():
            lines.append(f"{field} = {_toml(value)}")
        lines.append("")
    mistakes = [name for name, fields in entries.items() if "\n" in str(fields.get("source"))]
    if mistakes:
        raise BadCosts([f"cost.{name}.source: allowed: one line" for name in mistakes])
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'
    return repr(value)
