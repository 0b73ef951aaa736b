"""What the service needs from outside, as narrow as it can be: a journal and a book of counts."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

KEPT_PER_CHILD = 8  # intents; a life has 4 to 6 transitions


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be done to a child: written before it is acted on."""

    child: bytes
    owner_cid: int
    owner_epoch: int
    state: str  # that the child is about to enter
    cause: str
    at_ms: int


class Journal(Protocol):
    """Where intents are kept."""

    def append(self, record: Intent) -> int:
        """Keep `record`; return how many older ones became obsolete by it and were dropped."""
        ...


class Book(Protocol):
    """Where changes of records are counted: `op` is create, update or delete, `owner` a requester's CID."""

    def update(self, kind: str, op: str, owner: int) -> None: ...


class MemoryJournal:
    """Intents of the living, in memory. The end of a child makes all of its intents obsolete."""

    def __init__(self) -> None:
        self.writes = 0
        self._intents: dict[bytes, deque[Intent]] = {}

    def append(self, record: Intent) -> int:
        self.writes += 1
        intents = self._intents.setdefault(record.child, deque())
        intents.append(record)
        if record.state == "RELEASED":
            del self._intents[record.child]
            return len(intents)
        if len(intents) > KEPT_PER_CHILD:
            del intents[1]  # the first one says whose it is and stays
            return 1
        return 0

    def intents(self) -> list[Intent]:
        return [intent for intents in self._intents.values() for intent in intents]


class CountingBook:
    """A book for who brings none: how many of each kind live, and how often each changed."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.updates: Counter[tuple[str, str]] = Counter()

    def update(self, kind: str, op: str, owner: int) -> None:
        self.updates[kind, op] += 1
        self.live[kind] += {"create": 1, "update": 0, "delete": -1}[op]
        assert self.live[kind] >= 0, f"more {kind} records deleted than made"
