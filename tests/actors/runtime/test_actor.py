"""Actors: inline where nothing is in the way, parked at a yield, dead alone."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.runtime.actor import INLINE_CALLS, INLINE_DEPTH, Actor, Runtime, open_runtime
from actors.runtime.mailbox import MailboxFull
from actors.runtime.port import Directory, ignore
from protocol.effects import Effect, Issue, Step
from protocol.errors import LevelGone, NotDelivered


class Answers:
    """Takes delivered answers, in order."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __call__(self, value: object, error: BaseException | None) -> None:
        self.got.append(value if error is None else error)


def asks_below(message: Any) -> Step[Any]:
    """Ask the level below once per item of `message`, and return the answers."""
    got = []
    for item in message:
        got.append((yield Issue("ask", (item,))))
    return got


def adds_one(message: int) -> int:
    return message + 1


# -- inline ----------------------------------------


async def test_an_answer_comes_without_a_task_or_a_wait(runtime: Runtime) -> None:
    actor = Actor("te", adds_one, runtime)
    answers = Answers()
    actor.submit(1, answers)
    assert answers.got == [2]
    assert await actor.ask(2) == 3


async def test_a_run_of_inline_calls_lets_others_run(runtime: Runtime, nursery: trio.Nursery) -> None:
    actor, turns = Actor("te", adds_one, runtime), []

    async def other() -> None:
        turns.append("other")

    nursery.start_soon(other)
    for _ in range(INLINE_CALLS):
        await actor.ask(1)
    assert turns == []
    for _ in range(INLINE_CALLS + 2):  # twice round: Trio may run this task first in its next pass
        await actor.ask(1)
    assert turns == ["other"]


async def test_a_long_inline_call_is_followed_by_a_turn_for_others(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async with open_runtime() as runtime:
        actor = Actor("te", mock_clock.jump, runtime)
        turns: list[str] = []

        async def other() -> None:
            turns.append("other")

        nursery.start_soon(other)
        await actor.ask(0.0006)
        await actor.ask(0.0006)
        assert turns == []
        await actor.ask(0.002)  # the pass comes before this call ...
        await actor.ask(0.0)  # ... and before this one, in whichever order Trio takes its tasks
        assert turns == ["other"]


async def test_a_cancelled_caller_sends_nothing(runtime: Runtime) -> None:
    handled: list[int] = []
    actor = Actor("te", handled.append, runtime)
    with trio.CancelScope() as scope:
        scope.cancel()
        await actor.ask(1)
    assert scope.cancelled_caught
    assert handled == []


async def test_a_message_to_an_actor_at_work_waits_for_its_turn(runtime: Runtime) -> None:
    order: list[str] = []

    def handler(message: str) -> None:
        order.append(f"{message} begins")
        if message == "first":
            actor.submit("second", ignore)
        order.append(f"{message} ends")

    actor = Actor("te", handler, runtime)
    await actor.ask("first")
    await wait_all_tasks_blocked()
    assert order == ["first begins", "first ends", "second begins", "second ends"]


async def test_order_is_kept_when_some_wait_and_some_do_not(runtime: Runtime, nursery: trio.Nursery) -> None:
    order: list[int] = []

    def handler(message: int) -> None:
        order.append(message)
        if message == 0:
            for later in (1, 2):
                actor.submit(later, ignore)

    actor = Actor("te", handler, runtime)
    actor.submit(0, ignore)
    await actor.ask(3)
    assert order == [0, 1, 2, 3]


async def test_inline_calls_nest_only_so_deep(runtime: Runtime) -> None:
    chain: list[Actor] = []
    deepest = 0

    def perform(at: int) -> Any:
        return lambda effect, deliver: chain[at].submit(effect.arguments[0], deliver)

    def handler(message: int) -> Generator[Effect, Any, int]:
        nonlocal deepest
        deepest = max(deepest, runtime.depth)
        if message == 0:
            return 0
        return 1 + (yield Issue("down", (message - 1,)))

    for at in range(3 * INLINE_DEPTH):
        chain.append(Actor(f"l{at}", handler, runtime, perform=perform(at - 1)))
    assert await chain[-1].ask(3 * INLINE_DEPTH - 1) == 3 * INLINE_DEPTH - 1
    assert deepest == INLINE_DEPTH


async def test_a_full_mailbox_is_a_clear_error(runtime: Runtime) -> None:
    answers = Answers()

    def handler(message: str) -> str:
        if message == "flood":
            for _ in range(3):
                actor.submit("more", answers)
        return message

    actor = Actor("te", handler, runtime, capacity=2)
    assert await actor.ask("flood") == "flood"
    assert [type(answer) for answer in answers.got] == [MailboxFull]
    assert "te" in str(answers.got[0])
    await wait_all_tasks_blocked()
    assert answers.got[1:] == ["more", "more"]
    assert actor.statistics()[0].peak == 2


# -- parked ----------------------------------------


async def test_a_handler_that_waits_is_parked_and_others_are_handled(
    runtime: Runtime, below: Any, nursery: trio.Nursery
) -> None:
    actor, answers = Actor("kvm", asks_below, runtime, perform=below), Answers()
    actor.submit("ab", answers)
    actor.submit("c", answers)
    assert [effect.arguments[0] for effect in below.effects] == ["a", "c"]
    assert actor.statistics()[1] == 2
    below.answer("C", at=1)
    assert answers.got == [["C"]]
    below.answer("A")
    below.answer("B")
    assert answers.got == [["C"], ["A", "B"]]
    assert actor.statistics()[1] == 0


async def test_whoever_delivers_the_answer_continues_the_handler(runtime: Runtime, below: Any) -> None:
    tasks: list[str] = []

    def handler(_message: object) -> Step[None]:
        yield Issue("wait", ())
        tasks.append(trio.lowlevel.current_task().name)

    actor = Actor("kvm", handler, runtime, perform=below)

    async def deliverer() -> None:
        below.answer()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.ask, None)
        await wait_all_tasks_blocked()
        nursery.start_soon(deliverer, name="who delivers")
    assert tasks == ["who delivers"]


