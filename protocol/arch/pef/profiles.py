"""Machines to choose from: what the console's contract calls profiles.

`Choices` are the sheet's section 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.pef.tables import LPIDS, PAGE, UNIT

MIB = 1 << 20
MIN_MEMORY_MIB = 64
MEMORY_MIB = 512
CPUS = 2


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

    # -- what a plan of a comparison asks: nothing is donated ------------------------------------------------

    @property
    def max_configs(self) -> int:
        return LPIDS - 1

    @property
    def max_cpu_id(self) -> int:
        return 2047

    @property
    def max_storage(self) -> int:
        return self.secure_mib * MIB

    @property
    def base_len(self) -> int:
        return 0

    @property
    def conf_base_len(self) -> int:
        return 0

    @property
    def cpu_len(self) -> int:
        return 0

    def variable_len(self, guest_len: int) -> int:
        return 0


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("default", 4096),
        Profile("small", 192),
        Profile("frames", 192, device_frames=16),
        Profile("none", 0),
    )
}
