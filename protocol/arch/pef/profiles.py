"""Machines to choose from: what the console's contract calls profiles.

`Choices` are the sheet's section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from protocol.arch.pef.tables import LPIDS, PAGE, UNIT
from protocol.plan.fit import Limit, Room
from protocol.plan.scenario import Guests

MIB = 1 << 20
MIN_MEMORY_MIB = 8
MEMORY_MIB = 512
CPUS = 2


_AS_IS = (
    "the ultravisor as it is answers U_PERMISSION to every ultracall of a guest host, and the level below "
    "never sees one; hosted needs none"
)
_ONE_WAY = "pef has one way only"
_ALL_AT_ONCE = f"{_ONE_WAY}: all pages come in as the guest enters secure mode, none by a fault of its own"
_REFUSED = {
    (
        "fidelity",
        "bulk",
    ): "on POWER the ultravisor asks for a page and the host answers, so runs of calls are "
    "rare; there is little to fold: pages have 64 KiB, and those that are not measured take no call",
    ("strategy.donation", "bounded"): "nothing is donated on POWER",
    ("strategy.donation", "off"): "nothing is donated on POWER",
    ("strategy.pages", "merged_l1"): _ALL_AT_ONCE,
    ("strategy.pages", "merged_l0"): _ALL_AT_ONCE,
    ("strategy.pages", "prefault"): _ALL_AT_ONCE,
    ("strategy.teardown", "async"): f"{_ONE_WAY}: one call ends a guest with all its pages, and leaves none",
}


PLAN_PAGE = 4096  # a plan counts pages of this size
BESIDE = 20  # pages of 64 KiB: what a boot and the ultravisor need beside the kernel, with gaps between


def boot_bytes(kernel: int) -> int:
    """What a boot needs behind the memory that a plan speaks of; no page of the plan lies in it."""
    return (-(-kernel // PAGE) + BESIDE) * PAGE


V1, V2 = "v1", "v2"
DOCUMENTATION, FIRMWARE = "documentation", "firmware"  # Linux's words about it; what it and KVM really do


@dataclass(frozen=True, slots=True)
class Choices:
    """Where documentation and firmware differ, and which one is followed: section 9, row by row.

    The defaults are what the sheet tells to use. What is not here has one form only: slots of an LPID that is
    unknown (the firmware follows a null pointer), R3 after a share that had to ask (it is not set), and the
    page cipher.
    """

    esm_codes: str = FIRMWARE  # no kernel, no tree: U_P2, U_P3 | documentation: U_PARAMETER, U_P2
    esm_again: str = DOCUMENTATION  # UV_ESM of a secure VM: U_SUCCESS | firmware: U_RETRY
    page_out_shared: str = FIRMWARE  # UV_PAGE_OUT of a shared page: U_PARAMETER | documentation: U_SUCCESS
    inval_gpa: str = FIRMWARE  # UV_PAGE_INVAL outside slots: U_P3 | documentation: U_P2
    pate_of_svm: str = FIRMWARE  # UV_WRITE_PATE of an SVM: dw1 is taken | documentation: U_PERMISSION
    terminate_none: str = DOCUMENTATION  # without an SVM: U_PARAMETER, U_INVALID | firmware: U_SUCCESS
    slot_codes: str = FIRMWARE  # of a new slot: U_PARAMETER always | documentation: by position
    share_gfn: str = FIRMWARE  # share, unshare outside slots: U_P2 | documentation: U_PARAMETER
    share_normal: str = FIRMWARE  # from a normal VM: U_PERMISSION | documentation: U_INVALID
    random: str = DOCUMENTATION  # H_RANDOM: a number | firmware: H_FUNCTION
    start_again: str = FIRMWARE  # H_SVM_INIT_START once more: as KVM's checks go | documentation: H_STATE
    esm_pagein: str = "measured"  # what the ultravisor pages in itself | all


def _all(side: str) -> Choices:
    names = (choice.name for choice in fields(Choices) if choice.name != "esm_pagein")
    return Choices(**dict.fromkeys(names, side))


@dataclass(frozen=True, slots=True)
class Profile:
    """One machine: secure memory and device frames are those of each host."""

    name: str
    secure_mib: int
    device_frames: int = -1  # of KVM; -1: one for each page of secure memory
    choices: Choices = field(default_factory=Choices)
    lpids: int = LPIDS
    api: str = V1  # of nesting: who picks LPIDs of a guest host's VMs, it (v1) or the level below (v2)
    reflected: bool = True  # `sc 2` of a guest host goes to its hypervisor: no ultravisor does that today
    memory_mib: int = MEMORY_MIB
    cpus: int = CPUS

    @property
    def ultravisor(self) -> bool:
        return self.secure_mib > 0

    @property
    def units(self) -> int:
        """Secure memory in units of 2 MiB."""
        return self.secure_mib * MIB // UNIT

    @property
    def devices(self) -> int:
        return self.secure_mib * MIB // PAGE if self.device_frames < 0 else self.device_frames

    def below(self, hosts: int) -> Profile:
        """A machine that carries `hosts` guest hosts of this profile, each with all of it."""
        return replace(self, secure_mib=self.secure_mib * hosts, lpids=(self.lpids - 1) * hosts + 1)

    # -- what a plan of a comparison asks: nothing is donated --------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        """What one host may have."""
        return (
            Limit("guest.per_l1", self.lpids - 1, "LPIDs of a host"),
            Limit("guest.vcpus", 2048, "VCPUs of a guest"),
            Limit("guest.memory_mib", self.secure_mib, "MiB of secure memory"),
            Limit("run.level_swaps", 0, "secure pages of a guest host: POWER has none"),
        )

    def host_least_mib(self) -> tuple[int, str]:
        return MIN_MEMORY_MIB, "no machine has less"

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        """Guests in normal memory, which they leave for secure memory."""
        return guests * guest_mib + 1

    def rooms(self, guest: Guests) -> tuple[Room, ...]:
        """Secure memory is no memory of the host's: each guest reserves what its one slot touches."""
        size = guest.memory_mib * MIB + boot_bytes(guest.image_pages * PLAN_PAGE)
        return (Room(self.units, -(-size // UNIT), "units of secure memory (2 MiB each)"),)

    def refuses(self, path: str, value: str) -> str:
        """What is not built here, and strategies of other architectures: there is one way for each."""
        if path == "paths" and value == "nested" and not self.reflected:
            return _AS_IS
        return _REFUSED.get((path, value), "")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("default", 4096),
        Profile("small", 192),
        Profile("frames", 192, device_frames=16),
        Profile("none", 0),
        Profile("documentation", 192, choices=_all(DOCUMENTATION)),
        Profile("firmware", 192, choices=_all(FIRMWARE)),
        Profile("all-pages", 192, choices=Choices(esm_pagein="all")),
        Profile("guest-ids", 192, api=V2),
        Profile("as-is", 192, reflected=False),
    )
}
