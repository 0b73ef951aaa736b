"""A secure host's software as an actor: kernel and VMM, which do one operation of the plan after another.

The sequences are the architecture's own and pure. What they ask of the level below goes to this host's port
there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.runtime.actor import Actor, Runtime
from actors.runtime.mailbox import Reply
from actors.runtime.port import Port
from actors.runtime.serial import Serial
from protocol.effects import Step
from protocol.plan import operations as op
from protocol.tracking import Book

Perform = Callable[[Any], Step[Any]]


def keeping_vmms(perform: Perform, book: Book) -> Perform:
    """The same, and the VMM of each guest is a record in the book of the host that runs it.

    Like for like: for a hosted guest the hosting service of L0 keeps that record, in its own book.
    """

    def performed(operation: Any) -> Step[Any]:
        result = yield from perform(operation)
        if isinstance(operation, op.Create):
            book.add("vmm")
        elif isinstance(operation, op.Destroy | op.Kill):
            book.drop("vmm")
        return result

    return performed


class SecureHost:
    """The actor of one host, L0's own or a guest host. `perform(operation)` is the architecture's."""

    def __init__(self, name: str, perform: Perform, below: Port, runtime: Runtime) -> None:
        self.actor = Actor(name, perform, runtime, perform=below.submit)
        self.port = Serial(self.actor, follow=self.actor.follow)
        self._runtime = runtime

    async def perform(self, operation: object) -> Any:
        """Do one operation, when those before it are over.

        Raises OperationFailed, and LevelGone if the level below is gone, or this host.
        """
        if not self._runtime.has_room():
            await self._runtime.breathe()
        reply = Reply()
        self.port.submit(operation, reply.deliver)
        if reply.done and reply.error is None:
            return reply.value
        return await reply.wait()
