"""Entity locks of one guest host.

They reproduce the real lock scope for the guest host's own CPUs: it sees "busy" only where two of its own
calls collide. Contention with a sibling or with the level below never shows here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol


class Holds(Protocol):
    """What a level, or a hypervisor, keeps others away from just now: whatever it calls a lock."""

    def held(self) -> Iterable[str]:
        """In words, with what it is held for where that is known."""
        ...


class Locks:
    """Who holds what. Taking never waits: the architecture answers busy."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: set[Hashable] = set()

    def take(self, entity: Hashable) -> bool:
        """Take the lock of `entity`; False if it is taken."""
        if entity in self._held:
            return False
        self._held.add(entity)
        return True

    def give(self, entity: Hashable) -> None:
        self._held.discard(entity)

    def held(self) -> tuple[str, ...]:
        """What is locked now, in words: of an entity its kind and its handle."""
        return tuple(sorted(map(words, self._held)))

    def clear(self) -> None:
        """Everything is gone that could hold a lock."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)


def words(entity: Hashable) -> str:
    """What is locked, for a person: its kind and its number, where it has both."""
    match entity:
        case (str(kind), int(handle)):
            return f"{kind} {handle:#x}"
    return str(entity)
