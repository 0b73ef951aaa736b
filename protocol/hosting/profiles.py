"""Where a child's CPUs and memory come from, and what the charge is in each case.

  peer    from L0's own pool: what was asked is what is charged, in whole units
  nitro   carved from the requester: whole cores, huge pages, one NUMA node, at most four children; refused in
          the order in which the driver of Nitro Enclaves refuses (fact sheet hosting-interface 2.2)
  l1vh    from the host, but the requester first deposits the pages that the hypervisor needs for its records,
          twice over, so that a restart of the hypervisor cannot be held up (1.3)

A pool belongs to one requester. It hands out whole shares or refuses and hands out nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.machine import Spec

MIB = 1 << 20
NITRO_CHILDREN = 4
NITRO_LEAST_MIB = 64
NITRO_UNIT_MIB = 2
NITRO_REGIONS = 1024  # the device's limit here: a choice of this emulator
IMAGE_SHARE = 4  # an image takes at most a quarter of the memory
RECORD_PAGES = 16  # that the hypervisor needs for a guest: a guess
PAGES_PER_VCPU = 8  # and for each of its CPUs: a guess
PAGE_MIB = 256  # MiB of guest memory that one page of records covers: 8 bytes for a page: a guess


class Share(NamedTuple):
    """What a child got: memory as charged, and what exactly, so that a later life can put it back."""

    memory_mib: int
    allotment: Mapping[str, Any] = {}


class Pool(Protocol):
    """What one requester's children are made of."""

    def take(self, child: bytes, spec: Spec, image_bytes: int) -> Share:
        """Hand out a share. Raises Refusal, and then nothing was handed out."""
        ...

    def put_back(self, child: bytes, allotment: Mapping[str, Any]) -> None:
        """Take note of what a child of a former life has."""
        ...

    def give_back(self, child: bytes) -> None: ...

    def body(self) -> Mapping[str, Mapping[str, object]]:
        """Dimensions of `quota.get` that only this profile has."""
        ...

    def most(self) -> Mapping[str, int]:
        """Bounds of this profile in dimensions that all have; left out: none of its own."""
        ...