async def test_answers_that_are_there_at_once_cost_no_stack(runtime: Runtime) -> None:
    actor = Actor("kvm", asks_below, runtime, perform=lambda effect, deliver: deliver(1, None))
    assert await actor.ask(range(5000)) == [1] * 5000


async def test_cancelling_a_caller_ends_its_wait_and_nothing_else(runtime: Runtime, below: Any) -> None:
    done: list[str] = []

    def handler(_message: object) -> Step[None]:
        yield Issue("wait", ())
        done.append("done")

    actor = Actor("kvm", handler, runtime, perform=below)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.ask, None)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert actor.statistics()[1] == 1
    below.answer()
    assert done == ["done"]
    assert actor.dead is None


@pytest.mark.parametrize("cancel_after", range(6))
async def test_a_caller_may_be_cancelled_at_every_point(
    runtime: Runtime, below: Any, cancel_after: int
) -> None:
    """Whatever the moment, the handler goes through and the actor answers the next one."""
    actor = Actor("kvm", asks_below, runtime, perform=below)
    finished: list[Any] = []

    async def caller() -> None:
        finished.append(await actor.ask("ab"))

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for step in range(6):
                if step == cancel_after:
                    scope.cancel()
                if step == 1:
                    nursery.start_soon(caller)
                if step in (2, 3) and below.held:
                    below.answer(step)
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
    while below.held:
        below.answer()
    assert finished in ([], [[2, 3]])
    assert actor.dead is None
    assert actor.statistics()[1] == 0
    answers = Answers()
    actor.submit("", answers)
    assert answers.got == [[]]


async def test_an_error_from_below_arrives_at_the_yield(runtime: Runtime, below: Any) -> None:
    def handler(_message: object) -> Step[str]:
        try:
            yield Issue("wait", ())
        except LevelGone:
            return "undoes nothing"
        return "went on"

    answers = Answers()
    Actor("kvm", handler, runtime, perform=below).submit(None, answers)
    below.answer(error=LevelGone("te died"))
    assert answers.got == ["undoes nothing"]


async def test_an_answer_set_off_by_the_actors_own_handler_comes_after_it(
    runtime: Runtime, below: Any
) -> None:
    order: list[str] = []

    def handler(message: str) -> Any:
        if message == "park":
            return parks()
        order.append("plain begins")
        below.answer()
        order.append("plain ends")
        return None

    def parks() -> Step[None]:
        yield Issue("wait", ())
        order.append("parked goes on")

    actor = Actor("kvm", handler, runtime, perform=below)
    actor.submit("park", ignore)
    await actor.ask("plain")
    await wait_all_tasks_blocked()
    assert order == ["plain begins", "plain ends", "parked goes on"]


# -- many ----------------------------------------


async def _interleaved(below: Any, trace: list[str]) -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        actor = Actor("kvm", asks_below, runtime, perform=below)

        async def caller(name: str) -> None:
            for turn in range(3):
                await actor.ask([f"{name}.{turn}"])
                trace.append(f"{name}.{turn}")

        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                nursery.start_soon(caller, name)
            for _ in range(3):
                await wait_all_tasks_blocked()
                while below.held:
                    below.answer(at=len(below.held) // 2)


def test_the_same_seed_gives_the_same_order(below: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs two private names of Trio (docs/decisions/0002-own-mailbox.md): fails when they are gone."""
    from trio._core import _run

    monkeypatch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    traces: list[list[str]] = []
    for seed in (1, 1, 2):
        _run._r.seed(seed)
        traces.append([])
        trio.run(_interleaved, below, traces[-1], clock=trio.testing.MockClock(autojump_threshold=0))
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
    assert sorted(traces[0]) == sorted(traces[2])


async def test_ten_thousand_actors_at_rest_are_no_tasks(runtime: Runtime) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    actors = [Actor(f"l2.{number}", adds_one, runtime) for number in range(10_000)]
    assert await actors[-1].ask(1) == 2
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_directory_answers_for_who_is_not_there(runtime: Runtime) -> None:
    directory, answers = Directory(), Answers()
    directory.add("te", Actor("te", adds_one, runtime))
    directory.serve("te", 1, answers)
    directory.remove("te")
    directory.serve("te", 1, answers)
    assert "te" not in directory
    assert answers.got[0] == 2
    assert isinstance(answers.got[1], NotDelivered)
