"""What a secure guest at rest costs this program in memory: objects, not pages.

All of it is counted that there is for one guest of 1 MiB with one CPU, loaded, verified, started, and with
nothing to do: its entities in the Trusted Entity with the map of its pages, on the nested path what the level
between keeps of it with another such map, its host's record, its actor. The bytes of its pages lie in sparse
mappings and are not counted. The baseline is the usual way to have something that can be spoken to: a Trio
task that waits at a channel.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from random import Random

import trio
import trio.testing

from actors.guest import SecureGuest, asking
from actors.runtime.actor import Actor, open_runtime
from benchmarks.run import Case
from benchmarks.s390_host import PROFILE
from protocol.arch.s390.compose import compose
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.host.system import Host
from protocol.effects import run
from protocol.plan.operations import BootHost, Create, Load, Start

GUESTS = 400
IMAGE_PAGES = 2


def bytes_each(make: Callable[[], object], n: int = GUESTS) -> float:
    """Bytes that are held for one, over `n` of them."""
    kept = [make()]  # what is made once for all is not counted
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept += [make() for _ in range(n)]
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / n
    finally:
        tracemalloc.stop()


async def guests(depth: int) -> float:
    seat = compose(PROFILE, depth).seats[0]
    image = scenario_image(0, 1, IMAGE_PAGES)
    host = Host(seat.level, seat.cpus, Random(0), depth=depth, image=image)
    run(host.perform(BootHost()))
    async with open_runtime() as runtime:
        port = Actor("host", lambda operation: operation, runtime)
        ask, numbers = asking(port), count()

        def one() -> object:
            number = next(numbers)
            for operation in (Create(number, 1, 1), Load(number), Start(number)):
                run(host.perform(operation))
            return SecureGuest(f"guest {number}", ask, runtime)

        return bytes_each(one)


async def tasks() -> float:
    """The same for tasks that wait."""
    async with trio.open_nursery() as nursery:
        kept = []

        async def wait(channel: trio.MemoryReceiveChannel[object]) -> None:
            async for _ in channel:
                pass

        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(GUESTS):
            send, receive = trio.open_memory_channel[object](16)
            nursery.start_soon(wait, receive)
            kept.append(send)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / GUESTS
        tracemalloc.stop()
        nursery.cancel_scope.cancel()
        return each


def cases() -> Iterable[Case]:
    """Yield what this module measures."""
    for depth, path in enumerate(("direct", "nested")):
        yield Case(
            f"memory of an idle secure guest, {path}",
            "byte",
            partial(trio.run, guests, depth),
            partial(trio.run, tasks),
        )
