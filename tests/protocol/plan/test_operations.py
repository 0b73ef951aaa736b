"""Pages of an operation are drawn by arithmetic that never changes, and operations are plain values."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.plan import operations as op
from protocol.plan.operations import LevelSwap, Operation, Pages, Swap, Touch

SPANS = st.integers(1, 5000)


@settings(max_examples=30)
@given(first=st.integers(0, 1 << 24), span=SPANS, part=st.floats(0, 1), seed=st.integers(0, 2**64 - 1))
def test_a_draw_has_so_many_different_pages_of_its_span(
    first: int, span: int, part: float, seed: int
) -> None:
    pages = Pages(first, span, int(span * part), seed)
    numbers = pages.numbers().tolist()
    assert len(numbers) == len(pages) == len(set(numbers))
    assert all(first <= number < first + span for number in numbers)


@settings(max_examples=30)
@given(span=SPANS, seed=st.integers(0, 2**64 - 1))
def test_a_smaller_draw_is_the_beginning_of_a_larger_one(span: int, seed: int) -> None:
    whole = Pages(7, span, span, seed).numbers()
    assert (Pages(7, span, span // 2, seed).numbers() == whole[: span // 2]).all()
    assert sorted(whole.tolist()) == list(range(7, 7 + span))


def test_without_a_seed_pages_ascend() -> None:
    assert Pages(16, 100, 5).numbers().tolist() == [16, 17, 18, 19, 20]


def test_the_order_that_a_seed_draws_is_the_same_for_ever() -> None:
    """Counts of recorded runs rest on it."""
    assert Pages(0, 10, 10, 1).numbers().tolist() == [8, 4, 3, 7, 0, 1, 5, 9, 6, 2]
    assert Pages(100, 10, 4, 2**64 - 1).numbers().tolist() == [109, 102, 107, 103]


def mixed(value: int) -> int:
    """SplitMix64's finaliser, from its authors' description, in plain integers."""
    mask = 2**64 - 1
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31


@settings(max_examples=30)
@given(span=st.integers(1, 200), seed=st.integers(0, 2**64 - 1))
def test_the_order_is_that_of_splitmix64(span: int, seed: int) -> None:
    keys = [mixed((index * 0x9E3779B97F4A7C15 + seed) % 2**64) for index in range(1, span + 1)]
    assert Pages(0, span, span, seed).numbers().tolist() == sorted(range(span), key=lambda index: keys[index])


def test_two_seeds_draw_two_orders() -> None:
    assert (Pages(0, 1000, 1000, 1).numbers() != Pages(0, 1000, 1000, 2).numbers()).any()


def test_more_pages_than_there_are_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="6 of 5 pages"):
        Pages(0, 5, 6)


def test_operations_are_values() -> None:
    touch = Touch(3, 1, Pages(0, 4, 2, 9))
    assert touch == Touch(3, 1, Pages(0, 4, 2, 9)) != Swap(3, 1, Pages(0, 4, 2, 9))
    assert len({touch, Touch(3, 1, Pages(0, 4, 2, 9))}) == 1
    with pytest.raises(FrozenInstanceError):
        touch.vcpu = 2  # type: ignore[misc]


def test_every_operation_has_a_name_of_its_own() -> None:
    kinds = [
        kind
        for kind in vars(op).values()
        if isinstance(kind, type) and issubclass(kind, Operation | op.Event)
    ]
    made = [kind(*([1] * len(fields(kind)))) for kind in kinds]
    names = [each.name for each in made]
    assert len(set(names)) == len(names)
    assert "boothost" in names


@settings(max_examples=30)
@given(held=st.integers(0, 300), count=st.integers(0, 50), seed=st.integers(0, 99))
def test_a_swap_below_picks_what_is_there(held: int, count: int, seed: int) -> None:
    picks = LevelSwap(count, seed).picks(held).tolist()
    assert len(picks) == len(set(picks)) == min(count, held)
    assert all(0 <= pick < held for pick in picks)
