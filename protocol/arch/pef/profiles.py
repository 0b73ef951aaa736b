"""Machines to choose from: what the console's contract calls profiles.

`Choices` are the sheet's section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from protocol.arch.pef.tables import LPIDS, PAGE, UNIT
from protocol.plan.fit import Limit

MIB = 1 << 20
MIN_MEMORY_MIB = 8
MEMORY_MIB = 512
CPUS = 2


_ONE_WAY = "pef has one way only"
_REFUSED = {
    ("fidelity", "bulk"): "pef has no runs of equal calls in one step yet",
    ("transport", "packed"): "pef has no form of its messages on the wire yet",
    ("paths", "mixed"): "pef has no software of L0's own beside its guest hosts yet",
    ("strategy.donation", "bounded"): "nothing is donated on POWER",
    ("strategy.donation", "off"): "nothing is donated on POWER",
    ("strategy.pages", "merged_l1"): f"{_ONE_WAY}: page by page, as the ultravisor asks",
    ("strategy.pages", "merged_l0"): f"{_ONE_WAY}: page by page, as the ultravisor asks",
    ("strategy.pages", "prefault"): f"{_ONE_WAY}: page by page, as the ultravisor asks",
    ("strategy.teardown", "async"): f"{_ONE_WAY}: everything is taken back before the host comes again",
}


@dataclass(frozen=True, slots=True)
class Choices:
    """Where documentation and firmware differ, and which one is followed."""

    esm_again: str = "documentation"  # UV_ESM of a secure VM: U_SUCCESS | firmware: U_RETRY
    page_out_shared: str = "firmware"  # UV_PAGE_OUT of a shared page: U_PARAMETER | documentation: U_SUCCESS
    esm_pagein: str = "measured"  # what the ultravisor pages in itself | all


@dataclass(frozen=True, slots=True)
class Profile:
    """One machine: secure memory and device frames are those of each host."""

    name: str
    secure_mib: int
    device_frames: int = -1  # of KVM; -1: one for each page of secure memory
    choices: Choices = field(default_factory=Choices)
    lpids: int = LPIDS

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

    def refuses(self, path: str, value: str) -> str:
        """What is not built here, and strategies of other architectures: there is one way for each."""
        return _REFUSED.get((path, value), "")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("default", 4096),
        Profile("small", 192),
        Profile("frames", 192, device_frames=16),
        Profile("none", 0),
    )
}
