"""The first Ctrl-C stops a run at its next step, the second ends it."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from actors.compare import interrupts
from actors.compare import progress as p
from actors.compare.interrupts import stoppable


def test_the_first_interrupt_stops_and_the_second_interrupts() -> None:
    progress, said = p.Progress(), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with stoppable(progress, said.append):
        os.kill(os.getpid(), signal.SIGINT)
        assert progress.stopped
        assert said == ["stopping after this step; what is finished will be reported (Ctrl-C again: at once)"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ended_run_gives_the_interrupt_back_and_ends_its_display() -> None:
    class Ended(p.Progress):
        over = 0

        def end(self) -> None:
            self.over += 1

    progress, before = Ended(), signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stoppable(progress, lambda _: None):
        raise ZeroDivisionError
    assert (progress.over, signal.getsignal(signal.SIGINT)) == (1, before)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, p.Stopped])
def test_an_end_that_comes_out_of_a_nursery_is_taken_out_of_its_group(kind: type[BaseException]) -> None:
    inner = BaseExceptionGroup("inner", [kind(), ValueError("lost in the fall")])
    with pytest.raises(kind), stoppable(p.Progress(), lambda _: None):
        raise BaseExceptionGroup("outer", [inner])


def test_any_other_group_stays_one() -> None:
    with pytest.raises(ExceptionGroup, match="outer"), stoppable(p.Progress(), lambda _: None):
        raise ExceptionGroup("outer", [ValueError("x")])


@trio.lowlevel.enable_ki_protection
def in_the_middle_of_trio(progress: p.Progress) -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    assert progress.stopped


def test_the_second_interrupt_waits_until_trio_is_not_in_the_middle_of_its_own_work() -> None:
    progress, seen = p.Progress(), list[str]()

    async def steps() -> None:
        in_the_middle_of_trio(progress)
        seen.append("the middle is over")
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cleaned up")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stoppable(progress, lambda _: None):
        interrupts.run(steps)
    assert seen == ["the middle is over", "cleaned up"]
    assert signal.getsignal(signal.SIGINT) is before


def test_one_interrupt_in_a_run_counts_in_the_next_one() -> None:
    """Between two runs of Trio, and in the second, the first Ctrl-C is not forgotten."""
    progress = p.Progress()

    async def interrupted() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.lowlevel.checkpoint()
        return 1

    with stoppable(progress, lambda _: None):
        assert interrupts.run(interrupted) == 1
        assert progress.stopped
        with pytest.raises(KeyboardInterrupt):
            interrupts.run(interrupted)


def test_without_anybody_who_wants_to_stop_it_is_a_run_of_trio() -> None:
    async def answer(number: int) -> int:
        return number

    assert interrupts.run(answer, 7) == 7
