"""Mailboxes are bounded and in order; a late answer finds nobody and harms nobody."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.runtime.mailbox import Mailbox, MailboxFull, Reply


def test_what_is_put_first_is_taken_first() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in range(3):
        mailbox.put(item)
    assert [mailbox.take() for _ in range(3)] == [0, 1, 2]


def test_a_full_mailbox_says_so_and_keeps_what_it_has() -> None:
    mailbox: Mailbox[int] = Mailbox(capacity=2)
    mailbox.put(1)
    mailbox.put(2)
    with pytest.raises(MailboxFull, match="2 messages"):
        mailbox.put(3)
    mailbox.take()
    mailbox.put(4)
    assert mailbox.statistics().depth == mailbox.statistics().peak == 2


def test_matching_items_are_taken_out_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in range(6):
        mailbox.put(item)
    assert mailbox.remove(lambda item: item % 2 == 0) == [0, 2, 4]
    assert [mailbox.take() for _ in range(len(mailbox))] == [1, 3, 5]


def test_a_mailbox_without_room_is_not_made() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Mailbox(capacity=0)


async def test_an_answer_wakes_its_waiter(nursery: trio.Nursery) -> None:
    reply, got = Reply(), []

    async def wait() -> None:
        got.append(await reply.wait())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    reply.deliver("yes", None)
    await wait_all_tasks_blocked()
    assert got == ["yes"]


async def test_an_answer_that_is_there_already_takes_no_wait() -> None:
    reply = Reply()
    reply.deliver(None, KeyError("no"))
    with pytest.raises(KeyError):
        await reply.wait()


@pytest.mark.parametrize("late", [False, True])
async def test_an_answer_after_the_waiter_was_cancelled_is_dropped(late: bool) -> None:
    """The waiter sleeps elsewhere by then: waking it would be wrong, and fatal to the run."""
    reply, scope, elsewhere = Reply(), trio.CancelScope(), trio.Event()

    async def wait() -> None:
        with scope:
            await reply.wait()
        await elsewhere.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        scope.cancel()
        if late:
            await wait_all_tasks_blocked()
        reply.deliver(1, None)
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
        elsewhere.set()


async def test_cancellation_after_the_answer_does_not_lose_it(nursery: trio.Nursery) -> None:
    reply, scope, got = Reply(), trio.CancelScope(), []

    async def wait() -> None:
        with scope:
            got.append(await reply.wait())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    reply.deliver("kept", None)
    scope.cancel()
    await wait_all_tasks_blocked()
    assert got == ["kept"]
