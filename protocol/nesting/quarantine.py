"""Memory that a Trusted Entity would not give back.

Whoever frees such memory breaks somebody; Linux leaks it, and so does an emulation. What lies here is
counted, and `audit` names it, so that a leak is a fact and not a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lost:
    """A run of frames that must never be used again, and why."""

    first: int
    count: int
    reason: str


class Quarantine:
    """Append-only."""

    __slots__ = ("_lost",)

    def __init__(self) -> None:
        self._lost: list[Lost] = []

    def add(self, first: int, count: int, reason: str) -> None:
        self._lost.append(Lost(first, count, reason))

    def __iter__(self) -> Iterator[Lost]:
        return iter(self._lost)
