"""Sizes and limits of an emulated machine: what Query Ultravisor Information reports.

`full` has the values of section 4 of the fact sheet, `small` keeps tests fast, `talk2022` is `small` with the
calls that firmware had when the talk was given, `partial` is `small` with an Ultravisor that does long calls
in pieces. Values without a public source are guesses and marked so in `GUESSED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from protocol.plan.fit import Limit

MIB = 1 << 20

GUESSED = ("conf_base_len", "conf_virtual_len", "conf_variable_len", "cpu_len", "pages_per_piece")
FEATURES = 0xFC00_0000_0000_0000
FEATURES_FENCED = 0x4C00_0000_0000_0000  # bits 1, 4, 5: they reach through to hardware; a guest host has none
PCF = 0x3000_50E3
DUMP_STORAGE_LEN = 0x1000  # bytes of storage state for each MiB of a guest
DUMP_FINALIZE_LEN = 0x1000
QUERY_LEN = 0x120  # of firmware of 2024; it was 0x100 in 2022
ADD_SECRET = 0x1031
CALLS_AFTER_2022 = frozenset(
    {0x0002, ADD_SECRET, 0x1033, 0x1034, 0x1035}
)  # Query Keys, and four about secrets
ATTESTATION_FLAGS = 0x2000_0000_0000_0000  # the image's key alone; a guest's view
MAX_ASSOCIATIONS = 64  # guess
MAX_RETRIEVABLE = 64  # guess
SCF = 0x6000_0000_0000_0000  # bits 1 and 2, the only ones that are named anywhere


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """Lengths in bytes, limits as the query reports them; `absent` has the codes of calls not installed."""

    name: str
    memory_mib: int
    cpus: int
    base_len: int
    conf_base_len: int
    conf_virtual_len: int
    conf_variable_len: int  # per MiB of guest storage
    cpu_len: int
    max_configs: int
    max_cpu_id: int
    max_storage: int
    features: int = FEATURES
    query_len: int = QUERY_LEN
    absent: frozenset[int] = frozenset()
    pages_per_piece: int = 0  # of work of a call that is done in pieces (cc 3); 0: none is

    def installed(self, calls: Mapping[int, T]) -> dict[int, T]:
        """Those of `calls` (by code) that this firmware has."""
        return {code: spec for code, spec in calls.items() if code not in self.absent}

    def variable_len(self, guest_len: int) -> int:
        """Bytes of variable storage that a configuration of `guest_len` bytes donates, in whole pages."""
        mib = -(-guest_len // MIB)
        return (self.conf_virtual_len + self.conf_variable_len * mib + 4095) & ~4095

    # -- what a plan of a comparison asks ----------------------------------------------------------------

    def limits(self) -> tuple[Limit, ...]:
        """What one host may have, and one guest."""
        secrets = 0 if ADD_SECRET in self.absent else MAX_RETRIEVABLE
        return (
            Limit("run.secrets", secrets, "secrets of a guest that it may retrieve"),
            Limit("guest.per_l1", self.max_configs, "secure configurations of a host"),
            Limit("guest.vcpus", self.max_cpu_id + 1, f"CPU numbers 0 to {self.max_cpu_id}"),
            Limit("guest.memory_mib", self.max_storage // MIB, "MiB of storage of a guest"),
        )

    def host_least_mib(self) -> tuple[int, str]:
        """The Ultravisor's base storage must not lie below 2 GiB."""
        return 2048 + -(-self.base_len // MIB), "the host's own secure storage lies above 2 GiB"

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        """Guests and what is donated for them and the host, beside the kernel's own first MiB."""
        size = guest_mib * MIB
        each = size + self.conf_base_len + self.variable_len(size) + vcpus * self.cpu_len
        return -(-(guests * each + self.base_len + MIB) // MIB)

    def refuses(self, path: str, value: str) -> str:
        """Every strategy can be had."""
        return ""

    # -- profiles of other levels ------------------------------------------------------------------------

    def for_guest_host(self, memory_bytes: int) -> Profile:
        """What a guest host with `memory_bytes` may see: fenced features, no more storage than it has."""
        return replace(
            self,
            features=self.features & ~FEATURES_FENCED,
            max_storage=min(self.max_storage, -(-memory_bytes // MIB) * MIB),
        )

    def below(self, hosts: int, memory_bytes: int) -> Profile:
        """The machine that carries `hosts` guest hosts with the full limits of this profile each."""
        return replace(
            self,
            max_configs=min(self.max_configs * hosts, 0xFFFF_FFFF),
            max_storage=max(self.max_storage, memory_bytes),
        )


PROFILES = {
    "small": Profile(
        name="small",
        memory_mib=2200,
        cpus=3,
        base_len=0x200000,
        conf_base_len=0x10000,
        conf_virtual_len=0x2000,
        conf_variable_len=0x1000,
        cpu_len=0x1000,
        max_configs=8,
        max_cpu_id=7,
        max_storage=0x4_0000_0000,
    ),
    "full": Profile(
        name="full",
        memory_mib=4096,
        cpus=3,
        base_len=0x6200000,
        conf_base_len=0x100000,
        conf_virtual_len=0x2000,
        conf_variable_len=0x1000,
        cpu_len=0x1000,
        max_configs=8388607,
        max_cpu_id=256,
        max_storage=0x8000_0000_0000,
    ),
}
PROFILES["talk2022"] = replace(PROFILES["small"], name="talk2022", query_len=0x100, absent=CALLS_AFTER_2022)
PROFILES["partial"] = replace(PROFILES["small"], name="partial", pages_per_piece=8)
