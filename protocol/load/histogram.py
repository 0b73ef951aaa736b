"""Times by value: log-linear buckets, each no wider than 1/256 of its value; merged by adding, never
averaged.

A value below 512 has a bucket of its own; above, each doubling has 256 buckets. So any percentile that is
read off is the highest value of its bucket, at most 0.4 % above a value that was recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import ceil
from typing import Any

BITS = 8
EXACT = 1 << BITS
RELATIVE_ERROR = 1 / EXACT
LARGEST = 1 << 62


class Histogram:
    """Whole numbers from 0 on (nanoseconds). Larger ones than LARGEST count as that."""

    __slots__ = ("_counts", "count", "largest", "least", "total")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.least: int | None = None
        self.largest = 0

    def record(self, value: int, times: int = 1) -> None:
        """Count a value. Raises ValueError for one below 0."""
        if value < 0:
            raise ValueError(f"a time of {value}: allowed: 0 and above")
        value = min(value, LARGEST)
        self._counts[bucket(value)] += times
        self.count += times
        self.total += value * times
        self.least = value if self.least is None else min(self.least, value)
        self.largest = max(self.largest, value)

    def percentile(self, percent: float) -> int | None:
        """The least value that so many percent of the recorded ones do not exceed; None if there are none."""
        if not self.count:
            return None
        rank = max(1, ceil(self.count * percent / 100 - 1e-9))
        order = sorted(self._counts)
        seen = accumulate(self._counts[at] for at in order)
        at = next(at for at, n in zip(order, seen, strict=True) if n >= rank)
        return min(highest(at), self.largest)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def add(self, other: Histogram) -> None:
        """Merge the values of another one in."""
        self._counts.update(other._counts)
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        if other.least is not None:
            self.least = other.least if self.least is None else min(self.least, other.least)

    def curve(self) -> list[tuple[int, float]]:
        """Points of the distribution: value and the share of recorded values that do not exceed it."""
        found, seen = [], 0
        for at in sorted(self._counts):
            seen += self._counts[at]
            found.append((min(highest(at), self.largest), seen / self.count))
        return found

    def as_dict(self) -> dict[str, Any]:
        """As it travels between processes and into a bundle."""
        return {
            "unit": "ns",
            "bits": BITS,
            "buckets": {str(at): n for at, n in sorted(self._counts.items())},
            "least": self.least,
            "largest": self.largest,
            "total": self.total,
        }

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Histogram:
        """From `as_dict`. Raises ValueError for what is none."""
        made = cls()
        try:
            if given["bits"] != BITS:
                raise ValueError(f"a histogram of {given['bits']} bits: allowed: {BITS}")
            made._counts = Counter({int(at): int(n) for at, n in given["buckets"].items()})
            made.least = None if given["least"] is None else int(given["least"])
            made.largest, made.total = int(given["largest"]), int(given["total"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no histogram: {error}") from None
        if any(at < 0 or n < 0 for at, n in made._counts.items()):
            raise ValueError("no histogram: a bucket or a count below 0")
        made.count = made._counts.total()
        return made


def merged(parts: Iterable[Histogram]) -> Histogram:
    """All values of several histograms."""
    made = Histogram()
    for part in parts:
        made.add(part)
    return made


def bucket(value: int) -> int:
    """The number of the bucket that a value falls into."""
    shift = max(0, value.bit_length() - BITS - 1)
    return (shift << BITS) + (value >> shift)


def highest(at: int) -> int:
    """The largest value in a bucket."""
    if at < 2 * EXACT:
        return at
    shift = (at >> BITS) - 1
    return ((at - (shift << BITS) + 1) << shift) - 1
