"""What the service needs from outside, as narrow as it can be: a journal (`journal`) and a book of counts."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class Book(Protocol):
    """Where changes of records are counted: `op` is create, update or delete, `owner` a requester's CID."""

    def update(self, kind: str, op: str, owner: int) -> None: ...


class CountingBook:
    """A book for who brings none: how many of each kind live, and how often each changed."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.updates: Counter[tuple[str, str]] = Counter()

    def update(self, kind: str, op: str, owner: int) -> None:
        self.updates[kind, op] += 1
        self.live[kind] += {"create": 1, "update": 0, "delete": -1}[op]
        assert self.live[kind] >= 0, f"more {kind} records deleted than made"
