"""Percentiles against the sorted values themselves."""

from __future__ import annotations

import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.load.histogram import EXACT, RELATIVE_ERROR, Histogram, bucket, highest, merged

values = st.lists(st.integers(0, 1 << 50), min_size=1, max_size=200)


def of(numbers: list[int]) -> Histogram:
    made = Histogram()
    for number in numbers:
        made.record(number)
    return made


@given(values, st.sampled_from([0, 1, 25, 50, 90, 99, 99.9, 100]))
def test_a_percentile_is_a_recorded_value_up_to_the_stated_error(numbers: list[int], percent: float) -> None:
    exact = sorted(numbers)[max(1, ceil(len(numbers) * percent / 100)) - 1]
    found = of(numbers).percentile(percent)
    assert exact <= found <= exact * (1 + RELATIVE_ERROR)


@given(st.lists(values, min_size=1, max_size=5))
def test_merging_is_recording_all_in_one_place(parts: list[list[int]]) -> None:
    whole = of([number for part in parts for number in part])
    assert merged(of(part) for part in parts).as_dict() == whole.as_dict()


@given(values)
def test_it_travels_as_json(numbers: list[int]) -> None:
    made = of(numbers)
    again = Histogram.of(json.loads(json.dumps(made.as_dict())))
    assert again.as_dict() == made.as_dict()
    assert (again.count, again.mean) == (len(numbers), sum(numbers) / len(numbers))


@given(st.integers(0, 1 << 62))
def test_buckets_are_in_order_and_narrow(value: int) -> None:
    at = bucket(value)
    assert value <= highest(at)
    assert bucket(highest(at)) == at
    assert bucket(highest(at) + 1) == at + 1
    if value >= EXACT:
        assert highest(at) - value <= value * RELATIVE_ERROR


def test_the_curve_ends_with_everything() -> None:
    assert of([5, 5, 10, 1000]).curve() == [(5, 0.5), (10, 0.75), (1000, 1.0)]


def test_nothing_recorded_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None
    assert Histogram().mean is None


@pytest.mark.parametrize(
    "given_",
    [
        {},
        {"bits": 3},
        {"bits": 8, "buckets": 5},
        {"bits": 8, "buckets": {"-1": 1}, "least": 0, "largest": 0, "total": 0},
    ],
)
def test_what_is_no_histogram_is_refused(given_: dict) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.of(given_)


def test_a_time_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: 0 and above"):
        Histogram().record(-1)


def test_merging_one_with_nothing_in_it_changes_nothing() -> None:
    found = of([3, 900])
    found.add(Histogram())
    assert (found.least, found.largest, found.count, found.percentile(100)) == (3, 900, 2, 900)
    empty = Histogram()
    empty.add(found)
    assert empty.as_dict() == found.as_dict()
