"""What a hypervisor keeps for each VM of a guest host: section 8 of the fact sheet.

A guest host picks LPIDs in its own table; the VM runs under a *shadow LPID* that only the level below
knows, with a *shadow table* from its guest addresses to real addresses of that level. Everything here is
filled by the guest host's calls and by the answers from below.
"""

from __future__ import annotations

import operator
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from protocol.arch.pef.radix import Tree
from protocol.arch.pef.tables import PAGE
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT

SMALL_PAGES = PAGE >> PAGE_SHIFT


class TableMemory:
    """Memory for tables from a hypervisor's pool, cut into pieces, freed as a whole."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.pages: list[int] = []  # addresses
        self._at = self._end = 0

    def take(self, size: int) -> tuple[int, bool]:
        """Address of `size` bytes, aligned to it, and whether a fresh page was begun. Raises OutOfFrames."""
        start = -(-self._at // size) * size
        fresh = start + size > self._end
        if fresh:
            start = self._pool.take_run(SMALL_PAGES) << PAGE_SHIFT
            self.pages.append(start)
            self._end = start + PAGE
        self._at = start + size
        return start, fresh

    def give_all(self) -> None:
        for page in self.pages:
            self._pool.give_run(page >> PAGE_SHIFT, SMALL_PAGES)
        self.pages.clear()
        self._at = self._end = 0


class Lpids:
    """Shadow LPIDs that a level has for the guest hosts on one seat, whoever sits there."""

    __slots__ = ("_free", "share")

    def __init__(self, lpids: Iterable[int]) -> None:
        self._free = sorted(lpids, reverse=True)
        self.share = len(self._free)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def given(self) -> int:
        return self.share - len(self._free)

    def take(self) -> int:
        """The lowest one. There must be one that is free."""
        return self._free.pop()

    def give(self, lpid: int) -> None:
        """The lowest one is the next, as where a host picks."""
        insort(self._free, lpid, key=operator.neg)


@dataclass(slots=True)
class Reflection:
    """A reflection that is open: what it was about, and the PIDR that has to come back."""

    vcpu: int
    pidr: int
    hypercall: int = 0
    last: bool = False  # `ibm,os-term`: its return would end the machine


@dataclass(slots=True)
class Record:
    """One VM. `entry` is the guest host's own partition table entry, kept as data."""

    lpid: int
    shadow: int
    tables: TableMemory
    tree: Tree
    entry: tuple[int, int] = (0, 0)
    svm: bool = False  # the ultravisor has an object for it
    secure: bool = False  # and that has come through its transition
    lives: int = 0  # SVMs that have ended under it
    ending: int = 0  # calls under way that end one
    written: bool = False  # the level below was given an entry
    gone: bool = False  # it has no entry any more: the level below was told
    busy: int = 0  # calls and vcpus under way below: until they are back its shadow LPID is nobody else's
    returning: int = 0  # UV_RETURNs under way into it
    slots: dict[int, int] = field(default_factory=dict)  # slot -> units
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot -> its first GFN, and its end
    open: dict[int, Reflection] = field(default_factory=dict)  # by cookie
    mapped: dict[int, int] = field(default_factory=dict)  # GFN -> guest host's page, in the shadow table
    bound: dict[int, int] = field(default_factory=dict)  # GFN -> guest host's page that the ultravisor uses
    shared: set[int] = field(default_factory=set)  # GFNs for which a page to share was asked
    lost: set[int] = field(default_factory=set)  # bound GFNs whose frame moved below


@dataclass(frozen=True, slots=True)
class Held:
    """LPIDs below that are nobody else's: calls and VCPUs that name them are under way."""

    records: Mapping[int, Record]

    def held(self) -> Iterator[str]:
        for record in self.records.values():
            if record.busy:
                yield f"LPID {record.shadow} below, of VM {record.lpid}: {record.busy} under way"
