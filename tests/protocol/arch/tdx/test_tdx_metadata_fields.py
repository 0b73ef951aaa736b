"""Ids of metadata fields: which field an id means, and which one is next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.tdx.fields import (
    NO_FIELD,
    SYS_FIELDS,
    TD_FIELDS,
    VP_FIELDS,
    Field,
    find,
    following,
    is_null,
    is_single_element,
)

TABLES = (SYS_FIELDS, TD_FIELDS, VP_FIELDS)


@pytest.mark.parametrize("table", TABLES, ids=("sys", "td", "vp"))
def test_no_id_means_two_elements(table: tuple[Field, ...]) -> None:
    seen = set()
    for field in table:
        for index in range(field.count):
            assert find(table, field.id + index) == (field, index)
            assert is_single_element(field.id + index)
            seen.add((field.kind, field.code + index))
    assert len(seen) == sum(field.count for field in table)


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("table", TABLES, ids=("sys", "td", "vp"))
def test_following_the_ids_visits_what_may_be_read_once_each(
    table: tuple[Field, ...], guest: bool, debug: bool
) -> None:
    readable = [
        field.id + index
        for field in table
        if (field.guest[0] if guest else field.readable(debug)) & field.mask
        for index in range(field.count)
    ]
    visited, at = [], following(table, None, 0, guest, debug)
    while at != NO_FIELD:
        visited.append(at)
        found = find(table, at)
        assert found is not None
        at = following(table, *found, guest, debug)
    assert visited == readable


@given(st.integers(0, (1 << 64) - 1))
def test_an_id_that_means_a_sequence_is_not_taken(field_id: int) -> None:
    more = bool(field_id >> 34 & 0xFFFF or field_id >> 55 & 1 or field_id >> 62 & 1)
    assert is_single_element(field_id) == (not more)


def test_the_null_id_is_all_ones_whatever_its_context() -> None:
    assert all(is_null(NO_FIELD & ~(context << 52)) for context in range(8))
    assert not is_null(NO_FIELD - 1)
