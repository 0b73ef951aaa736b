"""Sizes and limits of an emulated machine: the console's profiles.

All have firmware 1.55 build 25, one socket, SMT on, the C-bit at 51.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.plan.fit import Limit

MIB = 1 << 20
API_MAJOR, API_MINOR, BUILD = 1, 55, 25
# Security version numbers: boot loader, TEE, four reserved, SNP, microcode. No byte is 0xFF.
TCB = bytes((4, 0, 0, 0, 0, 0, 24, 85))
ASID_LIMIT = 2048  # ASIDs for which the head of the RMP has a counter


_ONE_WAY = "sev has one way to do that"
_OTHER_FRAMES = "not built: other frames would have to come under a host while its old ones are a guest's"
_REFUSED = {
    ("strategy.handles", "mapped"): "the handle of an SNP guest is the address of its context page",
    ("strategy.donation", "bounded"): f"{_ONE_WAY}: a page that is lent is lent whole",
    ("strategy.donation", "off"): f"{_ONE_WAY}: a page that is lent is lent whole",
    ("strategy.pages", "merged_l0"): "no interface tells a host that RMPUPDATE is done for it",
    ("strategy.teardown", "async"): _OTHER_FRAMES,
}


MSR, INSTRUCTION = "msr", "instruction"  # the second is no hardware's: neither can be intercepted


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
    kind: str = "snp"  # of the guests in a comparison
    trap: str = MSR  # how RMPUPDATE and PSMASH of a guest host come to the level below
    snp_only: bool = False  # the platform of a guest host has no legacy guests
    leftover: int = 0  # what a refusal of rule 1 of 2.1 is given beside its status
    hole: bool = False  # a store of a guest host to an assigned page: #PF without the linear address (7.1)

    @property
    def realism(self) -> str:
        """How real nesting with this profile is, where it is not what the architecture says."""
        return "hypothetical" if self.trap == INSTRUCTION else ""

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

    def with_own(self, hosts: int, one: Profile) -> Profile:
        """The same with more ASIDs, behind those that it has: as many as `hosts` of profile `one` have."""
        es, sev = (one.min_sev_asid - 1) * hosts, (one.asids - one.min_sev_asid + 1) * hosts
        return replace(
            self,
            asids=self.asids + es + sev,
            min_sev_asid=self.min_sev_asid + es,
            asid_limit=max(self.asid_limit, self.asids + es + sev + 1),
        )

    def of_kind(self, kind: str) -> Profile:
        """For comparisons of guests of this kind."""
        return replace(self, kind=kind)

    # What a plan of a comparison asks.

    def limits(self) -> tuple[Limit, ...]:
        """What one host may have.

        The last is KVM's limit on VCPUs, not the firmware's: it knows VMSAs only.
        """
        sev = self.kind == "sev"
        bound = self.asids - self.min_sev_asid + 1 if sev else self.min_sev_asid - 1
        which = "SEV guests" if sev else "SNP and ES guests"
        return (
            Limit("guest.per_l1", bound, f"{which} bound at a time"),
            Limit("guest.memory_mib", self.memory_mib, "MiB of memory of the host"),
            Limit("guest.vcpus", 512, "VCPUs of a guest"),
            Limit("run.level_swaps", 0, "pages that a level below swaps: not built for AMD guests"),
        )

    def host_least_mib(self) -> tuple[int, str]:
        """The trusted memory region, once the RMP is live."""
        return 3, "2 MiB are the firmware's once SNP is on"

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        """Guests with context and response page and a VMSA for each VCPU, and the trusted memory region."""
        each = guest_mib * MIB + (2 + vcpus) * 4096
        return -(-guests * each // MIB) + 3

    def refuses(self, path: str, value: str) -> str:
        """What is not built here, and strategies of other architectures: there is one way for each."""
        if path == "strategy.pages" and value == "merged_l1" and self.kind != "snp":
            return "a legacy guest asks for no page: it takes one fault, and there is nothing to merge"
        return _REFUSED.get((path, value), "")


PROFILES = {
    "small": Profile("small", 512, 4, 15, 8),
    "scattered": Profile("scattered", 512, 4, 15, 8, scattered=True),
    "owned": Profile("owned", 512, 4, 15, 8, owned=True),
    "genoa": Profile("genoa", 8192, 8, 1006, 100),
    # What a public cloud offers (7.1): trapping MSRs, SNP alone, 64 ASIDs, and the hole.
    "azure": Profile("azure", 512, 4, 64, 65, snp_only=True, hole=True),
    # Firmware 1.55.25 to the letter: INVALID_PAGE_STATE for a command buffer has 64 added (2.1, rule 4).
    "leftover": Profile("leftover", 512, 4, 15, 8, leftover=64),
    # The same two instructions, trapped as they are: no hardware does that.
    "hypothetical-trap": Profile("hypothetical-trap", 512, 4, 15, 8, trap=INSTRUCTION),
}
