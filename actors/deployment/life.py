"""One life of a part, as its supervisor has it: a process, its lifeline, its lease.

The supervisor renews the lease and is told how the part is. A part that did not answer for as long as a lease
lasts is fenced: its lease is over, so it will answer nobody when it comes back, and another may have its
place at once.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import trio

from actors.deployment import words
from actors.deployment.parts import Part
from actors.deployment.process import Assignment
from actors.deployment.settings import Deployment
from actors.runtime.forker import Forker, Process
from actors.runtime.link import Link
from actors.runtime.transport.unix import Pair
from protocol.errors import NestbedError

RENEWALS = 4  # of a lease, while it lasts
SLOWEST_S = 1.0
STARTING_S = 60.0  # a part that comes up may be at it for so long without a word


class End(Enum):
    """How a life ended, as its supervisor sees it."""

    ENDED = "ended"  # the process is gone
    SILENT = "silent"  # its lease is over; the process may still be there


@dataclass(slots=True)
class Life:
    """A process that runs a part."""

    part: Part
    epoch: int
    process: Process
    link: Link
    scope: trio.CancelScope
    status: dict[str, Any] = field(default_factory=dict)
    ready: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    end: End | None = None

    @property
    def is_over(self) -> bool:
        """Whoever watches it may be about to hear of it."""
        return self.over.is_set() or self.process.is_over

    def how(self) -> str:
        """Its end, in words."""
        if self.end is End.SILENT:
            return "silent past its lease: fenced"
        code = self.process.code
        if code is None:
            return "ended"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Tell it to end in order."""
        try:
            await self.link.ask(words.PART, words.Stop())
        except NestbedError:
            return  # it is at its end already

    def finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self.over.set()
            self.scope.cancel()


async def begin(
    nursery: trio.Nursery, forker: Forker, assignment: Assignment, part: Part, epoch: int
) -> Life:
    """Start the process of `part`; it is watched in `nursery` from then on. Raises CannotFork."""
    pair = Pair()
    request = {"log": str(assignment.place.log(part.name)), "assignment": assignment.write()}
    try:
        process = await forker.start(request, [pair.theirs])
    finally:
        pair.handed_over()
    codec = words.codec()
    link = Link(pair.stream(), encode=codec.encode, decode=codec.decode, hello_s=STARTING_S)
    life = Life(part, epoch, process, link, trio.CancelScope(shield=True))
    nursery.start_soon(_watch, life)
    nursery.start_soon(_keep, life, assignment.deployment)
    return life


async def _watch(life: Life) -> None:
    """Its end, whatever the cause, with its code if somebody tells."""
    with trio.CancelScope(shield=True):  # whoever takes everything down waits for this
        await life.process.watched.wait()
    life.finish(End.ENDED)


async def _keep(life: Life, deployment: Deployment) -> None:
    """Renew its lease until it is over."""
    length = deployment.lease.length_ms / 1000
    until = time.monotonic() + STARTING_S
    with life.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.link.run)
            while time.monotonic() < until:
                fresh = time.monotonic() + (length if life.ready.is_set() else max(length, STARTING_S))
                try:
                    answer = await life.link.ask(
                        words.PART, words.Renew(fresh), timeout_s=until - time.monotonic()
                    )
                except NestbedError:
                    await trio.sleep(max(0.0, until - time.monotonic()))
                    continue
                until = fresh
                life.status = answer
                if answer["ready"]:
                    life.ready.set()
                await trio.sleep(min(length / RENEWALS, SLOWEST_S if life.ready.is_set() else 0.01))
            life.finish(End.SILENT)
