"""A secure guest as an actor: what the workload has it do, it asks of the host that runs it.

At rest it is an object without a task, so a hundred thousand of them are cheap. Its death, or its host's,
is a notice like any other's.
"""

from __future__ import annotations

from typing import Any

from actors.runtime.actor import Actor, Perform, Runtime
from actors.runtime.port import Deliver, Port
from protocol.effects import Effect, Issue, Step

RUN = "run"


def asking(host: Port) -> Perform:
    """What the guests of a host do where they need it: one function for all of them.

    `host` takes operations as the host's actor does.
    """

    def ask(effect: Effect, deliver: Deliver) -> None:
        assert isinstance(effect, Issue)
        host.submit(effect.arguments[0], deliver)

    return ask


class SecureGuest:
    """The actor of one guest. `host` is what `asking` made of its host's port."""

    __slots__ = ("actor",)

    def __init__(self, name: str, host: Perform, runtime: Runtime) -> None:
        self.actor = Actor(name, _run, runtime, perform=host)

    async def perform(self, operation: object) -> Any:
        """Have the guest do something: touch, share, exit. Ends when its host says that it is done."""
        return await self.actor.ask(operation)


def _run(operation: object) -> Step[Any]:
    """A guest's CPU gets somewhere only while its host runs it."""
    return (yield Issue(RUN, (operation,)))
