"""A curve: what something costs at sizes of a geometric series, and the law that it has to follow.

Counts are exact, and so is their law: it holds or it does not. Times and bytes are measured, so a power is
fitted to them and stands beside the expected one; no test and no exit code depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import log
from typing import Any


class Kind(StrEnum):
    """What was looked at. The three never share an axis, a table's column or a fit."""

    CPU = "CPU time of this program"
    MEMORY = "memory of this program"
    COUNT = "counted"


class Law(StrEnum):
    """How a cost may grow with n."""

    SAME = "the same at every n"
    LINEAR = "linear in n"
    DOUBLING = "every step beyond 1 costs twice the one before"


UNITS = {Kind.CPU: "us", Kind.MEMORY: "byte", Kind.COUNT: ""}
POWERS = {Law.SAME: 0.0, Law.LINEAR: 1.0}
ONE_TABLE = 240  # pages that one page table maps, beside the first 16
WHOLE_TABLES = 1024  # from so many pages on a geometric series has tables in proportion


@dataclass(frozen=True, slots=True)
class Curve:
    """`points` are (n, value), n ascending: microseconds, bytes, or a number of `what`."""

    dimension: str
    arch: str
    path: str
    kind: Kind
    what: str
    law: Law
    points: tuple[tuple[int, float], ...]

    def as_json(self) -> dict[str, Any]:
        """The curve as it stands in run.json, with what came of its law."""
        return {
            "dimension": self.dimension,
            "arch": self.arch,
            "path": self.path,
            "kind": self.kind.name.lower(),
            "what": self.what,
            "unit": UNITS[self.kind],
            "law": str(self.law),
            "points": [list(point) for point in self.points],
            **(
                {"holds": holds(self)}
                if self.kind is Kind.COUNT
                else {"expected_power": POWERS[self.law], "power": power(self)}
            ),
        }


def power(curve: Curve) -> float | None:
    """The k of n^k that lies nearest to the upper half of a curve; None where there is too little to fit.

    How something grows is told by large n: what is there once for all weighs little then. What is there at
    n = 0 already is taken off.
    """
    base = next((value for n, value in curve.points if n == 0), 0.0)
    known = [(log(n), log(value - base)) for n, value in curve.points if n and value > base]
    known = known[-max(3, (len(known) + 1) // 2) :]
    if len(known) < 2:
        return None
    mean_x, mean_y = (sum(each) / len(known) for each in zip(*known, strict=True))
    over: float = sum((x - mean_x) ** 2 for x, _ in known)
    along: float = sum((x - mean_x) * (y - mean_y) for x, y in known)
    return along / over


def holds(curve: Curve) -> bool | None:
    """Whether a count follows its law to the unit; None where no point could contradict it."""
    assert curve.kind is Kind.COUNT
    values = [value for _, value in curve.points]
    match curve.law:
        case Law.SAME:
            return len(set(values)) == 1 if len(values) > 1 else None
        case Law.DOUBLING:
            steps = [after - before for before, after in pairwise(values[1:])]
            return all(after == 2 * before for before, after in pairwise(steps)) if len(steps) > 1 else None
        case Law.LINEAR:
            groups = (
                [point for point in curve.points if point[0] <= ONE_TABLE],
                [point for point in curve.points if point[0] >= WHOLE_TABLES],
            )
            said = [_straight(group) for group in groups if len(group) > 2]
            return all(said) if said else None


def _straight(points: Sequence[tuple[int, float]]) -> bool:
    """Do the points lie on one line? In whole numbers, without a division."""
    (x0, y0), (x1, y1), *others = points
    return all((y - y0) * (x1 - x0) == (y1 - y0) * (x - x0) for x, y in others)
