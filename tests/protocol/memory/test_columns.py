"""Columns of tables of frames: what a few scattered entries take is a page of memory each, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from protocol.memory.columns import column
from protocol.memory.store import PAGE

ENTRIES = 16 << 20  # of 8 bytes: a machine of 64 GiB
TOUCHED = 32
NEIGHBOURS = 16 * PAGE  # what others may write meanwhile in a mapping that this one was joined to


def resident(array: np.ndarray) -> int:
    """Bytes of memory that the mapping takes in which the middle of `array` lies."""
    at, inside = array.ctypes.data + array.nbytes // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= at < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("it lies nowhere")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no smaps here")
def test_scattered_entries_take_a_page_each() -> None:
    made = column(ENTRIES, np.uint64)
    before = resident(made)
    made[:: ENTRIES // TOUCHED] = 1
    assert resident(made) - before <= TOUCHED * PAGE + NEIGHBOURS


@pytest.mark.parametrize("entries", [1, 100, 1 << 23])
def test_it_is_zero_and_can_be_written(entries: int) -> None:
    made = column(entries, np.uint32)
    assert made.shape == (entries,)
    assert not made.any()
    made[-1] = 7
    view = memoryview(made)
    assert view[entries - 1] == 7


def test_entries_may_have_several_values() -> None:
    for entries in (3, 1 << 20):
        made = column(entries, np.uint8, 16)
        assert made.shape == (entries, 16)
        made[2] = range(16)
        assert made[2].tolist() == list(range(16))


def test_a_column_that_nobody_has_is_gone() -> None:
    made = column(ENTRIES, np.uint64)
    view = made[5:10].data
    del made
    view[0] = 3
    assert view.tolist() == [3, 0, 0, 0, 0]
