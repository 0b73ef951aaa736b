"""Shared and exclusive locks that never wait: section 3.5 of the fact sheet.

A try that fails answers at once, and the caller says what was busy. One `Held` is what one call holds:
whatever it ends with, all of it is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

EXCLUSIVE = -1


class TryLocks:
    """Who holds what: a number of sharers, or EXCLUSIVE. `name` puts what is locked into words."""

    __slots__ = ("_held", "_name")

    def __init__(self, name: Callable[[Hashable], str] = str) -> None:
        self._held: dict[Hashable, int] = {}
        self._name = name

    def held(self) -> tuple[str, ...]:
        """What is locked now, in words."""
        return tuple(sorted(map(self._name, self._held)))

    def share(self, what: Hashable) -> bool:
        sharers = self._held.get(what, 0)
        if sharers == EXCLUSIVE:
            return False
        self._held[what] = sharers + 1
        return True

    def own(self, what: Hashable) -> bool:
        if what in self._held:
            return False
        self._held[what] = EXCLUSIVE
        return True

    def promote(self, what: Hashable) -> bool:
        """Turn the caller's share into ownership; it fails where somebody else shares, too."""
        if self._held[what] != 1:
            return False
        self._held[what] = EXCLUSIVE
        return True

    def release(self, what: Hashable) -> None:
        sharers = self._held[what]
        if sharers in (EXCLUSIVE, 1):
            del self._held[what]
        else:
            self._held[what] = sharers - 1

    def holders(self, what: Hashable) -> int:
        """How many share it; EXCLUSIVE if one owns it."""
        return self._held.get(what, 0)

    def clear(self) -> None:
        """Everything is gone that could hold a lock."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)


class Held:
    """The locks of one call, in the order in which it took them."""

    __slots__ = ("_locks", "_mine")

    def __init__(self, locks: TryLocks) -> None:
        self._locks = locks
        self._mine: list[tuple[Hashable, Callable[[], None] | None]] = []

    def share(self, what: Hashable) -> bool:
        if not self._locks.share(what):
            return False
        self._mine.append((what, None))
        return True

    def own(self, what: Hashable) -> bool:
        if not self._locks.own(what):
            return False
        self._mine.append((what, None))
        return True

    def add(self, release: Callable[[], None]) -> None:
        """A lock that lies elsewhere was taken: `release` gives it back."""
        self._mine.append((None, release))

    def promote(self, what: Hashable) -> bool:
        """Turn a share of this call into ownership."""
        return self._locks.promote(what)

    def release(self, what: Hashable) -> None:
        """Give one lock back before the call ends."""
        self._mine.remove((what, None))
        self._locks.release(what)

    def release_all(self) -> None:
        while self._mine:
            what, release = self._mine.pop()
            if release is None:
                self._locks.release(what)
            else:
                release()
