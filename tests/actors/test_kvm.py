"""A hypervisor's actor: guest hosts with ports of their own, and what their death sets off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from actors.guest import SecureGuest, asking
from actors.host import SecureHost
from actors.kvm import Kvm, Reclaimed
from actors.runtime.actor import Runtime, open_runtime
from actors.runtime.port import Deliver, ignore
from actors.te import TrustedEntity
from protocol.effects import Effect, Issue, Step, issue
from protocol.errors import NotDelivered, OwnerGone, RemoteProtocolError


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    """Its clock stands still: on a busy machine, too, what is sent is handled at once."""
    async with open_runtime(lambda: 0.0) as made:
        yield made


class Held:
    """A port below that answers when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Effect, Deliver]] = []
        self.seen: list[Any] = []

    def submit(self, message: Effect, deliver: Deliver, owner: object = None) -> None:
        self.seen.append(message)
        self.waiting.append((message, deliver))

    def answer(self, value: object = None) -> None:
        _, deliver = self.waiting.pop(0)
        deliver(value, None)


class Books:
    """An emulation for one guest host: what it holds, and its teardown."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.ended: list[str] = []

    def serve(self, effect: Issue) -> Step[str]:
        made = yield from issue("make", *effect.arguments)
        self.held.append(made)
        if effect.operation == "twice":
            try:
                self.held.append((yield from issue("make", *effect.arguments)))
            except OwnerGone:
                yield from issue("unmake", made)
                self.held.remove(made)
                raise
        return "made"

    def end(self, cause: str) -> Step[None]:
        for each in list(self.held):
            yield from issue("unmake", each)
            self.held.remove(each)
        self.ended.append(cause)


Answers = list[tuple[object, BaseException | None]]


def into(answers: Answers) -> Deliver:
    return lambda value, error: answers.append((value, error))


async def test_a_guest_hosts_operation_reaches_the_trusted_entity_and_its_answer_comes_back(
    runtime: Runtime,
) -> None:
    def machine(effect: Issue) -> Step[object]:
        return (effect.operation, *effect.arguments)
        yield

    te = TrustedEntity(machine, runtime)
    kvm = Kvm("l0.kvm", te.actor, runtime)
    books = Books()
    port = kvm.add("l1.0", books.serve, books.end)
    host = SecureHost("l1.0", lambda op: issue("once", op), port, runtime)
    guest = SecureGuest("l1.0.guest0", asking(host.actor), runtime)
    assert await host.perform("a page") == "made"
    assert await guest.perform("another") == "made"
    assert books.held == [("make", "a page"), ("make", "another")]


async def test_what_is_no_operation_is_refused(runtime: Runtime) -> None:
    answers: Answers = []
    books = Books()
    kvm = Kvm("l0.kvm", Held(), runtime)
    kvm.add("l1.0", books.serve, books.end).submit("please", into(answers))
    kvm.actor.submit("please", into(answers))
    TrustedEntity(books.serve, runtime).actor.submit("please", into(answers))
    assert [type(error) for _, error in answers] == [RemoteProtocolError] * 3
    assert kvm.actor.dead is None
    with pytest.raises(ValueError, match=r"l1\.0"):
        kvm.add("l1.0", books.serve, books.end)


async def test_a_host_that_dies_with_nothing_under_way_is_torn_down_at_once(runtime: Runtime) -> None:
    below, books, notices = Held(), Books(), list[Reclaimed]()
    kvm = Kvm("l0.kvm", below, runtime)
    port = kvm.add("l1.0", books.serve, books.end)
    port.submit(Issue("once", ("x",)), ignore)
    below.answer("page 1")
    kvm.watch("l1.0", notices.append)
    kvm.gone("l1.0", "l1_crash")
    kvm.gone("l1.0", "again")
    below.answer()
    assert below.seen[-1] == Issue("unmake", ("page 1",))
    assert notices == [Reclaimed("l1.0", "l1_crash")]
    assert kvm.hosts() == ()


async def test_a_host_that_dies_in_the_middle_of_a_call_first_lets_the_call_end(runtime: Runtime) -> None:
    below, books, notices, answers = Held(), Books(), list[Reclaimed](), Answers()
    kvm = Kvm("l0.kvm", below, runtime)
    port = kvm.add("l1.0", books.serve, books.end)
    port.submit(Issue("once", ("first",)), ignore)
    below.answer("page 1")
    port.submit(Issue("twice", ("second",)), into(answers))
    port.submit(Issue("once", ("third",)), into(answers))
    kvm.watch("l1.0", notices.append)
    kvm.gone("l1.0", "l1_crash")
    assert books.ended == []
    below.answer("page 2")  # of the second: it hears that its owner is gone, and undoes
    assert below.seen[-1] == Issue("unmake", ("page 2",)) or below.seen[-2] == Issue("unmake", ("page 2",))
    while below.waiting:
        below.answer("page 3" if below.waiting[0][0].operation == "make" else None)  # type: ignore[attr-defined]
    assert books.ended == ["l1_crash"]
    assert books.held == []
    assert notices == [Reclaimed("l1.0", "l1_crash")]
    assert OwnerGone in [type(error) for _, error in answers]


async def test_the_last_call_under_way_may_end_without_hearing_of_the_death(runtime: Runtime) -> None:
    below, books = Held(), Books()
    kvm = Kvm("l0.kvm", below, runtime)
    port = kvm.add("l1.0", books.serve, books.end)
    port.submit(Issue("once", ("x",)), ignore)
    kvm.gone("l1.0", "l1_crash")
    below.answer("page 1")
    below.answer()
    assert (books.held, books.ended) == ([], ["l1_crash"])


async def test_nothing_is_taken_from_a_host_that_is_gone(runtime: Runtime) -> None:
    below, books, answers = Held(), Books(), Answers()
    kvm = Kvm("l0.kvm", below, runtime)
    port = kvm.add("l1.0", books.serve, books.end)
    kvm.gone("l1.0", "l1_crash")
    port.submit(Issue("once", ("x",)), into(answers))
    assert [type(error) for _, error in answers] == [NotDelivered]
    with pytest.raises(NotDelivered):
        await kvm.control("l1.0", lambda: issue("swap"))


async def test_a_sibling_goes_on(runtime: Runtime) -> None:
    below, dead, alive, answers = Held(), Books(), Books(), Answers()
    kvm = Kvm("l0.kvm", below, runtime)
    first = kvm.add("l1.0", dead.serve, dead.end)
    second = kvm.add("l1.1", alive.serve, alive.end)
    first.submit(Issue("once", ("x",)), ignore)
    second.submit(Issue("once", ("y",)), into(answers))
    kvm.gone("l1.0", "l1_crash")
    below.answer("page x")
    below.answer("page y")
    while below.waiting:
        below.answer()
    assert answers == [("made", None)]
    assert alive.held == ["page y"]
    assert kvm.hosts() == ("l1.1",)


async def test_the_hypervisor_works_on_a_guest_host_by_itself(runtime: Runtime) -> None:
    below, books = Held(), Books()
    kvm = Kvm("l0.kvm", below, runtime)
    kvm.add("l1.0", books.serve, books.end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kvm.control, "l1.0", lambda: issue("swap", 5))
        await trio.testing.wait_all_tasks_blocked()
        assert below.seen == [Issue("swap", (5,))]
        below.answer()
