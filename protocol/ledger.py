"""Exact counts, per phase: the primary result of nestbed.

A key is a tuple of strings: the family, then one value per label. Counts depend on scenario and seed alone.
What depends on timing (busy answers, retries, waits) is `contention`, outside every comparison for equality.

Exits are arrivals at L0: hardware has one hypervisor, so whatever traps lands there first. `trap` and
`reenter` spell that out for any depth: an exit of L(n) that belongs to L(n-1) is handed up level by level,
and each hand-over is a guest entry that a guest host issues, hence an exit itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

Key = tuple[str, ...]

FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "exits": (("from_level", "reason", "to"), "arrivals at L0"),
    "reflections": (("from_level", "to_level"), "exits handed to the guest host that they belong to"),
    "entries": (("level",), "guest entries that L0 executed"),
    "te_calls": (("call", "category", "treatment", "origin"), "TE calls as the issuing level made them"),
    "te_issued": (("call", "origin"), "calls that reached the real TE, by the level that caused them"),
    "translations": (("stage",), "addresses translated for a guest host"),
    "copied_bytes": (("what",), "bytes copied because a block or a buffer could not be passed"),
    "injections": (("kind",), "exceptions injected into a guest host"),
    "table_ops": (("op",), "operations on shadow tables"),
    "pages": (("op",), "pages of secure guests, by what happened to them"),
    "tracking_updates": (("kind", "op", "holder"), "changes of tracking records"),
    "lookups": (("kind", "result"), "look-ups in tracking tables"),
    "teardown": (("kind", "cause"), "items released when their owner went away"),
    "peaks": (("what",), "the most that was held at once, added up over guest hosts"),
    "hosting": (("message",), "messages of the hosting interface"),
}


PEAKS = "peaks"
_NAMES = tuple(str(number) for number in range(16))  # of levels: no composition is deeper


class Ledger:
    """Counts of one emulated machine, split by phase. `entry` is the instruction that enters a guest."""

    __slots__ = ("_diverted", "_entry", "_now", "_phase", "_phases", "contention")

    def __init__(self, entry: str = "sie") -> None:
        self._entry = entry
        self._phase = "host_setup"
        self._phases: dict[str, defaultdict[Key, int]] = {}
        self._now = self._phases.setdefault(self._phase, defaultdict(int))
        self._diverted: defaultdict[Key, int] | None = None
        self.contention: defaultdict[str, int] = defaultdict(int)

    @property
    def phase(self) -> str:
        return self._phase

    @phase.setter
    def phase(self, name: str) -> None:
        if self._diverted is not None:
            self.divert(None)
        self._phase = name
        self._now = self._phases.setdefault(name, defaultdict(int))

    def divert(self, into: defaultdict[Key, int] | None) -> None:
        """Count into `into` from now on, as well as in the phase; None: in the phase alone, as at first.

        What was diverted reaches the phase when the next one takes its place.
        """
        at = self._diverted
        if at is not None:
            phase = self._phases[self._phase]
            for key, n in self._now.items():
                phase[key] += n
                at[key] += n
        self._diverted = into
        self._now = self._phases[self._phase] if into is None else defaultdict(int)

    def count(self, key: Key, n: int = 1) -> None:
        self._now[key] += n

    def trap(self, level: int, reason: str, to: str = "kernel", n: int = 1) -> None:
        """An exit of L(level) that its own hypervisor, L(level - 1), handles; `n` of them."""
        now, names = self._now, _NAMES
        now["exits", names[level], reason, to] += n
        now["entries", names[level]] += n
        for host in range(1, level):
            now["reflections", names[host - 1], names[host]] += n
            if host < level - 1:
                self.reenter(host, n)

    def exit(self, level: int, reason: str, to: str = "kernel", n: int = 1) -> None:
        """An exit of L(level) that L0 itself handles."""
        self._now["exits", _NAMES[level], reason, to] += n
        self._now["entries", _NAMES[level]] += n

    def reenter(self, host: int, n: int = 1) -> None:
        """L(host) enters its guest. For L0 that is its own instruction, above it is an exit."""
        if host:
            self.trap(host, self._entry, n=n)
            self.reenter(host - 1, n)

    def counts(self) -> dict[Key, int]:
        """All counts so far. May be asked while another thread counts: each phase is copied in one step."""
        total: defaultdict[Key, int] = defaultdict(int)
        for phase in list(self._phases.values()):
            for key, n in phase.copy().items():
                total[key] += n
        return dict(total)

    def here(self) -> dict[Key, int]:
        """The counts of the phase so far."""
        return dict(self._now)

    def flat(self) -> dict[str, int]:
        """All counts by dotted name, and each family's total by the family's name."""
        return flatten(self.counts())

    def phases(self) -> dict[str, dict[str, int]]:
        return {name: flatten(counts) for name, counts in self._phases.items() if counts}

    def reset(self) -> None:
        self._phases.clear()
        self.contention.clear()
        self.phase = self._phase


class Peaks:
    """The most of something at once. It is counted as it grows, so the sum over a run is the peak.

    One for each owner: at most how many all of them had at once would depend on their order.
    """

    __slots__ = ("_ledger", "_most")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._most: dict[str, int] = {}

    def note(self, what: str, n: int) -> None:
        """There are `n` now."""
        more = n - self._most.get(what, 0)
        if more > 0:
            self._most[what] = n
            self._ledger.count((PEAKS, what), more)


def flatten(counts: Mapping[Key, int]) -> dict[str, int]:
    flat: defaultdict[str, int] = defaultdict(int)
    for key, n in counts.items():
        if n:
            flat[".".join(key)] += n
            if key[0] != PEAKS:  # the most of one thing and the most of another add up to nothing
                flat[key[0]] += n
    return dict(sorted(flat.items()))
