"""Frames and where their bytes live, held against a dictionary of pages."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.memory.physical import Physical, chunks
from protocol.memory.store import PAGE, PrivateStore

FRAMES = 8
frames = st.integers(0, FRAMES - 1)
some_frames = st.lists(frames, max_size=FRAMES)


class Memory(RuleBasedStateMachine):
    """Every operation on a machine of eight frames and on eight bytearrays."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Physical(FRAMES)
        self.pages = {frame: bytearray(PAGE) for frame in range(FRAMES)}
        self.vault = {frame: bytearray(PAGE) for frame in range(FRAMES)}
        self.homes = {frame: frame for frame in range(FRAMES)}

    @rule(at=st.integers(0, FRAMES * PAGE - 1), data=st.binary(min_size=1, max_size=3 * PAGE))
    def write(self, at: int, data: bytes) -> None:
        data = data[: FRAMES * PAGE - at]
        self.memory.write(at, data)
        for offset, byte in enumerate(data):
            frame, within = divmod(at + offset, PAGE)
            self.pages[frame][within] = byte

    @rule(frame=frames, fill=st.integers(1, 255))
    def fill(self, frame: int, fill: int) -> None:
        self.memory.write(frame * PAGE, bytes([fill]) * PAGE)
        self.pages[frame][:] = bytes([fill]) * PAGE

    @rule(at=st.integers(0, FRAMES * PAGE - 1), length=st.integers(0, 3 * PAGE))
    def read(self, at: int, length: int) -> None:
        length = min(length, FRAMES * PAGE - at)
        whole = b"".join(self.pages.values())
        assert self.memory.read(at, length) == whole[at : at + length]

    @rule(frame=frames)
    def clear(self, frame: int) -> None:
        self.memory.clear(frame)
        self.pages[frame][:] = bytes(PAGE)

    @rule(cleared=some_frames, as_array=st.booleans())
    def clear_many(self, cleared: list[int], as_array: bool) -> None:
        self.memory.clear_many(np.array(cleared, np.int64) if as_array else cleared)
        for frame in cleared:
            self.pages[frame][:] = bytes(PAGE)

    @rule(first=frames, end=frames)
    def clear_a_range(self, first: int, end: int) -> None:
        self.memory.clear_many(range(first, end))
        for frame in range(first, end):
            self.pages[frame][:] = bytes(PAGE)

    @rule(one=frames, other=frames)
    def swap(self, one: int, other: int) -> None:
        self.memory.swap_homes(one, other)
        pages = self.pages
        pages[one], pages[other] = pages[other], pages[one]

    @rule(placed=st.lists(frames, unique=True, max_size=3))
    def place(self, placed: list[int]) -> None:
        store = PrivateStore(FRAMES * PAGE)
        for index, _ in enumerate(placed):
            store.write(index * PAGE, bytes([index + 1]))
        self.memory.place(placed, store)
        for index, frame in enumerate(placed):
            self.pages[frame][:] = bytes([index + 1]) + bytes(PAGE - 1)

    @rule(frame=frames, at=st.integers(0, PAGE - 64), data=st.binary(max_size=64))
    def vault_write(self, frame: int, at: int, data: bytes) -> None:
        self.memory.vault_write(frame, at, data)
        self.vault[frame][at : at + len(data)] = data

    @rule(frame=frames)
    def vault_clear(self, frame: int) -> None:
        self.memory.vault_clear(frame)
        self.vault[frame][:] = bytes(PAGE)

    @rule(cleared=st.lists(frames, unique=True))
    def vault_clear_many(self, cleared: list[int]) -> None:
        self.memory.vault_clear_many(np.array(cleared, np.int64))
        for frame in cleared:
            self.vault[frame][:] = bytes(PAGE)

    @invariant()
    def every_byte_is_where_it_belongs(self) -> None:
        for frame in range(FRAMES):
            assert self.memory.read(frame * PAGE, PAGE) == self.pages[frame]
            assert self.memory.vault_read(frame, 0, PAGE) == self.vault[frame]
            if self.memory.vault_is_clear(frame):
                assert not any(self.vault[frame])


class TestMemory(Memory.TestCase):
    settings = settings(max_examples=15, stateful_step_count=20)


@pytest.mark.slow
class TestMemoryAtLength(Memory.TestCase):
    settings = settings(max_examples=300, stateful_step_count=60)


def test_a_clear_of_scattered_frames_is_one_step_where_their_bytes_are_neighbours() -> None:
    steps: list[tuple[int, int]] = []

    class Watched(PrivateStore):
        def clear(self, offset: int, length: int) -> None:
            steps.append((offset, length))
            super().clear(offset, length)

    memory = Physical(16, Watched(16 * PAGE))
    memory.clear_many([7, 3, 5, 4, 12, 6])
    assert steps == [(3 * PAGE, 5 * PAGE), (12 * PAGE, PAGE)]


def test_what_the_vault_holds_is_not_in_ram() -> None:
    ram = PrivateStore(4 * PAGE)
    memory = Physical(4, ram)
    memory.vault_write(1, 0, b"secret")
    assert ram.read(0, 4 * PAGE) == bytes(4 * PAGE)
    assert memory.read(PAGE, 6) == bytes(6)


