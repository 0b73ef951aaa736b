"""Sizes and limits of an emulated machine: the console's profiles.

All have firmware 1.55 build 25, one socket, SMT on, the C-bit at 51.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 1 << 20
API_MAJOR, API_MINOR, BUILD = 1, 55, 25
# Security version numbers: boot loader, TEE, four reserved, SNP, microcode. No byte is 0xFF.
TCB = bytes((4, 0, 0, 0, 0, 0, 24, 85))
ASID_LIMIT = 2048  # ASIDs for which the head of the RMP has a counter


@dataclass(frozen=True, slots=True)
class Profile:
    """`asids` and `min_sev_asid` as CPUID 0x8000001F shows them in ECX and EDX."""

    name: str
    memory_mib: int
    cpus: int
    asids: int
    min_sev_asid: int
    scattered: bool = False
    owned: bool = False
    handles: int = 1024
    asid_limit: int = ASID_LIMIT

    def below(self, hosts: int) -> Profile:
        """The machine that carries `hosts` guest hosts with the full limits of this profile each."""
        es, sev = (self.min_sev_asid - 1) * hosts, (self.asids - self.min_sev_asid + 1) * hosts
        return replace(
            self,
            asids=es + sev,
            min_sev_asid=es + 1,
            handles=self.handles * hosts,
            asid_limit=max(ASID_LIMIT, es + sev + 1),
            owned=False,
        )

    # What the plan asks of every architecture's profile: what a host donates, in bytes, and how much there
    # is.

    @property
    def max_configs(self) -> int:
        """SNP and ES guests that may be bound at a time."""
        return self.min_sev_asid - 1

    @property
    def max_cpu_id(self) -> int:
        """KVM's limit on VCPUs, not the firmware's: it knows VMSAs only."""
        return 511

    @property
    def max_storage(self) -> int:
        return self.memory_mib * MIB

    @property
    def base_len(self) -> int:
        """The trusted memory region, once the RMP is live."""
        return 2 * MIB

    @property
    def conf_base_len(self) -> int:
        """The guest context page and the response page."""
        return 2 * 4096

    @property
    def cpu_len(self) -> int:
        """The VMSA."""
        return 4096

    def variable_len(self, guest_len: int) -> int:
        """Nothing is donated by size of the guest."""
        return 0


PROFILES = {
    "small": Profile("small", 512, 4, 15, 8),
    "scattered": Profile("scattered", 512, 4, 15, 8, scattered=True),
    "owned": Profile("owned", 512, 4, 15, 8, owned=True),
    "genoa": Profile("genoa", 8192, 8, 1006, 100),
}
