"""Machines to choose from: what the console's contract calls a profile.

Sizes of control structures are those of module 1.5.01; the memory map is ours: the first MiB is not
convertible, and SEAMRR lies at 32 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from protocol.calls import CallSpec, Category
from protocol.plan.fit import Limit

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096

MAX_PA = 52  # the module's bound of addresses, whatever the processor's
TDCS_PAGES = 6
TDCS_LIMIT = 9
TDVPS_PAGES = 6
TDVPS_LIMIT = 15
TDCS_PER_L2 = 1
TDVPS_PER_L2 = 3
MAX_L2_VMS = 3
MAX_CMRS = 32
MAX_TDMRS = 64
MAX_RESERVED = 16
PAMT_ENTRY = 16
MAX_PACKAGES = 8
MIN_MEMORY_MIB = 128

LOW_MEMORY = MIB  # below it nothing is convertible, and `alloc` gives nothing out
SEAMRR_BASE = 32 * MIB
SEAMRR_SIZE = 32 * MIB

MAX_HOST_CPUS = 64
PAMT_MIB = 5  # of a GiB: four, and less than one for its upper levels

_ONE_WAY = "tdx has one way to do that"
_OTHER_FRAMES = "not built: other frames would have to come under a host while its old ones are a guest's"
_REFUSED = {
    ("strategy.handles", "mapped"): "the handle of a TD is the address of its root page",
    ("strategy.donation", "bounded"): f"{_ONE_WAY}: a TD's page is the very page below, too",
    ("strategy.donation", "off"): f"{_ONE_WAY}: a TD's page is the very page below, too",
    ("strategy.pages", "merged_l1"): "a page of a TD takes one fault, not two: there is nothing to merge",
    ("strategy.pages", "merged_l0"): "which frame a page gets is known with the host's PAGE.AUG, not before",
    ("strategy.teardown", "async"): _OTHER_FRAMES,
}

# TDX_FEATURES0, section 7.9
TD_MIGRATION, TD_PRESERVING, SERVICE_TD = 1 << 0, 1 << 1, 1 << 2
NO_RBP_MOD, TOPOLOGY_ENUM = 1 << 18, 1 << 20
FEATURES_1_5_01 = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 17, 18, 19))


class Range(NamedTuple):
    """Physical addresses [base, base + size)."""

    base: int
    size: int

    @property
    def end(self) -> int:
        return self.base + self.size


@dataclass(frozen=True, slots=True)
class Profile:
    """One machine. `migration`: section 2.6 is offered; `linux`: the deltas of section 7.9."""

    name: str
    memory_mib: int
    cpus: int
    packages: int = 1
    mktme_keyids: int = 15
    tdx_keyids: int = 48
    hkid_bits: int = 6
    hkid_shift: int = 46
    maxphyaddr: int = 52
    migration: bool = False
    linux: bool = False
    own_keyids: int = 0  # of a level below: for TDs of its own, behind those of its guest hosts

    @property
    def features(self) -> int:
        """TDX_FEATURES0 as this host sees it."""
        offered = FEATURES_1_5_01 if self.migration else FEATURES_1_5_01 & ~(TD_MIGRATION | SERVICE_TD)
        return offered | TOPOLOGY_ENUM if self.linux else offered

    @property
    def first_private(self) -> int:
        return self.mktme_keyids + 1

    def is_private(self, hkid: int) -> bool:
        return self.first_private <= hkid < self.first_private + self.tdx_keyids

    def hkid_of(self, address: int) -> int:
        return address >> self.hkid_shift & ((1 << self.hkid_bits) - 1)

    def without_hkid(self, address: int) -> int:
        return address & ~(((1 << self.hkid_bits) - 1) << self.hkid_shift)

    def offered(self, calls: Mapping[int, CallSpec]) -> dict[int, CallSpec]:
        """The rows of the leaves that a host has, by number."""
        return {
            spec.code: spec
            for spec in calls.values()
            if spec.for_host() and (self.migration or spec.category is not Category.LIFECYCLE)
        }

    def offered_to_guests(self, calls: Mapping[int, CallSpec]) -> dict[int, CallSpec]:
        """The rows of the leaves that a guest has, by number; of service TDs only where these are offered."""
        return {
            spec.code & 0xFFFF: spec
            for spec in calls.values()
            if spec.for_guest() and (self.migration or not spec.title.startswith("TDG.SERVTD."))
        }

    def below(self, hosts: int, memory_mib: int, cpus: int) -> Profile:
        """The machine that carries `hosts` guest hosts of this profile: KeyIDs for all TDs, and one more."""
        wider = self._with_keyids(hosts * self.tdx_keyids + 1)
        return replace(wider, memory_mib=memory_mib, cpus=cpus, own_keyids=0)

    def with_own(self, keyids: int) -> Profile:
        """The same with so many KeyIDs for TDs of its own."""
        return replace(self._with_keyids(self.tdx_keyids + keyids), own_keyids=keyids)

    def _with_keyids(self, keyids: int) -> Profile:
        bits = (self.mktme_keyids + keyids).bit_length()
        return replace(self, tdx_keyids=keyids, hkid_bits=bits, hkid_shift=self.maxphyaddr - bits)

    # -- what a plan of a comparison asks ----------------------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        """What one host may have. One KeyID is the module's own."""
        return (
            Limit("guest.per_l1", self.tdx_keyids - 1, "private KeyIDs for TDs of a host"),
            Limit("guest.vcpus", 0xFFFF, "VCPUs of a TD"),
            Limit("guest.memory_mib", (1 << 47) // MIB, "MiB of private memory of a TD"),
            Limit("l1.cpus", MAX_HOST_CPUS, "CPUs of a host, one for each package", least=self.packages),
            Limit("run.level_swaps", 0, "pages that a level below swaps: not built for TDs"),
        )

    def host_least_mib(self) -> tuple[int, str]:
        """The first MiB, SEAMRR, and the tables of a GiB."""
        return MIN_MEMORY_MIB, "the module has its own range at 32 MiB, and its tables lie behind it"

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        """TDs with control pages and EPT tables (densely used memory, section 6), and what lies below them.

        A host of a plan uses no memory below the end of its PAMT, which has 5 MiB for each GiB begun.
        """
        size = guest_mib * MIB
        tables = -(-size // (2 * MIB)) + -(-size // GIB) + 1
        own = 1 + TDCS_PAGES + 2 * tables + 2 + vcpus * TDVPS_PAGES
        needed = -(-guests * (size + own * PAGE) // MIB) + (SEAMRR_BASE + SEAMRR_SIZE) // MIB + 1
        gibs = -(-needed // (1024 - PAMT_MIB))
        return needed + gibs * PAMT_MIB

    def refuses(self, path: str, value: str) -> str:
        """What is not built here, and strategies of other architectures: there is one way for each."""
        return _REFUSED.get((path, value), "")


def seamrr_of(memory: int) -> Range:
    """The module's own range in a machine of `memory` bytes."""
    return Range(SEAMRR_BASE, SEAMRR_SIZE)


def cmrs_of(memory: int) -> tuple[Range, ...]:
    """Convertible memory of a machine of `memory` bytes, ascending."""
    seamrr = seamrr_of(memory)
    return Range(LOW_MEMORY, seamrr.base - LOW_MEMORY), Range(seamrr.end, memory - seamrr.end)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("small", memory_mib=4096, cpus=2),
        Profile("small-2p", memory_mib=4096, cpus=2, packages=2),
        Profile("migration", memory_mib=4096, cpus=2, migration=True),
        Profile("documented", memory_mib=65536, cpus=8, packages=2),
        Profile("linux", memory_mib=4096, cpus=2, linux=True),
    )
}
