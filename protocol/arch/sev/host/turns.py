"""Who may ring the mailbox: first come, first served, as behind Linux's mutex.

A kernel has one for itself and for all its guest hosts. Each of these has one command under way at most, so
no host gets a second turn while another one waits for its first.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from protocol.effects import Step

T = TypeVar("T")


class Turns:
    """The queue. Each look at a mailbox that is somebody else's is `absorbed_busy`: no guest host sees it."""

    def __init__(self, contention: MutableMapping[str, int] | None = None) -> None:
        self._contention: MutableMapping[str, int] = Counter() if contention is None else contention
        self._waiting: deque[object] = deque()

    def held(self) -> Iterator[str]:
        """Whether somebody has the mailbox, in words, and how many wait."""
        if self._waiting:
            waiting = len(self._waiting) - 1
            yield "the firmware's mailbox" + (f", {waiting} wait" if waiting else "")

    def take(self, level: Any, step: Step[T]) -> Step[T]:
        """Do `step` when it is its turn; `level` is what is waited on. Who vanishes leaves the queue."""
        ticket = object()
        self._waiting.append(ticket)
        try:
            while self._waiting[0] is not ticket:
                self._contention["absorbed_busy"] = self._contention.get("absorbed_busy", 0) + 1
                yield from level.poll()
            return (yield from step)
        finally:
            self._waiting.remove(ticket)
