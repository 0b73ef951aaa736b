"""The Trusted Entity of one machine, as an actor: what L0 asks of it, one operation after another.

The pure half answers; nothing is decided here. The process that holds this actor *is* the machine: its
death is a power failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.runtime.actor import Actor, Runtime
from protocol.effects import Issue, Step
from protocol.errors import RemoteProtocolError

Serve = Callable[[Issue], Step[Any]]


class TrustedEntity:
    """The actor `te`. `serve` is the architecture's server of the machine's level."""

    def __init__(self, serve: Serve, runtime: Runtime, name: str = "te") -> None:
        self._serve = serve
        self.actor = Actor(name, self._handle, runtime)

    def _handle(self, message: object) -> Step[Any]:
        if not isinstance(message, Issue):
            raise RemoteProtocolError("kind", f"not asked of a Trusted Entity: {type(message).__name__}")
        return self._serve(message)
