"""Leases and the budget of starts: arithmetic on times that are passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lease:
    """One for each requester, not for each child."""

    length_ms: int
    deadline_ms: int = 0
    expired: bool = False

    def renew(self, now_ms: int) -> int:
        """Return the new deadline. Also brings back a lease that had expired."""
        self.deadline_ms = now_ms + self.length_ms
        self.expired = False
        return self.deadline_ms

    def out(self, now_ms: int) -> bool:
        """Whether it is over. The last millisecond belongs to the requester."""
        return now_ms > self.deadline_ms


@dataclass(slots=True)
class Bucket:
    """Tokens that come at a rate and are kept up to one second's worth. Rate 0: no limit."""

    per_s: int
    millitokens: int = 0
    at_ms: int = 0

    def __post_init__(self) -> None:
        self.millitokens = self.per_s * 1000

    def take(self, now_ms: int) -> int:
        """Take one token; return 0, or after how many ms there will be one."""
        if not self.per_s:
            return 0
        passed, self.at_ms = max(0, now_ms - self.at_ms), max(now_ms, self.at_ms)
        self.millitokens = min(self.per_s * 1000, self.millitokens + passed * self.per_s)
        if self.millitokens < 1000:
            return -(-(1000 - self.millitokens) // self.per_s)
        self.millitokens -= 1000
        return 0


def backoff(tries: int, first_ms: int, last_ms: int) -> int:
    """Return how long to wait after the `tries`-th failure in a row, 1 for the first."""
    return min(last_ms, first_ms << min(tries - 1, 20))
