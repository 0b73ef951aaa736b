"""Where a message may be sent, and how its answer comes back.

An answer is delivered by calling `deliver(value, error)` exactly once, with `error` None or the exception
that stands in place of a value. It may be called before `submit` returns: that is what makes a local call
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from protocol.errors import NotDelivered

Deliver = Callable[[object, BaseException | None], None]


class Port(Protocol):
    """Takes messages. Implemented by actors, by what stands before them, and by links."""

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message` and have its answer delivered; `owner` is on whose behalf, see `Actor.abandon`.

        Never raises for reasons of the receiver: those are delivered (LevelGone, NotDelivered,
        OutcomeUnknown).
        """
        ...


def ignore(_value: object, _error: BaseException | None) -> None:
    """Deliver an answer that nobody waits for: the second argument of `submit` for a notice."""


class Directory:
    """Ports by name: what a link serves to its peer."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}

    def add(self, name: str, port: Port) -> None:
        """Make `port` reachable; a name that is taken gets the new port (its restarted actor)."""
        self._ports[name] = port

    def remove(self, name: str) -> None:
        self._ports.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return name in self._ports

    def serve(self, target: str, message: object, deliver: Deliver) -> None:
        """Hand `message` to `target`; an absent one is answered here, with NotDelivered."""
        port = self._ports.get(target)
        if port is None:
            deliver(None, NotDelivered(f"no actor of that name here: {target[:80]!r}"))
        else:
            port.submit(message, deliver)
