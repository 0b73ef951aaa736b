"""Which assumption moves an answer most, and which one could turn it round.

A model is a function of the costs: it takes rows of values, one column for each cost, and returns one number
for each row. The costs are independent of each other; where they are drawn, each is drawn from a triangle
over the logarithm between its bounds, with the value in the table as its peak, because ranges span decades.

  tornado   one cost at a time at each of its bounds
  sobol     shares of the variance: of a cost alone, and with all that it does together with others
  Balance   a sum that is the difference of two paths: what turns its sign, exactly and without drawing

The indices are estimated from two samples and their exchange of columns, the first-order one after Saltelli
et al. (2010), the total one after Jansen (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protocol.cost.price import Amounts
from protocol.cost.table import Cost, Costs

SAMPLES = 4096
SMALLEST_NS = 1e-3  # the logarithm of a bound that is zero is taken of this

Rows = np.ndarray  # (n, k): n draws of k costs
Model = Callable[[Rows], np.ndarray]


@dataclass(frozen=True, slots=True)
class Bar:
    """What the model says with one cost at its lower and at its upper bound, all others as they are."""

    cost: Cost
    at_low: float
    at_high: float

    @property
    def swing(self) -> float:
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True, slots=True)
class Share:
    """Shares of the model's variance that a cost has alone (`first`), and with its interactions (`total`)."""

    cost: Cost
    first: float
    total: float


def tornado(costs: Sequence[Cost], model: Model) -> list[Bar]:
    """A bar for each cost, the widest first; equal ones by name."""
    base = np.array([cost.value for cost in costs])
    rows = np.tile(base, (2 * len(costs), 1))
    for place, cost in enumerate(costs):
        rows[2 * place, place], rows[2 * place + 1, place] = cost.low, cost.high
    found = model(rows)
    bars = [Bar(cost, float(found[2 * n]), float(found[2 * n + 1])) for n, cost in enumerate(costs)]
    return sorted(bars, key=lambda bar: (-bar.swing, bar.cost.name))


def drawn(costs: Sequence[Cost], count: int, random: np.random.Generator) -> Rows:
    """`count` draws of all costs."""
    return np.column_stack([_triangle(cost, random.random(count)) for cost in costs])


def sobol(
    costs: Sequence[Cost], model: Model, random: np.random.Generator, samples: int = SAMPLES
) -> list[Share]:
    """The shares of every cost, the largest total first. A model without variance has none to share."""
    one, other = drawn(costs, samples, random), drawn(costs, samples, random)
    of_one, of_other = model(one), model(other)
    mean = float(np.mean(np.concatenate([of_one, of_other])))  # far from 0 it would drown the estimate
    variance = float(np.var(np.concatenate([of_one, of_other])))
    found = []
    for place, cost in enumerate(costs):
        exchanged = one.copy()
        exchanged[:, place] = other[:, place]
        of_exchanged = model(exchanged)
        first = float(np.mean((of_other - mean) * (of_exchanged - of_one))) / variance if variance else 0.0
        total = float(np.mean((of_one - of_exchanged) ** 2)) / 2 / variance if variance else 0.0
        found.append(Share(cost, max(0.0, first), total))
    return sorted(found, key=lambda share: (-share.total, share.cost.name))


def _triangle(cost: Cost, uniform: np.ndarray) -> np.ndarray:
    """The costs at these places of the distribution function: log-triangular, its peak at the value."""
    low, peak, high = (np.log(max(bound, SMALLEST_NS)) for bound in (cost.low, cost.value, cost.high))
    if high <= low:
        return np.full(uniform.shape, cost.value)
    width, left = high - low, (peak - low) / (high - low)
    rising = low + np.sqrt(uniform * width * (peak - low))
    falling = high - np.sqrt((1 - uniform) * width * (high - peak))
    return np.asarray(np.exp(np.where(uniform < left, rising, falling)))


# -- one path against another ------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """The value of one cost at which two paths cost the same, all others as they are; within its range?"""

    cost: Cost
    at: float

    @property
    def possible(self) -> bool:
        return self.cost.low <= self.at <= self.cost.high

    @property
    def times(self) -> float:
        """How many times what the table says."""
        return self.at / self.cost.value if self.cost.value else float("inf")


class Balance:
    """Two paths, each a sum of amounts times costs. Which is cheaper, and what would turn that round."""

    def __init__(self, costs: Costs, group: str, one: Amounts, other: Amounts) -> None:
        names = sorted(set(one) | set(other))
        self.costs = [costs.of(group, name) for name in names]
        self._one = np.array([one.get(name, 0.0) for name in names])
        self._other = np.array([other.get(name, 0.0) for name in names])
        self._values = np.array([cost.value for cost in self.costs])

    @property
    def difference(self) -> float:
        """Of the first path to the second, in nanoseconds."""
        return float((self._one - self._other) @ self._values)

    def ratio(self, rows: Rows) -> np.ndarray:
        """How many times what the second path costs the first one does: the model of tornado and sobol."""
        return np.asarray((rows @ self._one) / np.maximum(rows @ self._other, SMALLEST_NS))

    def extremes(self) -> tuple[float, float]:
        """The least and the most that the difference can be, whatever the costs are within their ranges."""
        each = self._one - self._other
        low = np.array([cost.low for cost in self.costs])
        high = np.array([cost.high for cost in self.costs])
        least = float(np.sum(each * np.where(each > 0, low, high)))
        most = float(np.sum(each * np.where(each > 0, high, low)))
        return least, most

    @property
    def certain(self) -> bool:
        """Whether no choice of costs within their ranges turns the sign."""
        least, most = self.extremes()
        return least > 0 or most < 0

    def turns(self) -> list[Turn]:
        """Where each cost by itself would turn the sign, the one nearest to the table's value first."""
        found = []
        for cost, each in zip(self.costs, self._one - self._other, strict=True):
            at = cost.value - self.difference / each if each else -1.0
            if at >= 0 and cost.value:
                found.append(Turn(cost, float(at)))
        return sorted(found, key=lambda turn: (not turn.possible, _far(turn), turn.cost.name))


def _far(turn: Turn) -> float:
    return abs(float(np.log(max(turn.times, SMALLEST_NS))))
