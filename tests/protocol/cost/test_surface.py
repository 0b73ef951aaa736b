"""Break-even: by hand, and held against the sums that it is the edge of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cost import surface as s
from protocol.cost.table import Cost, Costs

COSTS = Costs(
    {("a", name): Cost(name, 10.0, 5.0, 20.0, "assumption", "per_op", "a test") for name in ("x", "y", "z")}
)


@pytest.mark.parametrize(
    ("parts", "word", "rate"),
    [
        ((0, 0, 0), s.THE_SAME, None),
        ((0, 100, 1), s.ALWAYS_HOSTED, None),
        ((0, -100, -1), s.ALWAYS_NESTED, None),
        ((0, -100, 1), s.HOSTED_ABOVE, 10.0),
        ((0, 100, -1), s.NESTED_ABOVE, 10.0),
        ((-200, 0, 1), s.HOSTED_ABOVE, 5.0),
    ],
)
def test_the_rate_from_which_on_the_other_path_is_cheaper(
    parts: tuple[int, int, int], word: str, rate: float | None
) -> None:
    """With four guests that live ten seconds."""
    assert s.threshold(*parts, guests=4, seconds=10) == (word, rate)


differences = st.floats(-1e9, 1e9).map(lambda value: round(value, 3))


@given(differences, differences, differences, st.sampled_from(s.GUESTS), st.sampled_from(s.LIFETIMES_S))
def test_both_cost_the_same_at_that_rate(host: float, guest: float, exit_: float, g: int, t: int) -> None:
    word, rate = s.threshold(host, guest, exit_, g, t)
    if rate is None:
        return
    assert rate >= 0
    assert host / g + guest + rate * t * exit_ == pytest.approx(0, abs=1e-6 * (abs(host) + abs(guest)))
    above = host / g + guest + (2 * rate + 1) * t * exit_
    assert (above > 0) == (word == s.HOSTED_ABOVE)


def test_a_surface_has_a_row_for_each_number_and_lifetime_with_its_band() -> None:
    nested = s.Parts(host={"x": 1}, guest={}, exit={"z": 4})
    hosted = s.Parts(host={"x": 9}, guest={"y": 2}, exit={"z": 1})
    rows = s.surface(COSTS, "a", nested, hosted, np.random.default_rng(1))
    assert len(rows) == len(s.GUESTS) * len(s.LIFETIMES_S)
    first = rows[0]
    assert (first["guests"], first["lifetime_s"], first["verdict"]) == (1, 1, s.HOSTED_ABOVE)
    assert first["rate"] == pytest.approx((80 + 20) / 30)
    assert first["low"] < first["rate"] < first["high"]
    assert first["always_hosted"] == 0
