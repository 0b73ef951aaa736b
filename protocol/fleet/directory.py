"""What a directory of a fleet is asked: the value under a key, or to take a new one over what was seen.

Generators of this package yield these, and are sent what came of them: a Value for a Get; for a Put its new
revision, or 0 where it was refused *or* nobody answered: then it may have happened, or may happen yet.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from protocol.fleet.entry import Entry

T = TypeVar("T")
MACHINES, PLACEMENTS = "machines", "placements"  # buckets: who holds what; which machine has which number


@dataclass(frozen=True, slots=True)
class Value:
    """What stands under a key. revision 0: nothing; lease.SILENT: nobody answers."""

    revision: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Get:
    """Answered with a Value."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write over revision `over`, 0 for none. Answered with the new revision, or 0."""

    bucket: str
    key: str
    data: bytes
    over: int


Asking = Generator[Get | Put, Any, T]
Opened = Callable[[Value], Entry | None]  # the entry of a value; None for what is none
