"""The requests of a block: when they are meant to come, what they ask, and of which guest.

Everything is drawn from streams by purpose and pair, so that both paths of a pair meet the same requests at
the same times, and one more draw for one purpose moves nothing of another (common random numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from protocol.plan.scenario import Load, Mix

MOST = 1_000_000  # requests of one block
KINDS = ("run", "restart", "page_change", "swap")


@dataclass(frozen=True, slots=True)
class Request:
    """`at_s` seconds after the block began, guest `guest` is to do this."""

    number: int
    at_s: float
    kind: str
    guest: int


@dataclass(frozen=True, slots=True)
class Draw:
    """Streams of one block: nothing of a path is in their names, so both paths draw alike."""

    seed: int
    pair: int
    shard: int = 0

    def stream(self, purpose: str) -> Random:
        return Random(f"{self.seed}:load:{self.pair}:{self.shard}:{purpose}")


def arrivals(load: Load, draw: Draw, shards: int = 1, replay: Sequence[float] = ()) -> Iterator[float]:
    """Times of an open block, in seconds from its beginning. Raises ValueError for too many."""
    if load.arrivals == "replay":
        yield from (at for at in replay if at < load.duration_s)
        return
    rate = load.rate_per_min / 60 / shards
    if rate * load.duration_s > MOST:
        raise ValueError(f"{rate * load.duration_s:.0f} requests in a block: allowed: at most {MOST}")
    random, at = draw.stream("arrivals"), 0.0
    while True:
        at += random.expovariate(rate) if load.arrivals == "poisson" else 1 / rate
        if (time := _ramped(at, load.ramp_s)) >= load.duration_s:
            return
        yield time


def _ramped(at: float, ramp_s: int) -> float:
    """When a rate that rises evenly from nothing has brought what the full rate brings in `at`."""
    if at < ramp_s / 2:
        return float((2 * ramp_s * at) ** 0.5)
    return at + ramp_s / 2


def requests(
    load: Load, guests: Sequence[int], draw: Draw, shards: int = 1, replay: Sequence[float] = ()
) -> list[Request]:
    """All requests of an open block, in the order in which they come."""
    asked = Asked(load.mix, guests, draw)
    return [asked.next(at) for at in arrivals(load, draw, shards, replay)]


class Asked:
    """What is asked next, and of whom: by weight, and of guests in an order that is drawn."""

    def __init__(self, mix: Mix, guests: Sequence[int], draw: Draw) -> None:
        self._kinds = [kind for kind in KINDS if getattr(mix, kind)]
        self._weights = [getattr(mix, kind) for kind in self._kinds]
        if not self._kinds:
            raise ValueError(f"load.mix: every weight is 0; allowed: one of {', '.join(KINDS)} above it")
        self._guests = guests
        self._of_kinds, self._of_guests = draw.stream("kinds"), draw.stream("guests")
        self._count = 0

    def next(self, at_s: float) -> Request:
        kind = self._of_kinds.choices(self._kinds, self._weights)[0]
        self._count += 1
        return Request(self._count - 1, at_s, kind, self._of_guests.choice(self._guests))
