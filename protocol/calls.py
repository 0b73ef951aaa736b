"""The call table: one row per ABI call of a Trusted Entity.

Dispatch, metric labels, `nestbed calls`, the documentation and the conformance matrix are all derived from
the rows. Which rules stand on what is part of the row: read in a source, inferred from one, or guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Category(StrEnum):
    """What a call is about, in the order of the talk: the higher, the less is emulated."""

    INIT = "init"
    VM = "vm"
    VCPU = "vcpu"
    MEMORY = "memory"
    LIFECYCLE = "lifecycle"
    GUEST = "guest"


class Treatment(StrEnum):
    """What the level below a guest host does with a call of it."""

    EMULATED = "emulated"  # nothing is issued below
    MODIFIED = "modified"  # issued below with a field changed
    PASSED = "passed"  # body unchanged after the ownership check; the block is still copied
    NATIVE = "native"  # no hypervisor on the way
    OWN = "own"  # a call of L0 for its direct and hosted guests


class Basis(StrEnum):
    """On what a rule stands, weakest last."""

    SOURCE = "source"
    INFERRED = "inferred"
    GUESS = "guess"


class Issuer(StrEnum):
    """Who may issue a call."""

    HOST = "host"
    GUEST = "guest"
    BOTH = "both"


class Donation(StrEnum):
    """What happens to memory that a guest host donates."""

    SAME_FRAME = "same_frame"  # the very frame is given to the Trusted Entity below
    SWAPPED = "swapped"  # the level below gives its own and takes the guest host's away
    VIRTUAL = "virtual"  # nothing is given below
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a call: the code it answers, what it looks at, and on what the rule stands."""

    code: int
    text: str
    basis: Basis = Basis.SOURCE
    reason: int = 0


@dataclass(frozen=True, slots=True)
class Area:
    """One area that a call donates: its field, its size in words, how the nested path provides it."""

    field: str
    size: str
    donation: Donation


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One row. `handler` is the Trusted Entity's own code; `length` is that of the control block in bytes."""

    code: int
    name: str
    title: str
    category: Category
    treatment: Treatment
    why: str
    length: int
    issuer: Issuer
    source: str
    handle: str = ""  # kind of the entity that the call names, "" if none
    handle_at: int = 0  # offset of the handle in the control block
    bit: int = -1  # place in the list of installed calls, -1 if it has none
    states: str = "ready"
    checks: tuple[Check, ...] = ()
    donated: tuple[Area, ...] = ()
    on_error: str = "nothing"
    basis: Basis = Basis.SOURCE
    handler: Callable[..., Any] | None = None

    def for_host(self) -> bool:
        return self.issuer is not Issuer.GUEST

    def for_guest(self) -> bool:
        return self.issuer is not Issuer.HOST


def table(rows: Iterable[CallSpec]) -> Mapping[int, CallSpec]:
    """Index the rows by code. Raises ValueError where two rows share a code, a name or a bit."""
    rows = tuple(rows)
    for what in ("code", "name", "bit"):
        values = [getattr(row, what) for row in rows if getattr(row, what) != -1]
        if len(set(values)) != len(values):
            raise ValueError(f"two calls share a {what}")
    for row in rows:
        codes = [check.code for check in row.checks]
        if codes != sorted(codes) and "order:" not in row.why:
            raise ValueError(f"{row.name}: checks stand in no stated order")
    return {row.code: row for row in rows}


def less_emulation_higher_up(rows: Iterable[CallSpec]) -> list[tuple[Category, float]]:
    """Share of emulated calls for each category a host uses, in the talk's order."""
    shares: list[tuple[Category, float]] = []
    rows = tuple(rows)
    for category in Category:
        mine = [row for row in rows if row.category is category and row.for_host()]
        if mine and category is not Category.GUEST:
            emulated = sum(row.treatment is Treatment.EMULATED for row in mine)
            shares.append((category, emulated / len(mine)))
    return shares
