"""Events of one requester: numbered, kept in a ring, read by watchers with a cursor each.

A requester has numbers of its own: nothing can be read from them about anybody else. A watcher that falls
behind the ring is told so by an event `gap`, and goes on with the oldest event that is still there.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from protocol.hosting.errors import Code, Refusal


@dataclass(frozen=True, slots=True)
class Event:
    """A child changed its state."""

    seq: int
    child: bytes
    before: str
    state: str
    cause: str
    at_ms: int

    def body(self) -> dict[str, object]:
        return {
            "kind": "state",
            "seq": self.seq,
            "child": self.child,
            "from": self.before,
            "state": self.state,
            "cause": self.cause,
            "at_ms": self.at_ms,
        }


class EventLog:
    """The events of one requester and who watches them."""

    __slots__ = ("_events", "_keep", "last", "watchers")

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._events: deque[Event] = deque()
        self.last = 0
        self.watchers: dict[bytes, int] = {}  # rid of the watch -> number of the last event it has been given

    def add(self, child: bytes, before: str, state: str, cause: str, at_ms: int) -> bool:
        """Append; return whether the oldest event had to go."""
        self.last += 1
        self._events.append(Event(self.last, child, before, state, cause, at_ms))
        if len(self._events) <= self._keep:
            return False
        self._events.popleft()
        return True

    @property
    def first(self) -> int:
        """Number of the oldest event that is still here; one more than `last` if there is none."""
        return self.last + 1 - len(self._events)

    def watch(self, rid: bytes, since: int | None) -> dict[str, object]:
        """Begin after `since`, None for now. Raises Refusal (GAP) where events are gone or never were."""
        since = self.last if since is None else since
        if not self.first - 1 <= since <= self.last:
            raise Refusal(
                Code.GAP, f"here: {self.first}..{self.last}", detail={"first": self.first, "last": self.last}
            )
        self.watchers[rid] = since
        return {"kind": "established", "seq": since, "last": self.last}

    def due(self, rid: bytes) -> list[dict[str, object]]:
        """Return the bodies that the watcher has not been given yet, and move its cursor."""
        cursor = self.watchers[rid]
        bodies: list[dict[str, object]] = []
        if cursor + 1 < self.first:
            bodies.append({"kind": "gap", "first": self.first, "last": self.last})
            cursor = self.first - 1
        skip = cursor + 1 - self.first
        bodies += [event.body() for event in list(self._events)[skip:]]
        self.watchers[rid] = self.last
        return bodies

    def __len__(self) -> int:
        return len(self._events)
