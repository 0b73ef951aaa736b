"""CIDs of hosted children: from a range of their own, held from the first moment, not given again soon.

To look for a free CID and then use it is a race; so a CID is taken before anything else knows of the
child. One that comes back waits: a peer's old connection must not reach the next child.
"""

from __future__ import annotations

from collections import deque

from protocol.hosting.errors import Code, Refusal


class Cids:
    """The range `first .. first + count - 1`. `given`: how many of them were ever given out."""

    __slots__ = ("_first", "_free", "_quarantine_ms", "_resting", "count", "given")

    def __init__(self, first: int, count: int, quarantine_ms: int) -> None:
        self._first = first
        self.count = count
        self._quarantine_ms = quarantine_ms
        self.given = 0
        self._free: deque[int] = deque()
        self._resting: deque[tuple[int, int]] = deque()

    def take(self, now_ms: int) -> int:
        """Return a CID; raises Refusal (CID_EXHAUSTED) with the time at which the next one is rested."""
        while self._resting and self._resting[0][0] <= now_ms:
            self._free.append(self._resting.popleft()[1])
        if self.given < self.count:
            self.given += 1
            return self._first + self.given - 1
        if self._free:
            return self._free.popleft()
        wait = self._resting[0][0] - now_ms if self._resting else 0
        raise Refusal(Code.CID_EXHAUSTED, "all CIDs are in use or at rest", retry_after_ms=wait)

    def give_back(self, cid: int, now_ms: int) -> None:
        self._resting.append((now_ms + self._quarantine_ms, cid))

    def restore(self, given: int, in_use: set[int], now_ms: int) -> None:
        """Begin a later life: what was given and is not in use rests, as nobody knows since when."""
        self.given = min(given, self.count)
        for number in range(self.given):
            if self._first + number not in in_use:
                self.give_back(self._first + number, now_ms)
