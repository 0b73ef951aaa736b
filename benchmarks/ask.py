"""How fast one actor asks another in the same process, and over a link.

The baseline is what Trio offers by itself: a memory channel into a task, and a one-shot reply channel per
question. For links it is the same question, on the same stream, without call numbers: one at a time.

Seconds are of the CPU's time: both ends are in this process, so one of them always has something to do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import trio

from actors.runtime.actor import Actor, open_runtime
from actors.runtime.link import Link
from actors.runtime.port import Deliver
from benchmarks.run import Case
from protocol.wire import FrameDecoder, pack_frame

SECONDS = 1.0
MESSAGE = ("create_cpu", 281474976710656, 140737488355328, (7, 4096, 65537))

Ask = Callable[[], Awaitable[object]]


async def rate(ask: Ask, callers: int) -> float:
    """Questions per second with `callers` tasks, each asking one after the other for about SECONDS."""
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.process_time() < end:
            for _ in range(64):
                await ask()
            done += 64

    for _ in range(256):  # caches warm up
        await ask()
    begin = time.process_time()
    end = begin + SECONDS
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return done / (time.process_time() - begin)


async def by_actor(callers: int) -> float:
    async with open_runtime() as runtime:
        actor = Actor("te", lambda message: message, runtime)
        return await rate(lambda: actor.ask(MESSAGE), callers)


async def by_channel(callers: int) -> float:
    """The usual way: each question carries its own reply channel."""
    send, receive = trio.open_memory_channel[tuple[object, trio.MemorySendChannel[object]]](64)

    async def server() -> None:
        async for message, reply in receive:
            reply.send_nowait(message)

    async def ask() -> object:
        reply_send, reply_receive = trio.open_memory_channel[object](1)
        await send.send((MESSAGE, reply_send))
        return await reply_receive.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        value = await rate(ask, callers)
        nursery.cancel_scope.cancel()
    return value


def streams() -> list[trio.SocketStream]:
    return [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()]


async def by_link(callers: int) -> float:
    def echo(_target: str, message: object, deliver: Deliver) -> None:
        deliver(message, None)

    one, other = streams()
    async with trio.open_nursery() as nursery:
        link = Link(one)
        nursery.start_soon(link.run)
        nursery.start_soon(Link(other, echo).run)
        value = await rate(lambda: link.ask("te", MESSAGE), callers)
        nursery.cancel_scope.cancel()
    return value


async def by_frames() -> float:
    """One frame there, one frame back, both ends in this process."""
    one, other = streams()

    async def server() -> None:
        decoder = FrameDecoder()
        while data := await other.receive_some(65536):
            for message in decoder.feed(data):
                await other.send_all(pack_frame(message))

    decoder = FrameDecoder()

    async def ask() -> object:
        await one.send_all(pack_frame(MESSAGE))
        while not (messages := decoder.feed(await one.receive_some(65536))):
            pass
        return messages[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        value = await rate(ask, 1)
        nursery.cancel_scope.cancel()
    return value


def cases() -> Iterable[Case]:
    """Yield what this module measures."""
    for callers in (1, 64):
        suffix = "1 caller" if callers == 1 else f"{callers} callers"
        yield Case(
            f"local ask, {suffix}",
            "ask/s",
            partial(trio.run, by_actor, callers),
            partial(trio.run, by_channel, callers),
        )
        yield Case(
            f"ask over a link in one process, {suffix}",
            "ask/s",
            partial(trio.run, by_link, callers),
            partial(trio.run, by_frames),
        )
