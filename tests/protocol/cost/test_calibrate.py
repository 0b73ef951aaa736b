"""A line through measurements, its interval, and the overlay that comes of it."""

from __future__ import annotations

import tomllib
from random import Random

import pytest

from actors.costs import shipped
from protocol.cost import calibrate as c
from protocol.cost.table import BadCosts, Costs


def test_a_line_without_noise_is_found_exactly() -> None:
    line = c.fitted([(n, 0.5 + 2e-6 * n) for n in (1000, 2000, 5000, 9000)])
    assert (line.slope.value, line.intercept.value) == pytest.approx((2e-6, 0.5))
    assert line.slope.low == pytest.approx(line.slope.high)


def test_the_interval_holds_the_truth_as_often_as_it_promises() -> None:
    random, held = Random(5), 0
    for _ in range(400):
        points = [(n, 1 + 3e-3 * n + random.gauss(0, 0.05)) for n in range(0, 1000, 125)]
        slope = c.fitted(points).slope
        held += slope.low <= 3e-3 <= slope.high
    assert 0.92 <= held / 400 <= 0.98


def test_published_destructions_of_tds_give_their_price() -> None:
    """KVM_TDX_TERMINATE_VM patch V4: 24, 134 and 467 s for 18, 107 and 400 GiB: 4.5 to 5.1 us a page."""
    pages = [gib * 262_144 for gib in (18, 107, 400)]
    slope = c.fitted(list(zip(pages, (24, 134, 467), strict=True))).slope
    known = shipped().of("tdx", "te_page_reclaim_dead")
    assert slope.value * 1e9 == pytest.approx(known.value, rel=0.1)


@pytest.mark.parametrize(
    ("points", "said"),
    [([(1, 1), (2, 2)], "at least 3"), ([(5, 1), (5, 2), (5, 3)], "sizes that differ")],
)
def test_what_no_line_goes_through_is_refused(points: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(c.BadMeasurements, match=said):
        c.fitted(points)


def test_a_table_may_have_a_heading_and_comments() -> None:
    assert c.read_points("pages,seconds\n# warm\n10, 0.5\n20;0.75\n\n30 1\n") == [
        (10, 0.5),
        (20, 0.75),
        (30, 1.0),
    ]
    with pytest.raises(c.BadMeasurements, match="line 2: 'x, 3'"):
        c.read_points("1,2\nx, 3")
    with pytest.raises(c.BadMeasurements, match="from 0 on"):
        c.read_points("1,-2")


def test_an_overlay_is_read_back_and_lies_over_the_table() -> None:
    line = c.fitted([(n, 0.5 + 2e-6 * n + n % 3 / 1000) for n in range(1000, 9000, 700)])
    made = {
        "s390.te_page_reclaim_dead": c.entry(shipped(), "s390.te_page_reclaim_dead", line.slope, 'our "own"')
    }
    over = Costs.read(tomllib.loads(c.overlay(made)))
    cost = shipped().overlaid(over).of("s390", "te_page_reclaim_dead")
    assert (cost.basis, cost.source, cost.unit) == ("measured", 'our "own"', "per_page")
    assert cost.low <= cost.value <= cost.high
    assert cost.value == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize("name", ["s390.nothing", "te_page_secure", "s390.", "mars.exit_l1_l0"])
def test_an_unknown_cost_is_refused(name: str) -> None:
    with pytest.raises(c.BadMeasurements, match="no such cost"):
        c.entry(shipped(), name, c.Estimate(1, 1, 1), "x")


def test_a_time_below_zero_is_refused() -> None:
    with pytest.raises(c.BadMeasurements, match="below 0"):
        c.entry(shipped(), "s390.te_page_secure", c.Estimate(-1, -2, 1), "x")


def test_a_source_of_more_than_one_line_is_refused() -> None:
    line = c.fitted([(n, 2e-6 * n) for n in range(1000, 9000, 700)])
    made = {"s390.te_page_reclaim_dead": c.entry(shipped(), "s390.te_page_reclaim_dead", line.slope, "a\nb")}
    with pytest.raises(BadCosts) as broken:
        c.overlay(made)
    assert "cost.s390.te_page_reclaim_dead.source: allowed: one line" in str(broken.value)
