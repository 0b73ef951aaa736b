"""Where the time of one call over a link goes: each part alone, in a loop, without a socket.

Nanoseconds of the CPU's time, of the fastest of ROUNDS rounds: what a part takes when nothing disturbs it. A
call goes to bytes and from bytes twice, beside msgpack alone with the same message, and through the other
parts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgpack
import trio
from trio.testing import memory_stream_pair

from actors.runtime.link import Link
from actors.runtime.mailbox import Reply
from benchmarks.links import CALLERS, MESSAGE, echo
from benchmarks.run import Case
from protocol.wire import FrameDecoder, Kind, pack_frame

ROUNDS, TURNS = 60, 20


class Nowhere:
    """The end of a stream that takes all that is written."""

    def write_now(self, data: bytes) -> int:
        return len(data)


def fastest(some: Callable[[], object]) -> float:
    """Microseconds of one of the CALLERS calls that `some` handles."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(TURNS):
            some()
        best = min(best, time.process_time() - begin)
    return 1e6 * best / TURNS / CALLERS


def frames(kind: Kind) -> list[bytes]:
    target = "te" if kind is Kind.ASK else ""
    return [pack_frame((1, int(kind), 70_000 + n, None, target, MESSAGE)) for n in range(CALLERS)]


def messages(kind: Kind) -> list[Any]:
    return FrameDecoder().feed(b"".join(frames(kind)))


def end(serve: Any = echo) -> Any:
    """A link that does all but read and write. `Any`: its inside is looked at."""
    made: Any = Link(memory_stream_pair()[0], serve)
    made._end, made._granted = Nowhere(), CALLERS
    return made


def asks() -> float:
    """From a message to its frame, and from an answer to whom it wakes; less its way to bytes."""
    link, replies = end(), messages(Kind.REPLY)
    numbers = [reply[2] for reply in replies]

    def some() -> None:
        for _ in range(CALLERS):
            link.submit("te", MESSAGE, ignore)
        link._calls = dict.fromkeys(numbers, (ignore, "te"))
        link._out.clear()
        link._take_all(replies)

    return fastest(some) - to_bytes()


def ignore(_value: object, _error: BaseException | None) -> None:
    return


def serves() -> float:
    """From a message that came to the answer's frame; less its way to bytes."""
    link, asked = end(), messages(Kind.ASK)
    return fastest(lambda: link._take_all(asked)) - to_bytes()


def to_bytes() -> float:
    return fastest(lambda: frames(Kind.ASK))


def from_bytes() -> float:
    decoder, data = FrameDecoder(), b"".join(frames(Kind.ASK))
    return fastest(lambda: decoder.feed(data))


def wakes() -> float:
    """A task that waits for an answer, is woken by it, and asks again."""
    waiting: list[Reply] = []

    async def caller() -> None:
        while True:
            reply = Reply()
            waiting.append(reply)
            await reply.wait()

    async def turn() -> None:
        woken, waiting[:] = waiting.copy(), []
        for reply in woken:
            reply.deliver(None, None)
        await trio.lowlevel.checkpoint()

    async def main() -> float:
        best = float("inf")
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(caller)
            await trio.lowlevel.checkpoint()
            for _ in range(ROUNDS):
                begin = time.process_time()
                for _ in range(TURNS):
                    await turn()
                best = min(best, time.process_time() - begin)
            nursery.cancel_scope.cancel()
        return 1e6 * best / TURNS / CALLERS

    return trio.run(main)


def unchecked(pack: bool) -> float:
    """The same message by msgpack alone."""
    packed, to = msgpack.packb(MESSAGE), msgpack.Packer().pack
    one = partial(to, MESSAGE) if pack else partial(msgpack.unpackb, packed)
    return fastest(lambda: [one() for _ in range(CALLERS)])


def cases() -> Iterable[Case]:
    yield Case(
        "part of a link's call: to bytes, twice",
        "ns",
        lambda: 2000 * to_bytes(),
        lambda: 2000 * unchecked(True),
    )
    yield Case(
        "part of a link's call: from bytes, twice",
        "ns",
        lambda: 2000 * from_bytes(),
        lambda: 2000 * unchecked(False),
    )
    yield Case("part of a link's call: the asking end", "ns", lambda: 1000 * asks())
    yield Case("part of a link's call: the serving end", "ns", lambda: 1000 * serves())
    yield Case("part of a link's call: a task that waits", "ns", lambda: 1000 * wakes())
