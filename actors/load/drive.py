"""Ask a target as planned, and write down when each request was meant to come, was begun, and was answered.

Open: requests come when they come. Latency counts from the moment a request was meant to be sent, so that a
target that stalls is charged for every request that had to wait behind the stall, also for those that this
program itself was late to send (coordinated omission). Closed: a client that waits sends nothing.

Times are those of trio's clock, which in a test need not be the world's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from protocol.errors import LevelGone, OperationFailed
from protocol.load.requests import Asked, Draw, Request
from protocol.plan.scenario import Load

OUTSTANDING = 4096  # requests that wait for an answer; one more is an error, and counted as one
NS = 1_000_000_000

Begun = Callable[[], None]


class Target(Protocol):
    """What is asked."""

    async def ask(self, request: Request, begun: Begun) -> None:
        """Do it to its end; call `begun` when nothing is before it any more. Raises OperationFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that was answered; times in nanoseconds."""

    request: Request
    intended_ns: int
    begun_ns: int
    end_ns: int

    @property
    def latency_ns(self) -> int:
        """From when it was meant to be sent."""
        return max(0, self.end_ns - self.intended_ns)

    @property
    def service_ns(self) -> int:
        """From when nothing was before it any more."""
        return max(0, self.end_ns - self.begun_ns)


@dataclass(slots=True)
class Block:
    """What came of one block. Answers are in the order in which requests were meant to come."""

    answers: list[Answer] = field(default_factory=list)
    errors: int = 0
    took_s: float = 0.0


Watch = Callable[[Answer | None, int], None]  # an answer (None: an error), and how many are under way


async def drive_open(target: Target, requests: Sequence[Request], watch: Watch | None = None) -> Block:
    """Send every request at its time, whatever became of those before it, and wait for the last."""
    run = _Run(target, watch)
    async with trio.open_nursery() as nursery:
        for request in requests:
            await trio.sleep_until(run.start + request.at_s)
            intended = round(request.at_s * NS)
            if run.under_way >= OUTSTANDING:
                run.failed()
            else:
                run.under_way += 1
                nursery.start_soon(run.one, request, intended)
    return run.block()


async def drive_closed(
    target: Target, load: Load, guests: Sequence[int], draw: Draw, watch: Watch | None = None
) -> Block:
    """`clients` that think, ask and wait, until the block is over; what is under way then is waited for."""
    run = _Run(target, watch)
    async with trio.open_nursery() as nursery:
        for client in range(load.clients):
            own = Draw(draw.seed, draw.pair, draw.shard * load.clients + client)
            nursery.start_soon(_client, run, load, guests, own)
    return run.block()


async def _client(run: _Run, load: Load, guests: Sequence[int], draw: Draw) -> None:
    asked, thoughts = Asked(load.mix, guests, draw), draw.stream("think")
    while True:
        if load.think_ms:
            await trio.sleep(thoughts.expovariate(1000 / load.think_ms))
        else:
            await trio.lowlevel.checkpoint()
        at = trio.current_time() - run.start
        if at >= load.duration_s:
            return
        run.under_way += 1
        await run.one(asked.next(at), round(at * NS))


class _Run:
    """The bookkeeping of a block."""

    def __init__(self, target: Target, watch: Watch | None) -> None:
        self.start = trio.current_time()
        self.under_way = 0
        self._target = target
        self._watch = watch
        self._block = Block()

    def now_ns(self) -> int:
        return round((trio.current_time() - self.start) * NS)

    async def one(self, request: Request, intended_ns: int) -> None:
        """One request from begin to end."""
        begun = [self.now_ns()]

        def begins() -> None:
            begun[0] = self.now_ns()

        ask: Awaitable[None] = self._target.ask(request, begins)
        try:
            await ask
        except (OperationFailed, LevelGone):
            self.under_way -= 1
            self.failed()
            return
        self.under_way -= 1
        answer = Answer(request, intended_ns, begun[0], self.now_ns())
        self._block.answers.append(answer)
        if self._watch is not None:
            self._watch(answer, self.under_way)

    def failed(self) -> None:
        self._block.errors += 1
        if self._watch is not None:
            self._watch(None, self.under_way)

    def block(self) -> Block:
        self._block.answers.sort(key=lambda answer: (answer.intended_ns, answer.request.number))
        self._block.took_s = trio.current_time() - self.start
        return self._block
