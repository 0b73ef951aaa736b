"""Stores that are made late: whoever looks at such a page, in whatever way, finds what was stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protocol.arch.sev.machine.owed import OwingPhysical
from protocol.memory.store import PAGE, PrivateStore

OWING = np.array([2, 3, 5])


def stored(address: int) -> bytes:
    """What the guest left at the beginning of the page there."""
    return b"frame %d" % (address // PAGE)


@pytest.fixture
def memory() -> OwingPhysical:
    made = OwingPhysical(8)
    made.owe(OWING, stored)
    return made


def found(memory: OwingPhysical) -> dict[int, bytes]:
    """What the frames hold that hold anything."""
    pages = {frame: memory.read(frame * PAGE, PAGE).rstrip(b"\0") for frame in range(8)}
    return {frame: data for frame, data in pages.items() if data}


TWO, THREE, FIVE = b"frame 2", b"frame 3", b"frame 5"


def into_a_store(memory: OwingPhysical) -> None:
    """Frame 5 lives in memory of its own from now on, which holds something else."""
    store = PrivateStore(PAGE)
    store.write(0, b"elsewhere")
    memory.place([5], store)


def into_a_store_and_back(memory: OwingPhysical) -> None:
    into_a_store(memory)
    memory.leave(np.array([5]))
    memory.clear(5)


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda memory: None, {2: TWO, 3: THREE, 5: FIVE}),
        (lambda memory: memory.write(3 * PAGE + 6, b"III"), {2: TWO, 3: b"frame III", 5: FIVE}),
        (lambda memory: memory.clear(3), {2: TWO, 5: FIVE}),
        (lambda memory: memory.clear_many([2, 3, 5]), {}),
        (lambda memory: memory.swap_homes(3, 4), {2: TWO, 4: THREE, 5: FIVE}),
        (into_a_store, {2: TWO, 3: THREE, 5: b"elsewhere"}),
        (into_a_store_and_back, {2: TWO, 3: THREE}),
    ],
)
def test_a_late_store_is_that_of_its_time(
    memory: OwingPhysical, act: Callable[[OwingPhysical], None], left: dict[int, bytes]
) -> None:
    act(memory)
    assert found(memory) == left
    assert found(memory) == left, "looking changes nothing"


def test_a_search_for_secrets_finds_what_is_owed(memory: OwingPhysical) -> None:
    assert memory.exposed(b"frame") == [2, 3, 5]


def test_a_page_that_owes_something_is_not_zero(memory: OwingPhysical) -> None:
    assert not memory.zero(np.array([1, 2]))
    memory.clear(2)
    assert memory.zero(np.array([1, 2]))


def test_who_owes_nothing_any_more_may_owe_again(memory: OwingPhysical) -> None:
    memory.clear_many(OWING)
    memory.owe(np.array([7]), lambda address: b"again")
    assert found(memory) == {7: b"again"}


def test_frames_that_owe_nothing_change_their_homes(memory: OwingPhysical) -> None:
    memory.clear_many(OWING)
    memory.write(PAGE, b"frame 1")
    memory.swap_homes(1, 4)
    assert found(memory) == {4: b"frame 1"}