@dataclass(slots=True)
class Peer:
    """L0's own pool: bounded by quotas alone."""

    unit_mib: int = 1

    def take(self, child: bytes, spec: Spec, image_bytes: int) -> Share:
        return Share(-(-spec.memory_mib // self.unit_mib) * self.unit_mib)

    def put_back(self, child: bytes, allotment: Mapping[str, Any]) -> None:
        pass

    def give_back(self, child: bytes) -> None:
        pass

    def body(self) -> Mapping[str, Mapping[str, object]]:
        return {}

    def most(self) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True, slots=True)
class Topology:
    """A guest host as its enclave driver sees it: cores of its node, and free huge pages by size in MiB."""

    cores: int = 8
    threads: int = 2  # of a core
    pages: Mapping[int, int] = field(default_factory=lambda: {1024: 4, 2: 512})


@dataclass(slots=True)
class Nitro:
    """The requester's own CPUs and memory. Core 0 is never given away."""

    topology: Topology = field(default_factory=Topology)
    _cores: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    _pages: dict[bytes, dict[int, int]] = field(default_factory=dict)

    def take(self, child: bytes, spec: Spec, image_bytes: int) -> Share:
        threads = self.topology.threads
        free = self.free_cores()
        # CREATE_VM
        if len(self._cores) >= NITRO_CHILDREN:
            raise self._no("children", NITRO_CHILDREN, len(self._cores), 1)
        if not free:
            raise _short("vcpus", "272: no CPU available in the pool")
        # SET_USER_MEMORY_REGION, once for each page: largest first
        if spec.memory_mib % NITRO_UNIT_MIB:
            raise _wrong(f"259: memory comes in multiples of {NITRO_UNIT_MIB} MiB")
        pages = self._pages_for(spec.memory_mib)
        if sum(pages.values()) > NITRO_REGIONS:
            raise _short("regions", f"265: more than {NITRO_REGIONS} regions")
        if image_bytes * IMAGE_SHARE > spec.memory_mib * MIB:
            raise _wrong(f"an image takes at most 1/{IMAGE_SHARE} of the memory")
        # ADD_VCPU
        wanted = -(-spec.vcpus // threads)
        if wanted > len(free):
            raise _short("vcpus", "272: no CPU available in the pool")
        # START_ENCLAVE
        if spec.memory_mib < NITRO_LEAST_MIB:
            raise _wrong(f"268: at least {NITRO_LEAST_MIB} MiB")
        if spec.vcpus % threads:
            raise _wrong(f"269: whole cores only, of {threads} CPUs each")
        self._cores[child], self._pages[child] = free[:wanted], pages
        allotment = {"cores": list(free[:wanted]), "pages": [[size, n] for size, n in pages.items()]}
        return Share(sum(size * n for size, n in pages.items()), allotment)

    def put_back(self, child: bytes, allotment: Mapping[str, Any]) -> None:
        self._cores[child] = tuple(allotment["cores"])
        self._pages[child] = dict(allotment["pages"])

    def give_back(self, child: bytes) -> None:
        self._cores.pop(child, None)
        self._pages.pop(child, None)

    def free_cores(self) -> tuple[int, ...]:
        used = {core for cores in self._cores.values() for core in cores}
        return tuple(core for core in range(1, self.topology.cores) if core not in used)

    def free_pages(self) -> dict[int, int]:
        """Huge pages that nobody has, by size in MiB, the largest first."""
        used: dict[int, int] = {}
        for pages in self._pages.values():
            for size, n in pages.items():
                used[size] = used.get(size, 0) + n
        return {size: n - used.get(size, 0) for size, n in sorted(self.topology.pages.items(), reverse=True)}

    def _pages_for(self, mib: int) -> dict[int, int]:
        """Largest pages first, as many as fit; the rest from the smallest that covers it."""
        free, taken, left = self.free_pages(), dict[int, int](), mib
        for size, n in free.items():
            whole = min(n, left // size)
            if whole:
                taken[size] = whole
                left -= whole * size
        for size, n in sorted(free.items()):
            spare = n - taken.get(size, 0)
            if left > 0 and spare > 0:
                more = min(spare, -(-left // size))
                taken[size] = taken.get(size, 0) + more
                left -= more * size
        if left > 0:
            raise _short("huge_pages", f"27: {mib} MiB are not there in huge pages")
        return taken

    def body(self) -> Mapping[str, Mapping[str, object]]:
        cores = self.topology.cores - 1
        taken = sum(len(cores) for cores in self._cores.values())
        rows: dict[str, Mapping[str, object]] = {"cores": _row(cores, taken, "core", taken)}
        for size, free in self.free_pages().items():
            n = self.topology.pages[size]
            rows[f"pages_{size}_mib"] = _row(n, n - free, f"{size} MiB page", n - free)
        return rows

    def most(self) -> Mapping[str, int]:
        topology = self.topology
        return {
            "children": NITRO_CHILDREN,
            "vcpus": (topology.cores - 1) * topology.threads,
            "memory_mib": sum(size * n for size, n in topology.pages.items()),
        }

    @staticmethod
    def _no(dimension: str, limit: int, charged: int, asked: int) -> Refusal:
        detail = {"dimension": dimension, "limit": limit, "charged": charged, "asked": asked}
        return Refusal(Code.QUOTA, f"{dimension}: {charged} + {asked} of {limit}", detail=detail)


@dataclass(slots=True)
class Deposited:
    """Pages that the requester deposited, for the hypervisor's records of its children."""

    unit_mib: int = 1
    deposited: int = 0
    _used: dict[bytes, int] = field(default_factory=dict)

    @staticmethod
    def needed(spec: Spec) -> int:
        """Pages for the records of one guest, twice over."""
        return 2 * (RECORD_PAGES + PAGES_PER_VCPU * spec.vcpus + -(-spec.memory_mib // PAGE_MIB))

    def take(self, child: bytes, spec: Spec, image_bytes: int) -> Share:
        needed, free = self.needed(spec), self.deposited - sum(self._used.values())
        if needed > free:
            short = needed - free
            raise Refusal(
                Code.NEED_MEMORY, f"deposit {short} pages", stage="reserve", detail={"pages": short}
            )
        self._used[child] = needed
        return Peer(self.unit_mib).take(child, spec, image_bytes)._replace(allotment={"pages": needed})

    def put_back(self, child: bytes, allotment: Mapping[str, Any]) -> None:
        self._used[child] = allotment["pages"]

    def give_back(self, child: bytes) -> None:
        self._used.pop(child, None)

    def deposit(self, pages: int) -> None:
        """Take `pages` from the requester, or give back so many that are free (a negative number)."""
        free = self.deposited - sum(self._used.values())
        if free + pages < 0:
            detail = {"dimension": "donated_pages", "limit": free, "charged": 0, "asked": -pages}
            raise Refusal(Code.QUOTA, f"only {free} pages are free", detail=detail)
        self.deposited += pages

    def body(self) -> Mapping[str, Mapping[str, object]]:
        used = sum(self._used.values())
        return {"donated_pages": _row(self.deposited, used, "page", used // 2)}

    def most(self) -> Mapping[str, int]:
        return {}


PROFILES = ("peer", "nitro", "l1vh")


def pool(profile: str, unit_mib: int, topology: Topology) -> Pool:
    """Return a requester's pool under `profile`, one of PROFILES."""
    if profile == "nitro":
        return Nitro(topology)
    if profile == "l1vh":
        return Deposited(unit_mib)
    return Peer(unit_mib)


def _row(limit: int, charged: int, unit: str, requested: int) -> Mapping[str, object]:
    return {
        "limit": limit,
        "charged": charged,
        "free": limit - charged,
        "unit": unit,
        "requested": requested,
    }


def _short(dimension: str, why: str) -> Refusal:
    return Refusal(Code.NO_RESOURCE, why, stage="reserve", detail={"dimension": dimension})


def _wrong(why: str) -> Refusal:
    return Refusal(Code.BAD_ARGUMENT, why, stage="reserve")
