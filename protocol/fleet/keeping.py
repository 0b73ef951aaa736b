"""How a machine's name is claimed and kept in a directory: one try, one renewal, each as a generator.

Whoever drives them says how long to wait between two, and what time it is (`now`: a monotonic clock, in
seconds, which may stand still for this process at any point: then the lease goes on without it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.fleet.directory import MACHINES, Asking, Get, Opened, Put, Value
from protocol.fleet.entry import Entry, pack_entry
from protocol.fleet.lease import SILENT, Challenge, Claim, next_epoch

Clock = Callable[[], float]
Mine = Callable[[str, int], bytes]  # what we write under a name, in a life


def tried(
    machine: str, challenge: Challenge, mine: Mine, remembered: int, opened: Opened, now: Clock
) -> Asking[Claim | None]:
    """One try to claim a machine. `remembered`: the epoch of its last life that is known here."""
    asked = now()
    value: Value = yield Get(MACHINES, machine)
    known = opened(value)
    given_back = known is not None and not known.holder
    if not challenge.may_claim(value.revision, given_back, asked, now()):
        return None
    epoch = next_epoch(known.epoch if known else 0, value.revision, remembered)
    sent = now()
    won: int = yield Put(MACHINES, machine, mine(machine, epoch), value.revision)
    return Claim(machine, epoch, won, sent + challenge.length_s, challenge.length_s) if won else None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What came of one. `lost` says why the machine is another's, or nobody's, now."""

    accepted: bool
    lost: str = ""


def renewal(claim: Claim, holder: str, mine: Mine, opened: Opened, now: Clock) -> Asking[Renewal]:
    """Renew a lease once. One that is over is not renewed any more."""
    sent = now()
    if claim.is_over(sent):
        return Renewal(False, f"{claim.machine}: no renewal was accepted for a whole lease")
    won: int = yield Put(MACHINES, claim.machine, mine(claim.machine, claim.epoch), claim.revision)
    if won:
        claim.renewed(won, sent)
        return Renewal(True)
    if (yield from _another_has(claim, holder, opened)):
        return Renewal(False, f"{claim.machine}: another instance has it")
    return Renewal(False)


def giving_back(claim: Claim) -> Put:
    """Nobody has to wait for the lease then. The epoch stays."""
    return Put(MACHINES, claim.machine, pack_entry(Entry("", claim.epoch)), claim.revision)


def _another_has(claim: Claim, holder: str, opened: Opened) -> Asking[bool]:
    """Whether a renewal was refused because somebody else wrote, and not because nobody answered."""
    value: Value = yield Get(MACHINES, claim.machine)
    if value.revision in (SILENT, claim.revision):
        return False
    known = opened(value)
    if value.revision == 0 or (known and (known.holder, known.epoch) == (holder, claim.epoch)):
        claim.revision = value.revision  # the directory was lost; or our own, whose answer was lost
        return False
    return True
