"""Sensitivity against functions whose answer is known, and turns against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cost import sensitivity as s
from protocol.cost.table import Cost, Costs


def cost(name: str, low: float, value: float, high: float) -> Cost:
    return Cost(name, value, low, high, "assumption", "per_op", "a test")


def table(*entries: Cost) -> Costs:
    return Costs({("a", entry.name): entry for entry in entries})


def random() -> np.random.Generator:
    return np.random.default_rng(1)


def test_the_indices_of_ishigamis_function_are_those_of_its_paper() -> None:
    """Ishigami and Homma, 1990: with a = 7 and b = 0.1 the first-order indices are 0.314, 0.442 and 0.
    Here the angles are made from what is drawn, so that their distribution is the uniform one."""
    costs = [cost(name, 1.0, 10.0, 100.0) for name in ("x1", "x2", "x3")]

    def model(rows: np.ndarray) -> np.ndarray:
        t = np.log(rows) / np.log(100.0)  # a triangle over 0 to 1 with its peak in the middle
        uniform = np.where(t < 0.5, 2 * t**2, 1 - 2 * (1 - t) ** 2)
        x = np.pi * (2 * uniform - 1)
        return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])

    found = {share.cost.name: share for share in s.sobol(costs, model, random(), samples=1 << 15)}
    assert [found[x].first for x in ("x1", "x2", "x3")] == pytest.approx([0.314, 0.442, 0.0], abs=0.02)
    assert [found[x].total for x in ("x1", "x2", "x3")] == pytest.approx([0.558, 0.442, 0.244], abs=0.02)


def test_of_a_sum_every_cost_has_its_share_of_the_variance_and_no_interaction() -> None:
    costs = [cost("narrow", 90.0, 100.0, 110.0), cost("wide", 10.0, 100.0, 1000.0)]
    found = s.sobol(costs, lambda rows: rows.sum(axis=1), random(), samples=1 << 14)
    assert [share.cost.name for share in found] == ["wide", "narrow"]
    draws = s.drawn(costs, 1 << 16, random())
    variances = draws.var(axis=0)
    expected = variances / variances.sum()
    assert found[0].total == pytest.approx(expected[1], abs=0.02)
    assert found[0].first == pytest.approx(found[0].total, abs=0.03)


def test_draws_stay_within_their_bounds_and_are_densest_at_the_value() -> None:
    one = s.drawn([cost("x", 1.0, 10.0, 1000.0)], 20_000, random())[:, 0]
    assert one.min() >= 1.0
    assert one.max() <= 1000.0
    histogram, edges = np.histogram(np.log10(one), bins=12, range=(0, 3))
    assert edges[histogram.argmax()] <= 1.0 <= edges[histogram.argmax() + 1]


def test_a_cost_without_a_range_is_always_the_same() -> None:
    assert set(s.drawn([cost("x", 5.0, 5.0, 5.0)], 10, random())[:, 0]) == {5.0}


def test_a_tornado_has_the_widest_bar_first() -> None:
    costs = [cost("small", 1.0, 2.0, 3.0), cost("large", 1.0, 2.0, 9.0)]
    bars = s.tornado(costs, lambda rows: rows.sum(axis=1))
    assert [(bar.cost.name, bar.at_low, bar.at_high) for bar in bars] == [
        ("large", 3.0, 11.0),
        ("small", 3.0, 5.0),
    ]


def test_a_turn_is_where_both_paths_cost_the_same() -> None:
    """10 x against 3 x + y: with x = 2 and y = 5 the first costs 9 more; y would have to be 14."""
    costs = table(cost("x", 1.0, 2.0, 3.0), cost("y", 1.0, 5.0, 20.0))
    balance = s.Balance(costs, "a", {"x": 10}, {"x": 3, "y": 1})
    assert balance.difference == 9.0
    assert [(turn.cost.name, round(turn.at, 3), turn.possible) for turn in balance.turns()] == [
        ("y", 14.0, True),
        ("x", 0.714, False),
    ]
    assert balance.extremes() == (7.0 - 20.0, 21.0 - 1.0)
    assert not balance.certain


numbers = st.floats(0.1, 1000.0)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers), min_size=1, max_size=5))
def test_what_is_certain_holds_for_every_draw_and_what_turns_it_does(rows: list[tuple[float, ...]]) -> None:
    entries = [cost(f"c{n}", *sorted(row[:3])) for n, row in enumerate(rows)]
    one = {f"c{n}": row[3] for n, row in enumerate(rows)}
    other = {f"c{n}": row[4] for n, row in enumerate(rows)}
    balance = s.Balance(table(*entries), "a", one, other)
    weights = np.array([one[c.name] - other[c.name] for c in balance.costs])
    differences = s.drawn(balance.costs, 200, random()) @ weights
    least, most = balance.extremes()
    slack = 1e-6 * (1 + abs(least) + abs(most))
    assert least - slack <= differences.min()
    assert differences.max() <= most + slack
    if balance.certain:
        assert len(set(np.sign(differences))) == 1
    for turn in balance.turns():
        changed = np.array([turn.at if c.name == turn.cost.name else c.value for c in balance.costs])
        assert changed @ weights == pytest.approx(0.0, abs=slack)


def test_a_cost_that_would_have_to_be_below_nothing_turns_nothing() -> None:
    """7 x + y more in any case: neither of the two could make up for it, and z is the same for both."""
    costs = table(cost("x", 1.0, 2.0, 3.0), cost("y", 1.0, 5.0, 20.0), cost("z", 1.0, 2.0, 3.0))
    balance = s.Balance(costs, "a", {"x": 10, "y": 1, "z": 4}, {"x": 3, "z": 4})
    assert balance.difference == 19.0
    assert balance.turns() == []
    assert balance.certain


def test_the_ratio_of_two_paths_is_of_their_sums_and_never_divides_by_nothing() -> None:
    costs = table(cost("x", 1.0, 2.0, 3.0), cost("y", 1.0, 5.0, 9.0))
    rows = np.array([[2.0, 5.0], [3.0, 1.0]])

    def against(other: dict[str, float]) -> s.Balance:
        return s.Balance(costs, "a", {"x": 10.0}, other)

    assert against({"x": 3.0, "y": 1.0}).ratio(rows).tolist() == [20 / 11, 3.0]
    assert against({}).ratio(rows[:, :1])[0] == pytest.approx(20 / s.SMALLEST_NS)
