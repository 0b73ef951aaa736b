"""nestbed: actors in one process, a link to another one, and a process that is killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.forker import Forker, Process
from actors.runtime.link import Link
from actors.runtime.mailbox import Reply
from benchmarks.peers.measures import (
    ACTORS,
    CALLERS_64,
    DEATH,
    DEATHS,
    FIRST,
    FIRST_REMOTE,
    LOCAL,
    LOCAL_64,
    MEMORY,
    MESSAGE,
    REMOTE,
    REMOTE_64,
    START,
    Stretch,
    arate,
    resident,
    since_start,
    tell,
)

Ask = Callable[[], Awaitable[object]]


async def one_by_one(ask: Ask, n: int) -> None:
    for _ in range(n):
        await ask()


async def by_64(ask: Ask, n: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(one_by_one, ask, -(-n // 64))


async def at_once(link: Link, n: int) -> None:
    """64 at a time by one task, as others do it with their futures."""
    for _ in range(-(-n // 64)):
        await all_of(link, 64)


async def all_of(link: Link, left: int) -> None:
    over = Reply()

    def answered(_value: object, error: BaseException | None) -> None:
        nonlocal left
        left -= 1
        if not left:
            over.deliver(None, error)

    for _ in range(left):
        link.submit("te", MESSAGE, answered)
    await over.wait()


async def local(runtime: Runtime) -> dict[str, float]:
    actor = Actor("te", lambda message: message, runtime)
    ask = partial(actor.ask, MESSAGE)
    figures = {LOCAL: await arate(partial(one_by_one, ask)), LOCAL_64: await arate(partial(by_64, ask), 8192)}
    before, stretch = resident(), Stretch()
    actors = [Actor(f"guest{n}", lambda message: message, runtime) for n in range(ACTORS)]
    spent = stretch.spent
    figures |= {START: ACTORS / spent, MEMORY: (resident() - before) / len(actors)}
    return figures


async def connected(forker: Forker, nursery: trio.Nursery) -> tuple[Link, Process]:
    ours, theirs = socket.socketpair()
    process = await forker.start({"log": os.devnull}, [theirs.fileno()])
    theirs.close()
    link = Link(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    nursery.start_soon(run_out, link)
    return link, process


async def run_out(link: Link) -> None:
    """Run it until the process at the other end is gone."""
    try:
        await link.run()
    except (trio.BrokenResourceError, OSError):
        return


async def remote(nursery: trio.Nursery) -> dict[str, float]:
    forker: Forker = await nursery.start(Forker("benchmarks.peers.node").run)
    link, process = await connected(forker, nursery)
    ask = partial(link.ask, "te", MESSAGE)
    figures = {
        REMOTE: await arate(partial(one_by_one, ask)),
        REMOTE_64: await arate(partial(at_once, link), 8192),
        CALLERS_64: await arate(partial(by_64, ask), 8192),
    }
    spent = 0.0
    for _ in range(DEATHS):
        begin = time.perf_counter()
        process.signal(signal.SIGKILL)
        await process.ended.wait()
        link, process = await connected(forker, nursery)
        await link.ask("te", MESSAGE)
        spent += time.perf_counter() - begin
    process.signal(signal.SIGKILL)
    await process.ended.wait()
    forker.close()
    return figures | {DEATH: 1000 * spent / DEATHS}


async def first(runtime: Runtime) -> dict[str, float]:
    """The first answer of an actor here, and of one in another process."""
    await Actor("te", lambda message: message, runtime).ask(MESSAGE)
    here = since_start()
    async with trio.open_nursery() as nursery:
        forker: Forker = await nursery.start(Forker("benchmarks.peers.node").run)
        link, process = await connected(forker, nursery)
        await link.ask("te", MESSAGE)
        there = since_start()
        process.signal(signal.SIGKILL)
        await process.ended.wait()
        forker.close()
        nursery.cancel_scope.cancel()
    return {FIRST: here, FIRST_REMOTE: there}


async def main() -> None:
    async with open_runtime() as runtime:
        figures = await first(runtime) | await local(runtime)
    async with trio.open_nursery() as nursery:
        figures |= await remote(nursery)
        nursery.cancel_scope.cancel()
    tell(figures)


trio.run(main)
