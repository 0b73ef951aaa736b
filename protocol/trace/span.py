"""A span: one message from the moment it was sent to its answer, and what its handler counted.

Counts belong to exactly one span, that of whoever counted them, so the counts of a tree are those of the
operation: nothing is counted twice, nothing is left out. What a call is called and how it is treated is read
from the counts themselves, so no architecture has to say it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

from protocol.ledger import Key
from protocol.wire import Trace

Counts: TypeAlias = defaultdict[Key, int]


@dataclass(eq=False, slots=True)
class Span:
    """One message. `who` handled it, `what` it asked; times are nanoseconds of the wall clock.

    `counts` are this span's own, without those of its children. `error` is what stood in place of an
    answer.
    """

    trace_id: bytes
    number: int
    parent: Span | None
    who: str
    what: str
    began_ns: int = 0
    ended_ns: int | None = None
    error: str | None = None
    counts: Counts = field(default_factory=lambda: defaultdict(int))
    children: list[Span] = field(default_factory=list)

    @property
    def context(self) -> Trace:
        """Where this span belongs, as it stands in the header of a frame."""
        return Trace(self.trace_id, self.number.to_bytes(8, "big"), True)

    def walk(self) -> Iterator[Span]:
        """This span and all below it, in the order in which they began."""
        waiting = [self]
        while waiting:
            span = waiting.pop()
            yield span
            waiting.extend(reversed(span.children))

    def total(self) -> dict[Key, int]:
        """The counts of the whole tree."""
        found: defaultdict[Key, int] = defaultdict(int)
        for span in self.walk():
            for key, n in span.counts.items():
                found[key] += n
        return {key: n for key, n in found.items() if n}


def trace_id(seed: object, number: int) -> bytes:
    """The id of the `number`th trace of a run: the same in every run of one seed."""
    return blake2b(f"trace:{seed}:{number}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the Trusted Entity as some level made it."""

    name: str
    category: str
    treatment: str
    origin: str  # number of the level that made it; `guest` for calls of secure guests


ISSUED = "issued"  # the treatment of a call that reaches the real Trusted Entity for a level above L0


def calls(span: Span) -> list[Call]:
    """The calls that were handled in this span: as some level made them, or as they reached the machine."""
    made = [Call(*key[1:]) for key, n in span.counts.items() if key[0] == "te_calls" and n > 0]
    if made:
        return made
    issued = (key for key, n in span.counts.items() if key[0] == "te_issued" and n > 0)
    return [Call(name, "", ISSUED, origin) for _, name, origin in issued]
