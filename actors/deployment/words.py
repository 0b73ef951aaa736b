"""What a supervisor, a load and the parts say to each other, beside the operations of hosts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from actors.node import OPERATIONS, Above, Boot, End, Phase, SwapUnder, Tally
from protocol.codec import Codec
from protocol.plan import operations as op

PART = "part"  # the actor of a process that its supervisor speaks to
MACHINE = "machine"  # the actor that speaks for a machine


@dataclass(frozen=True, slots=True)
class Renew:
    """The supervisor believes in this part until then (the system's monotonic clock, s). Answered with how
    it is."""

    until: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End in order."""


@dataclass(frozen=True, slots=True)
class Status:
    """Say how it is."""


@dataclass(frozen=True, slots=True)
class Why:
    """Say what is under way: calls in flight, who waits for whom."""


@dataclass(frozen=True, slots=True)
class ResetHost:
    """The guest host on `seat` of this machine reboots without a word."""

    seat: int


@dataclass(frozen=True, slots=True)
class GuestDoes:
    """The hosted guest of `child` does something by itself, or L0 swaps pages of it.

    The guest's number in it means nothing.
    """

    child: bytes
    act: op.Touch | op.Share | op.Exits | op.Change | op.Swap


@dataclass(frozen=True, slots=True)
class Guests:
    """Say which secure guests of its own the guest host on `seat` has: numbers; None while it is not up.
    For hosts in the process of their machine."""

    seat: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Say what was counted here so far, machine and hosts together, by name."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Hold the books of every level here against the one below."""


@cache
def codec() -> Codec:
    """The codec of every link between parts."""
    return Codec(
        (
            *OPERATIONS, op.LevelSwap, Phase, Boot, End, Above, SwapUnder, Tally,
            Renew, Stop, Status, Why, ResetHost, GuestDoes, Audit, Guests, Counted,
        )
    )  # fmt: skip
