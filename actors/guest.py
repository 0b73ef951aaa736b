"""A secure guest as an actor: what the workload has it do, it asks of the host that runs it.

At rest it is an object without a task, so a hundred thousand of them are cheap. Its death, or its host's,
is a notice like any other's.
"""

from __future__ import annotations

from typing import Any

from actors.runtime.actor import Actor, Runtime
from actors.runtime.port import Deliver, Port
from protocol.effects import Effect, Issue, Step

RUN = "run"


class SecureGuest:
    """The actor of one guest. `host` takes operations as the host's actor does."""

    __slots__ = ("_host", "actor")

    def __init__(self, name: str, host: Port, runtime: Runtime) -> None:
        self.actor = Actor(name, _run, runtime, perform=self._ask_host)
        self._host = host

    async def perform(self, operation: object) -> Any:
        """Have the guest do something: touch, share, exit. Ends when its host says that it is done."""
        return await self.actor.ask(operation)

    def _ask_host(self, effect: Effect, deliver: Deliver) -> None:
        assert isinstance(effect, Issue)
        self._host.submit(effect.arguments[0], deliver)


def _run(operation: object) -> Step[Any]:
    """A guest's CPU gets somewhere only while its host runs it."""
    return (yield Issue(RUN, (operation,)))
