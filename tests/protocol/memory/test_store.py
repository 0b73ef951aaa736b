"""A sparse mapping: zero until written, nothing taken for what nobody wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.memory.store import PAGE, PrivateStore


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE


def test_it_is_zero_at_first() -> None:
    store = PrivateStore(4 * PAGE)
    assert store.read(0, 4 * PAGE) == bytes(4 * PAGE)


def test_what_is_written_is_read() -> None:
    store = PrivateStore(2 * PAGE)
    store.write(PAGE - 2, b"abcd")
    assert store.read(PAGE - 3, 6) == b"\0abcd\0"


def test_clearing_zeroes_whole_pages_and_no_others() -> None:
    store = PrivateStore(3 * PAGE)
    store.write(0, b"a" * (3 * PAGE))
    store.clear(PAGE, PAGE)
    assert store.read(0, 3 * PAGE) == b"a" * PAGE + bytes(PAGE) + b"a" * PAGE


def test_clearing_nothing_changes_nothing() -> None:
    store = PrivateStore(PAGE)
    store.write(0, b"a")
    store.clear(0, 0)
    assert store.read(0, 1) == b"a"


def test_a_store_of_no_bytes_can_be_made() -> None:
    assert PrivateStore(0).size == 0


def test_a_terabyte_takes_no_memory_until_it_is_written() -> None:
    store = PrivateStore(1 << 40)
    before = resident_bytes()
    for at in range(0, 1 << 40, 1 << 32):
        assert store.read(at, 8) == bytes(8)
    read = resident_bytes()
    assert read - before < 1 << 20
    store.write(1 << 39, b"a" * (16 << 20))
    written = resident_bytes()
    assert written - read >= 15 << 20, "or this test measures nothing"
    store.clear(1 << 39, 16 << 20)
    assert written - resident_bytes() >= 15 << 20


@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(max_size=64)), max_size=20))
def test_it_is_a_row_of_bytes(writes: list[tuple[int, bytes]]) -> None:
    store, model = PrivateStore(4 * PAGE), bytearray(4 * PAGE)
    for at, data in writes:
        store.write(at, data)
        model[at : at + len(data)] = data
    assert store.read(0, 4 * PAGE) == model


def test_a_write_beyond_the_end_is_refused_by_the_mapping() -> None:
    """Nobody checks bounds below memory; a mistake above must not be silent all the same."""
    store = PrivateStore(PAGE)
    with pytest.raises(IndexError):
        store.write(PAGE - 1, b"ab")
