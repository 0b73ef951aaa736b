"""A network between hosts: each ordered pair is a way of its own, with its own bad habits.

Nothing is delivered by itself: `due` says what could be, and the scheduler draws. Ways have no order of their
own (a message may overtake another, unless that fault is left out); a way that is closed loses what is sent
into it, one that stalls keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.soak.options import Tally

LATE_MS = 3_000  # the most that a message is late
WORST = 0.12  # of a way's messages that are lost, late or doubled, each


@dataclass(slots=True)
class Way:
    """From one host to another: how often what goes wrong, and until when (ms) it is closed or stalls."""

    loss: float
    delay: float
    duplicate: float
    closed_until: int = 0
    stalled_until: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """`at_ms`: it does not arrive earlier."""

    source: str
    target: str
    body: Any
    at_ms: int


@dataclass(slots=True)
class Network:
    random: Random
    tally: Tally
    allowed: frozenset[str]
    faulty: bool = True  # while it is, new messages meet faults
    worst: float = WORST
    ways: dict[tuple[str, str], Way] = field(default_factory=dict)
    under_way: list[Message] = field(default_factory=list)

    def way(self, source: str, target: str) -> Way:
        found = self.ways.get((source, target))
        if found is None:
            loss, delay, duplicate = (
                self.random.random() * self.worst if kind in self.allowed else 0.0 for kind in _RATES
            )
            found = self.ways[source, target] = Way(loss, delay, duplicate)
        return found

    def send(self, source: str, target: str, body: Any, now_ms: int) -> None:
        way, copies, at_ms = self.way(source, target), 1, now_ms
        if self.faulty:
            if now_ms < way.closed_until:
                self.tally.done["lost_in_a_partition"] += 1
                return
            if self._strikes("loss", way.loss):
                return
            if self._strikes("duplicate", way.duplicate):
                copies = 2
            if self._strikes("delay", way.delay):
                at_ms += self.random.randrange(1, LATE_MS)
            at_ms = max(at_ms, way.stalled_until)
        self.under_way += [Message(source, target, body, at_ms)] * copies

    def _strikes(self, kind: str, rate: float) -> bool:
        hit = self.random.random() < rate
        self.tally.faults.update([kind] * hit)
        return hit

    def due(self, now_ms: int) -> list[int]:
        """Places of messages that may arrive now."""
        due = [place for place, message in enumerate(self.under_way) if message.at_ms <= now_ms]
        if "reorder" in self.allowed:
            return due
        return [place for place in due if not self._overtakes(place)]

    def take(self, place: int) -> Message:
        self.tally.faults.update(["reorder"] * self._overtakes(place))
        return self.under_way.pop(place)

    def _overtakes(self, place: int) -> bool:
        """Was another one sent the same way before it, and is not there yet?"""
        one = self.under_way[place]
        return any(
            (each.source, each.target) == (one.source, one.target) and each is not one
            for each in self.under_way[:place]
        )

    def heal(self) -> None:
        """Nothing goes wrong from now on, and what was held goes."""
        self.faulty = False
        self.under_way = [Message(m.source, m.target, m.body, 0) for m in self.under_way]


_RATES = ("loss", "delay", "duplicate")
