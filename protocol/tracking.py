"""The books that a level keeps about its guest hosts, in the units of the comparison.

A record counts if losing it would make the level answer a later request wrongly or leave something behind
when its owner vanishes. Sizes are model bytes of one record on a 64-bit machine, the same for every path;
they are estimates (basis: guess) except where a hardware block gives them. The planes group the kinds:
control, page, vcpu, io.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from protocol.ledger import Ledger

PLANES: Mapping[str, Mapping[str, int]] = {
    "control": {
        "te_context": 1024,
        "requester": 300,
        "vm_map": 40,
        "vcpu_map": 40,
        "donated_run": 24,
        "pending_teardown": 16,
        "child": 500,
        "te_object": 56,
        "idempotency": 120,
        "lease": 32,
        "event": 64,
        "watcher": 32,
        "tombstone": 200,
        "evidence": 16384,
        "journal": 100,
    },
    "page": {"secure_page": 16, "native_page": 8},
    "vcpu": {"shadow_vcpu": 4608, "native_vcpu": 4096, "fault_reinject": 64},
    "io": {"bounce": 4096, "vmm": 300, "channel": 200, "console": 65552},
}
SIZES: Mapping[str, int] = {kind: size for plane in PLANES.values() for kind, size in plane.items()}
PLANE_OF: Mapping[str, str] = {kind: plane for plane, kinds in PLANES.items() for kind in kinds}


class Book:
    """Counts records of one holder (`l0`, `l1`, ...): how many live, the most there were, each change."""

    __slots__ = ("_ledger", "_live", "_peak", "holder")

    def __init__(self, ledger: Ledger, holder: str) -> None:
        self._ledger = ledger
        self.holder = holder
        self._live: defaultdict[str, int] = defaultdict(int)
        self._peak: defaultdict[str, int] = defaultdict(int)

    def add(self, kind: str, n: int = 1) -> None:
        if n:
            self._live[kind] += n
            self._peak[kind] = max(self._peak[kind], self._live[kind])
            self._ledger.count(("tracking_updates", kind, "create", self.holder), n)

    def change(self, kind: str, n: int = 1) -> None:
        if n:
            self._ledger.count(("tracking_updates", kind, "update", self.holder), n)

    def drop(self, kind: str, n: int = 1) -> None:
        if n:
            self._live[kind] -= n
            self._ledger.count(("tracking_updates", kind, "delete", self.holder), n)

    def forget(self) -> None:
        """The holder is gone, and its records with it: nobody had to delete them."""
        self._live.clear()

    def live(self, kind: str) -> int:
        """How many records of one kind live now."""
        return self._live[kind]

    def records(self) -> dict[str, int]:
        """What lives now. May be asked while another thread writes."""
        return {kind: n for kind, n in self._live.copy().items() if n}

    def peaks(self) -> dict[str, int]:
        return dict(self._peak)

    def reset_peaks(self) -> None:
        self._peak = defaultdict(int, self._live)


class OwnerBooks:
    """Books of one holder, one for each owner of records. The hosting service's port.

    Apart, because at most how many there were at once would depend on the order between owners.
    """

    def __init__(self, ledger: Ledger, holder: str) -> None:
        self._ledger = ledger
        self._holder = holder
        self.books: dict[int, Book] = {}

    def of(self, owner: int) -> Book:
        """The book of `owner`, made when it is first asked for."""
        if owner not in self.books:
            self.books[owner] = Book(self._ledger, self._holder)
        return self.books[owner]

    def update(self, kind: str, op: str, owner: int) -> None:
        """Note a change: `op` is create, update or delete."""
        book = self.of(owner)
        {"create": book.add, "update": book.change, "delete": book.drop}[op](kind)


def summary(book: Book) -> dict[str, dict[str, int]]:
    """Peak records and model bytes of one holder, by plane."""
    out: dict[str, dict[str, int]] = {}
    for kind, n in sorted(book.peaks().items()):
        plane = out.setdefault(PLANE_OF[kind], {"records": 0, "bytes": 0})
        plane["records"] += n
        plane["bytes"] += n * SIZES[kind]
    return out
