"""Arrivals have the rate that was asked for, and both paths meet the same ones."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.load.requests import KINDS, Draw, arrivals, requests
from protocol.plan.scenario import Load, Mix

GUESTS = (0, 1, 2, 3)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_one() -> None:
    times = list(arrivals(Load(rate_per_min=6000, duration_s=100), Draw(1, 0)))
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread / mean == pytest.approx(1.0, abs=0.05)


def test_constant_arrivals_are_evenly_apart() -> None:
    times = list(arrivals(Load(arrivals="constant", rate_per_min=600, duration_s=2), Draw(1, 0)))
    assert times == pytest.approx([0.1 * n for n in range(1, 20)])


def test_a_ramp_rises_evenly_to_the_rate() -> None:
    """Half as many in the ramp as at the full rate; after it the rate is what was asked for."""
    load = Load(arrivals="constant", rate_per_min=6000, duration_s=20, ramp_s=10)
    times = list(arrivals(load, Draw(1, 0)))
    assert sum(at < 10 for at in times) == pytest.approx(500, abs=2)
    assert sum(at < 5 for at in times) == pytest.approx(125, abs=2)
    assert sum(at >= 10 for at in times) == pytest.approx(1000, abs=2)


def test_a_replay_comes_as_it_was() -> None:
    load = Load(arrivals="replay", duration_s=3)
    assert list(arrivals(load, Draw(1, 0), replay=[0.5, 0.6, 2.9, 3.5])) == [0.5, 0.6, 2.9]


@given(st.integers(0, 100), st.integers(0, 5))
def test_a_pair_draws_the_same_for_both_paths_and_another_pair_does_not(seed: int, pair: int) -> None:
    load = Load(rate_per_min=3000)
    one, other = (requests(load, GUESTS, Draw(seed, pair)) for _ in range(2))
    assert one == other
    assert one != requests(load, GUESTS, Draw(seed, pair + 1))


def test_one_more_kind_moves_no_arrival_and_no_guest() -> None:
    few = requests(Load(mix=Mix(swap=0)), GUESTS, Draw(1, 0))
    more = requests(Load(mix=Mix(swap=5)), GUESTS, Draw(1, 0))
    assert [(each.at_s, each.guest) for each in few] == [(each.at_s, each.guest) for each in more]


def test_kinds_come_by_weight() -> None:
    load = Load(rate_per_min=60_000, duration_s=10, mix=Mix(run=3, restart=1, page_change=0, swap=0))
    found = Counter(each.kind for each in requests(load, GUESTS, Draw(1, 0)))
    assert set(found) <= set(KINDS)
    assert found["run"] / found["restart"] == pytest.approx(3, rel=0.1)


def test_processes_share_the_rate() -> None:
    load = Load(rate_per_min=6000, duration_s=20)
    parts = [list(arrivals(load, Draw(1, 0, shard), shards=4)) for shard in range(4)]
    assert sum(map(len, parts)) == pytest.approx(2000, rel=0.1)
    assert parts[0] != parts[1]


def test_a_mix_of_nothing_and_a_flood_are_refused() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        requests(Load(mix=Mix(0, 0, 0, 0)), GUESTS, Draw(1, 0))
    with pytest.raises(ValueError, match="at most 1000000"):
        list(arrivals(Load(rate_per_min=1_000_000, duration_s=86_400), Draw(1, 0)))
