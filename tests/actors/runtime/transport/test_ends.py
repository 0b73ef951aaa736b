"""What is under a link: a socket that is read and written without detours, or any other stream."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from actors.runtime.link import Link
from actors.runtime.port import Deliver
from actors.runtime.transport.ends import Bare, Layered, end_of

MIB = 1 << 20


def streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    return one, other


def echo(_target: str, message: object, deliver: Deliver) -> None:
    deliver(message, None)


@asynccontextmanager
async def linked() -> AsyncIterator[Link]:
    """A link over sockets to one that answers with what it is asked."""
    one, other = streams()
    async with trio.open_nursery() as nursery:
        link = Link(one)
        await nursery.start(link.run)
        await nursery.start(Link(other, echo).run)
        await wait_all_tasks_blocked()
        yield link
        nursery.cancel_scope.cancel()


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task.name.rpartition(".")[2]] += 1


def test_a_socket_is_used_as_it_is_and_any_other_stream_as_a_stream() -> None:
    one, other = streams()
    with one.socket, other.socket:
        assert isinstance(end_of(one), Bare)
        assert isinstance(end_of(memory_stream_pair()[0]), Layered)


async def test_what_a_socket_does_not_take_at_once_waits() -> None:
    ours, theirs = streams()
    sent, got = os.urandom(8 * MIB), bytearray()
    end = Bare(ours)
    taken = end.write_now(sent)
    assert 0 < taken < len(sent)
    assert end.write_now(sent[taken:]) == 0
    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(end.write, sent[taken:])
        while len(got) < len(sent):
            got += await Bare(theirs).read()
    assert got == sent


async def test_the_end_of_a_socket_is_told_as_streams_do() -> None:
    ours, theirs = streams()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await Bare(ours).read()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await ours.aclose()
    assert await Bare(theirs).read() == b""
    assert Bare(theirs).write_now(b"to nobody") == 0
    with pytest.raises(trio.BrokenResourceError):
        await Bare(theirs).write(b"to nobody")
    await theirs.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await Bare(theirs).read()


async def test_a_peer_that_goes_away_with_words_unread_breaks_the_socket() -> None:
    ours, theirs = streams()
    await ours.send_all(b"never read")
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await Bare(ours).read()
    await ours.aclose()


async def test_large_messages_cross_both_ways_at_once() -> None:
    async with linked() as link, trio.open_nursery() as nursery:

        async def ask(size: int) -> None:
            sent = [os.urandom(size)]
            assert await link.ask("te", sent) == sent

        for number in range(24):
            nursery.start_soon(ask, number * 40_000)


async def test_a_call_that_is_alone_takes_three_steps_of_tasks() -> None:
    """The one who asks sends it; two readers read; nobody else is woken."""
    async with linked() as link:
        await link.ask("te", [0])
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for number in range(10):
            await link.ask("te", [number])
        trio.lowlevel.remove_instrument(steps)
    steps.of.pop("_keep_deadlines", None)  # where the machine stood still until the hello would have been due
    assert steps.of.pop("run") == 20  # the readers, in the task of their links
    assert steps.of.total() == 10  # the one who asks


async def test_many_calls_at_a_time_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    real = Bare.read

    async def read(end: Bare) -> bytes:
        nonlocal reads
        data = await real(end)
        reads += 1
        return data

    monkeypatch.setattr(Bare, "read", read)
    async with linked() as link:

        async def caller() -> None:
            for number in range(10):
                assert await link.ask("te", [number]) == [number]

        reads = 0
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(caller)
    assert reads <= 2 * 2 * 10 + 2  # of 640 calls and 640 answers, at both ends
