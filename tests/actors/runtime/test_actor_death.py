"""What an actor does when an owner is gone, when it dies, and when it is stopped: nobody is left waiting."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.runtime.actor import Actor, ActorDeath, Runtime
from protocol.effects import Issue, Step
from protocol.errors import LevelGone, LocalProtocolError, NotDelivered, OwnerGone, RemoteProtocolError


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


# -- an owner that is gone ----------------------------------------


def undoes(_message: object) -> Step[str]:
    """Two steps forward; told that the owner is gone, undo what was done."""
    done = []
    try:
        done.append((yield Issue("do", (1,))))
        done.append((yield Issue("do", (2,))))
    except OwnerGone:
        for what in reversed(done):
            yield Issue("undo", (what,))
        raise
    return "done"


async def test_a_parked_handler_first_gets_its_answer_then_hears_that_its_owner_is_gone(
    runtime: Runtime, below: Any
) -> None:
    actor, answers = Actor("kvm", undoes, runtime, perform=below), Answers()
    actor.submit(None, answers, "l1.3")
    assert actor.abandon("l1.3") == 1
    assert below.effects == [Issue("do", (1,))]
    below.answer("one")
    assert below.effects == [Issue("undo", ("one",))]
    below.answer()
    assert [type(answer) for answer in answers.got] == [OwnerGone]
    assert actor.dead is None


async def test_a_handler_whose_last_answer_was_outstanding_ends_as_usual(
    runtime: Runtime, below: Any
) -> None:
    actor, answers = Actor("kvm", undoes, runtime, perform=below), Answers()
    actor.submit(None, answers, "l1.3")
    below.answer("one")
    actor.abandon("l1.3")
    below.answer("two")
    assert answers.got == ["done"]


async def test_other_owners_go_on(runtime: Runtime, below: Any) -> None:
    actor, answers = Actor("kvm", undoes, runtime, perform=below), Answers()
    actor.submit(None, answers, "l1.4")
    assert actor.abandon("l1.3") == 0
    below.answer()
    below.answer()
    assert answers.got == ["done"]


async def test_what_is_queued_for_a_gone_owner_is_not_begun(runtime: Runtime) -> None:
    answers, begun = Answers(), []

    def handler(message: str) -> None:
        begun.append(message)
        if message == "busy":
            actor.submit("his", answers, "l1.3")
            actor.submit("another's", answers, "l1.4")
            actor.abandon("l1.3")

    actor = Actor("kvm", handler, runtime)
    await actor.ask("busy")
    await wait_all_tasks_blocked()
    assert begun == ["busy", "another's"]
    assert isinstance(answers.got[0], OwnerGone)


# -- death ----------------------------------------


def asserts(_message: object) -> None:
    raise AssertionError("a page with two owners")


async def test_a_handlers_failure_is_the_callees_death_and_not_the_callers(runtime: Runtime) -> None:
    actor, notices = Actor("te", asserts, runtime), []
    actor.watch(notices.append)
    with pytest.raises(LevelGone, match="te died"):
        await actor.ask(1)
    assert [(notice.name, str(notice.error)) for notice in notices] == [("te", "a page with two owners")]
    with pytest.raises(LevelGone):
        await actor.ask(2)
    assert len(notices) == 1


async def test_death_is_told_to_all_who_wait(runtime: Runtime, below: Any) -> None:
    def handler(message: str) -> Any:
        if message == "die":
            actor.submit("queued", answers)
            raise AssertionError
        return asks_below("x")

    actor, answers = Actor("te", handler, runtime, perform=below), Answers()
    actor.submit("park", answers)
    actor.submit("die", answers)
    assert [type(answer) for answer in answers.got] == [LevelGone] * 3
    below.answer("too late")
    await wait_all_tasks_blocked()
    assert len(answers.got) == 3


async def test_a_step_that_fails_after_its_yield_kills_whoever_ran_it_not(
    runtime: Runtime, below: Any
) -> None:
    def handler(_message: object) -> Step[None]:
        yield Issue("wait", ())
        raise ZeroDivisionError

    actor, answers = Actor("te", handler, runtime, perform=below), Answers()
    actor.submit(None, answers)
    below.answer()
    assert [type(answer) for answer in answers.got] == [LevelGone]
    assert isinstance(actor.dead, ActorDeath)
    assert isinstance(actor.dead.error, ZeroDivisionError)


@pytest.mark.parametrize("error", [RemoteProtocolError("shape", "x"), NotDelivered("x"), OwnerGone("x")])
async def test_a_refusal_is_an_answer_and_no_death(runtime: Runtime, error: Exception) -> None:
    def handler(_message: object) -> None:
        raise error

    actor = Actor("te", handler, runtime)
    with pytest.raises(type(error)):
        await actor.ask(None)
    assert actor.dead is None


async def test_an_effect_that_nobody_can_perform_is_the_handlers_mistake(runtime: Runtime) -> None:
    actor = Actor("te", asks_below, runtime)
    with pytest.raises(LevelGone):
        await actor.ask("x")
    assert actor.dead is not None
    assert isinstance(actor.dead.error, LocalProtocolError)


async def test_an_actor_that_stops_itself_answers_once(runtime: Runtime, below: Any) -> None:
    def handler(_message: object) -> Step[None]:
        yield Issue("wait", ())
        actor.stop()

    actor, answers = Actor("te", handler, runtime, perform=below), Answers()
    actor.submit(None, answers)
    below.answer()
    assert [type(answer) for answer in answers.got] == [LevelGone]


async def test_as_a_child_it_raises_what_it_died_of(runtime: Runtime) -> None:
    actor = Actor("te", asserts, runtime)
    with pytest.RaisesGroup(AssertionError):
        async with trio.open_nursery() as nursery:
            await nursery.start(actor.run)
            with pytest.raises(LevelGone):
                await actor.ask(1)


async def test_as_a_child_it_stops_when_it_is_cancelled(runtime: Runtime, below: Any) -> None:
    actor, answers = Actor("te", asks_below, runtime, perform=below), Answers()
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        actor.submit("x", answers)
        nursery.cancel_scope.cancel()
    assert [type(answer) for answer in answers.got] == [LevelGone]
    assert actor.dead == ActorDeath("te", None)


async def test_an_interrupt_is_not_an_answer(runtime: Runtime) -> None:
    def handler(_message: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Actor("te", handler, runtime).ask(None)
