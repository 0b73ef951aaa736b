"""Free frames: what is given is given once, a refusal takes nothing, nothing is ever lost."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.memory.pool import OutOfFrames, Pool

FIRST, COUNT = 100, 48


class Frames(RuleBasedStateMachine):
    """A pool against the set of its free frames."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(FIRST, COUNT)
        self.free = set(range(FIRST, FIRST + COUNT))
        self.runs: list[range] = []
        self.singles: list[int] = []

    def has_run(self, count: int) -> bool:
        return any(self.free >= set(range(first, first + count)) for first in self.free)

    @rule(count=st.integers(1, 20))
    def take_run(self, count: int) -> None:
        if not self.has_run(count):
            with pytest.raises(OutOfFrames, match=str(count)):
                self.pool.take_run(count)
            return
        first = self.pool.take_run(count)
        taken = range(first, first + count)
        assert self.free >= set(taken)
        self.free -= set(taken)
        self.runs.append(taken)

    @rule(count=st.integers(0, 20), many=st.booleans())
    def take(self, count: int, many: bool) -> None:
        take = self.pool.take_many if many else self.pool.take_singles
        if count > len(self.free):
            with pytest.raises(OutOfFrames):
                take(count)
            return
        taken = [int(frame) for frame in take(count)]
        assert len(set(taken)) == count
        assert self.free >= set(taken)
        self.free -= set(taken)
        self.singles += taken

    @rule()
    def take_one(self) -> None:
        if not self.free:
            with pytest.raises(OutOfFrames):
                self.pool.take()
            return
        frame = self.pool.take()
        assert frame in self.free
        self.free.remove(frame)
        self.singles.append(frame)

    @rule(data=st.data())
    def give_run(self, data: st.DataObject) -> None:
        if self.runs:
            run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
            self.pool.give_run(run.start, len(run))
            self.free |= set(run)

    @rule(data=st.data(), many=st.booleans())
    def give(self, data: st.DataObject, many: bool) -> None:
        count = data.draw(st.integers(0, len(self.singles)))
        given = [self.singles.pop() for _ in range(count)]
        self.pool.give(np.array(given, np.int64) if many else tuple(given))
        self.free |= set(given)

    @rule()
    def give_a_run_frame_by_frame(self) -> None:
        if self.runs:
            run = self.runs.pop()
            self.pool.give(run)
            self.free |= set(run)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.pool.free == len(self.free)


class TestFrames(Frames.TestCase):
    settings = settings(max_examples=15, stateful_step_count=20)


@pytest.mark.slow
class TestFramesAtLength(Frames.TestCase):
    settings = settings(max_examples=300, stateful_step_count=60)


def test_a_new_pool_gives_its_lowest_run_first() -> None:
    pool = Pool(10, 10)
    assert [pool.take_run(4), pool.take_run(4)] == [10, 14]


def test_what_a_guest_host_gave_pays_for_what_is_taken_next() -> None:
    pool = Pool(0, 10)
    taken = pool.take_singles(3)
    pool.give(taken)
    assert sorted(pool.take_singles(3)) == sorted(taken)


def test_single_frames_become_a_run_where_no_run_is_left() -> None:
    pool = Pool(0, 8)
    frames = pool.take_singles(8)
    pool.give(frames[::-1])
    assert pool.take_run(8) == 0


def test_single_frames_are_left_alone_while_there_is_a_run() -> None:
    pool = Pool(0, 8)
    pool.give([pool.take_singles(4)[0]])
    assert pool.take_run(4) == 0
    assert pool.free == 1


def test_a_refusal_says_how_many_were_wanted() -> None:
    with pytest.raises(OutOfFrames, match="no 3 frames"):
        Pool(0, 2).take_singles(3)


def test_an_empty_pool_has_nothing() -> None:
    assert Pool(5, 0).free == 0


def test_a_million_frames_are_numbers_and_not_objects() -> None:
    pool = Pool(0, 1 << 20)
    frames = pool.take_many(1 << 20)
    assert frames.dtype == np.int64
    pool.give(frames)
    assert pool.free == 1 << 20
    assert pool.take_run(1 << 20) == 0


@given(st.integers(0, 40), st.lists(st.integers(1, 6), max_size=5), st.randoms(use_true_random=False))
def test_many_frames_in_the_order_of_single_takes(count: int, runs: list[int], random: Random) -> None:
    pools = Pool(FIRST, COUNT), Pool(FIRST, COUNT)
    for pool in pools:  # free frames lie in pieces: some laid out as runs, some known one by one
        taken = [pool.take_run(length) for length in runs]
        singles = pool.take_singles(8)
        order = random.getstate()
        random.shuffle(singles)
        random.setstate(order)
        for first, length in zip(taken[::2], runs[::2], strict=True):
            pool.give_run(first, length)
        pool.give(singles[:5])
    count = min(count, pools[0].free)
    assert pools[0].take_each(count).tolist() == [pools[1].take() for _ in range(count)]
    assert sorted(pools[0].listed().tolist()) == sorted(pools[1].listed().tolist())
