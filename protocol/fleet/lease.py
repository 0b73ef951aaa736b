"""Leases without a common clock: when a name may be claimed, how long it is held, under which epoch.

A directory keeps a value and a revision under each name, and takes a new value only over the revision that
the writer has seen. It is soft state: it can be lost, and is then filled anew by whoever holds something.

- A holder counts its lease from the moment at which it *sent* its last renewal that was accepted.
- A challenger claims a name that was given back at once, and any other when it has seen the same revision,
  or none, for a whole lease and a margin: by then the holder's lease is over by the holder's own clock. None
  is no licence: a directory that was lost looks like one in which nobody ever was.
- An epoch is higher than all that the directory, its revision and the claimer's own memory know of.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import LocalProtocolError
from protocol.fleet.entry import EPOCHS

RENEWALS = 4  # of a lease, while it lasts
MARGIN = 1.25  # a challenger waits so many leases
SILENT = -1  # a revision: the directory does not answer


@dataclass(slots=True)
class Challenge:
    """Somebody who wants a name, and what it has seen of it. Times are of one monotonic clock, in seconds."""

    length_s: float
    since: float  # from when on it has seen `revision`, and no other
    revision: int = SILENT

    def may_claim(self, revision: int, given_back: bool, asked: float, now: float) -> bool:
        """Whether to claim over `revision` (0: there is no value), which was asked for at `asked`."""
        if revision != self.revision:
            self.revision, self.since = revision, asked
        if revision == SILENT:
            return False
        return given_back or now - self.since >= self.length_s * MARGIN


@dataclass(slots=True)
class Claim:
    """One name that is held here. `until`: the end of the lease, on this machine's monotonic clock."""

    machine: str
    epoch: int
    revision: int
    until: float
    length_s: float

    def renewed(self, revision: int, sent: float) -> None:
        """A renewal that was sent then was accepted."""
        self.revision, self.until = revision, sent + self.length_s

    def is_over(self, now: float) -> bool:
        return now > self.until

    @property
    def pause_s(self) -> float:
        """Between two renewals that are accepted."""
        return self.length_s / RENEWALS


def next_epoch(known: int, revision: int, remembered: int) -> int:
    """The epoch of a new holder. `known`: of the value that it replaces, 0 for none."""
    epoch = max(known, revision, remembered, 0) + 1
    if epoch > EPOCHS:
        raise LocalProtocolError(f"epochs end at {EPOCHS}: begin a directory of another name")
    return epoch
