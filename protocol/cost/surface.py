"""Where hosting is cheaper and where nesting is: by guests of a host, how long they live, how busy they are.

A host costs something once, a guest something once, and each of its exits something. Per guest, with g
guests on a host that live for T seconds and make r exits in each of them, nesting costs more than hosting
by

    D = host / g + guest + r * T * exit

where each of the three is the difference of the two paths. D is zero on a surface; for a given g and T that
is one rate r. All three are sums of amounts times costs, so the range of costs gives a range of rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.cost.price import Amounts
from protocol.cost.sensitivity import drawn
from protocol.cost.table import Costs

GUESTS = (1, 2, 4, 8, 16, 64, 256)
LIFETIMES_S = (1, 60, 3600, 86400)
SAMPLES = 2000
BAND = (5, 95)  # percentiles of the rates that the range of costs gives

ALWAYS_HOSTED, ALWAYS_NESTED, THE_SAME = "always hosted", "always nested", "the same"
HOSTED_ABOVE, NESTED_ABOVE = "hosted above", "nested above"


@dataclass(frozen=True, slots=True)
class Parts:
    """What one path pays for one host, one guest and one exit, in entries of the table."""

    host: Amounts
    guest: Amounts
    exit: Amounts


def threshold(
    host: float, guest: float, exit_: float, guests: int, seconds: float
) -> tuple[str, float | None]:
    """Which path is cheaper at which rate: a word and, where it depends on the rate, exits per second."""
    fixed, each = host / guests + guest, exit_ * seconds
    if not fixed and not each:
        return THE_SAME, None
    if fixed * each >= 0:
        return (ALWAYS_HOSTED if fixed > 0 or each > 0 else ALWAYS_NESTED), None
    return (HOSTED_ABOVE if each > 0 else NESTED_ABOVE), -fixed / each


def surface(
    costs: Costs, group: str, nested: Parts, hosted: Parts, random: np.random.Generator
) -> list[dict[str, Any]]:
    """The rate for each number of guests and each lifetime, with the band that the costs' ranges give."""
    names = sorted({name for parts in (nested, hosted) for of in _three(parts) for name in of})
    entries = [costs.of(group, name) for name in names]
    vectors = [_difference(names, *pair) for pair in zip(_three(nested), _three(hosted), strict=True)]
    values = np.array([entry.value for entry in entries])
    host, guest, exit_ = (float(vector @ values) for vector in vectors)
    rows = drawn(entries, SAMPLES, random)
    samples = [rows @ vector for vector in vectors]
    found = []
    for guests in GUESTS:
        for seconds in LIFETIMES_S:
            word, rate = threshold(host, guest, exit_, guests, seconds)
            band = _band(samples[0], samples[1], samples[2], guests, seconds)
            found.append({"guests": guests, "lifetime_s": seconds, "verdict": word, "rate": rate, **band})
    return found


def _band(
    host: np.ndarray, guest: np.ndarray, exit_: np.ndarray, guests: int, seconds: float
) -> Mapping[str, float]:
    """Rates at the edges of the band; 0 is "at any rate". And how often hosting wins at every rate."""
    fixed, each = host / guests + guest, exit_ * seconds
    rates = np.where(each > 0, np.maximum(0.0, -fixed / np.where(each > 0, each, 1.0)), np.inf)
    low, high = np.percentile(rates, BAND, method="nearest")
    always = float(np.mean((fixed >= 0) & (each >= 0)))
    return {"low": float(low), "high": float(high), "always_hosted": always}


def _three(parts: Parts) -> Sequence[Amounts]:
    return (parts.host, parts.guest, parts.exit)


def _difference(names: Sequence[str], one: Amounts, other: Amounts) -> np.ndarray:
    return np.array([one.get(name, 0.0) - other.get(name, 0.0) for name in names])