def test_the_vault_is_known_to_be_clear_only_where_nothing_was_put_or_all_was_cleared() -> None:
    memory = Physical(2)
    assert memory.vault_is_clear(0)
    memory.vault_write(0, 8, b"x")
    assert not memory.vault_is_clear(0)
    assert memory.vault_is_clear(1)
    memory.vault_clear(0)
    assert memory.vault_is_clear(0)


def test_placed_frames_live_in_the_store_given() -> None:
    memory, shared = Physical(4), PrivateStore(2 * PAGE)
    memory.place([3, 1], shared)
    memory.write(3 * PAGE, b"three")
    memory.write(1 * PAGE, b"one")
    assert shared.read(0, 5) == b"three"
    assert shared.read(PAGE, 3) == b"one"
    memory.write(2 * PAGE, b"two")
    assert b"two" not in shared.read(0, 2 * PAGE)


def test_a_store_without_room_is_refused_before_anything_moves() -> None:
    memory = Physical(4)
    memory.write(0, b"here")
    with pytest.raises(ValueError, match="2 frames do not fit into 4096 bytes"):
        memory.place([0, 1], PrivateStore(PAGE))
    assert memory.read(0, 4) == b"here"


def test_a_swap_moves_contents_between_stores_without_touching_a_byte() -> None:
    memory, shared = Physical(2), PrivateStore(PAGE)
    memory.place([1], shared)
    memory.write(0, b"private")
    memory.write(PAGE, b"shared")
    memory.swap_homes(0, 1)
    assert memory.read(0, 6) == b"shared"
    assert memory.read(PAGE, 7) == b"private"
    assert shared.read(0, 6) == b"shared"


def test_frames_that_leave_a_store_leave_zeroes_there_and_are_reachable_from_it_no_more() -> None:
    memory, shared = Physical(6), PrivateStore(3 * PAGE)
    memory.place([1, 2, 4], shared)
    for frame in (1, 2, 4):
        memory.write(frame * PAGE, b"secret")
    memory.leave(np.array([4, 1]))
    assert [shared.read(page * PAGE, 6) for page in range(3)] == [bytes(6), b"secret", bytes(6)]
    memory.clear_many([1, 4])
    memory.write(PAGE, b"one")
    memory.write(4 * PAGE, b"four")
    assert (memory.read(PAGE, 3), memory.read(4 * PAGE, 4)) == (b"one", b"four")
    assert shared.read(0, 6) == shared.read(2 * PAGE, 6) == bytes(6)


def test_scattered_frames_of_a_further_store_are_cleared_there() -> None:
    memory, shared = Physical(6), PrivateStore(3 * PAGE)
    memory.place([5, 1, 3], shared)
    shared.write(0, b"x" * 3 * PAGE)
    memory.clear_many([5, 3])
    assert [shared.read(page * PAGE, 1) for page in range(3)] == [b"\0", b"x", b"\0"]
    assert memory.read(PAGE, 1) == b"x"
    memory.clear(1)
    assert shared.read(0, 3 * PAGE) == bytes(3 * PAGE)


def test_a_store_that_goes_away_leaves_its_number_to_the_next_one() -> None:
    memory, first, second = Physical(4), PrivateStore(2 * PAGE), PrivateStore(2 * PAGE)
    number = memory.place([1, 2], first)
    memory.write(PAGE, b"one")
    memory.evict(number)
    assert memory.read(PAGE, 2 * PAGE) == bytes(2 * PAGE), "what was there is gone"
    memory.forget(number)
    assert memory.place([2, 3], second) == number
    memory.write(2 * PAGE, b"two")
    assert (first.read(0, 2 * PAGE), second.read(0, 3)) == (bytes(2 * PAGE), b"two")


def test_a_store_is_not_forgotten_while_a_frame_lives_in_it() -> None:
    memory = Physical(2)
    number = memory.place([1], PrivateStore(PAGE))
    with pytest.raises(AssertionError, match="1 frames still live in store 1"):
        memory.forget(number)


def test_what_is_exposed_is_found_in_every_store_and_never_in_the_vault() -> None:
    memory = Physical(6)
    memory.write(2 * PAGE + 100, b"secret")
    memory.vault_write(4, 0, b"secret")
    assert memory.exposed(b"secret") == [2]
    shared = PrivateStore(PAGE)
    memory.place([5], shared)
    shared.write(50, b"secret")  # by whoever maps it
    assert memory.exposed(b"secret") == [2, 5]


def test_there_are_only_so_many_stores_as_a_home_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.memory.physical._STORES", 2)
    memory = Physical(2)
    memory.place([0], PrivateStore(PAGE))
    with pytest.raises(ValueError, match="2 stores are there already"):
        memory.place([1], PrivateStore(PAGE))


def test_ranges_are_split_at_page_borders() -> None:
    assert list(chunks(PAGE - 1, PAGE + 2)) == [(PAGE - 1, 1), (PAGE, PAGE), (2 * PAGE, 1)]
    assert list(chunks(5, 0)) == []


def test_four_gigabytes_are_a_handful_of_objects() -> None:
    """A million frames, none of which is an object: so a machine is made at once."""
    before = sys.getallocatedblocks()
    memory = Physical(1 << 20)
    assert sys.getallocatedblocks() - before < 100
    assert memory.read((1 << 32) - PAGE, 8) == bytes(8)
