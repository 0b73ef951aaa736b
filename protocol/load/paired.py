"""Two paths under the same load: the order of blocks, the paired difference, and what can be said of it.

Blocks alternate A B B A A B B A, so that a drift of the machine meets both alike. Each pair of blocks has
the same requests at the same times, so its difference is free of the luck of the draw. The differences of
pairs are the sample; the interval of their mean comes from drawing pairs again (percentile bootstrap,
widened by the small sample's sqrt(n / (n - 1))). An interval that holds 0 says nothing, and neither do
fewer than four pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

LEAST_PAIRS = 4
DRAWS = 4000
CONFIDENCE = 95

FASTER, SLOWER, CANNOT_TELL = "faster", "slower", "cannot tell"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first path less the second: mean, interval, as a share of the second, and a word for the first."""

    verdict: str
    difference: float
    low: float
    high: float
    ratio: float | None
    pairs: int


def order(pairs: int, sides: int = 2) -> list[tuple[int, int]]:
    """(pair, which side) in the order in which blocks run: forwards and backwards in turn."""
    found = []
    for pair in range(pairs):
        found += [(pair, which) for which in range(sides)[:: 1 if pair % 2 == 0 else -1]]
    return found


def compared(one: Sequence[float], other: Sequence[float], random: np.random.Generator) -> Comparison:
    """From the mean times of each pair on both paths."""
    assert len(one) == len(other), "pairs have two sides"
    if not len(one):
        return Comparison(CANNOT_TELL, 0.0, 0.0, 0.0, None, 0)
    differences = np.array(one) - np.array(other)
    mean = float(differences.mean())
    low, high = _interval(differences, random)
    base = float(np.mean(other))
    ratio = float(np.mean(one)) / base if base else None
    verdict = CANNOT_TELL
    if len(differences) >= LEAST_PAIRS and not low <= 0 <= high:
        verdict = FASTER if high < 0 else SLOWER
    return Comparison(verdict, mean, low, high, ratio, len(differences))


def _interval(sample: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    n = len(sample)
    if n < 2:
        return float(sample[0]), float(sample[0])
    drawn = random.choice(sample, size=(DRAWS, n)).mean(axis=1)
    edge = (100 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [edge, 100 - edge])
    mean, wider = float(sample.mean()), sqrt(n / (n - 1))
    return mean + wider * (float(low) - mean), mean + wider * (float(high) - mean)
