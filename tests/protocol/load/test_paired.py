"""A verdict where there is one, none where there is none, and the right one as often as promised."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.load import paired as p


def compared(one: list[float], other: list[float]) -> p.Comparison:
    return p.compared(one, other, np.random.default_rng(1))


def test_blocks_alternate_so_that_a_drift_meets_both() -> None:
    assert [which for _, which in p.order(4)] == [0, 1, 1, 0, 0, 1, 1, 0]
    assert [pair for pair, _ in p.order(4)] == [0, 0, 1, 1, 2, 2, 3, 3]
    places = {which: [n for n, (_, w) in enumerate(p.order(4)) if w == which] for which in (0, 1)}
    assert sum(places[0]) == sum(places[1])


def test_a_difference_beyond_the_noise_has_a_verdict() -> None:
    noise = [0.1, -0.2, 0.05, 0.15, -0.1, 0.0]
    slow, fast = [10 + n for n in noise], [8 - n for n in noise]
    assert compared(slow, fast).verdict == p.SLOWER
    found = compared(fast, slow)
    assert (found.verdict, found.pairs) == (p.FASTER, 6)
    assert found.low < found.difference < found.high < 0
    assert found.ratio == pytest.approx(0.8, abs=0.01)


def test_a_difference_within_the_noise_has_none() -> None:
    assert compared([10, 8, 11, 9, 10, 7], [9, 10, 10, 8, 11, 8]).verdict == p.CANNOT_TELL


def test_too_few_pairs_say_nothing_however_clear_they_are() -> None:
    assert compared([10, 10, 10], [1, 1, 1]).verdict == p.CANNOT_TELL
    assert compared([], []).verdict == p.CANNOT_TELL
    assert compared([10], [1]).verdict == p.CANNOT_TELL


def test_common_load_takes_the_luck_of_the_draw_out() -> None:
    """Pairs that differ much from each other and little within: paired, the difference is plain."""
    random = np.random.default_rng(5)
    luck = random.exponential(100, size=8)
    found = compared(list(luck + 2 + random.normal(0, 0.5, 8)), list(luck))
    assert found.verdict == p.SLOWER


def test_where_there_is_no_difference_a_verdict_is_rare() -> None:
    random = np.random.default_rng(3)
    wrong = sum(
        p.compared(random.normal(0, 1, 8), random.normal(0, 1, 8), random).verdict != p.CANNOT_TELL
        for _ in range(200)
    )
    assert wrong <= 24, "95 % promised, up to 12 % granted to a bootstrap of eight pairs"
