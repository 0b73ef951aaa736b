"""Structures in memory, bytes to values: sections 2.1 to 2.3 and 2.7 of the fact sheet. Everything is
little-endian.

A structure is packed and unpacked here and nowhere else. Reserved bytes are kept, so that a check can see
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from protocol.arch.tdx.profiles import MAX_CMRS, MAX_RESERVED, Range

U64 = Struct("<Q")
U64_MASK = (1 << 64) - 1

# -- GPA_LEVEL operand (section 2.1) ------------------------------------------

LEVEL_4K, LEVEL_2M, LEVEL_1G, LEVEL_512G, LEVEL_256T = range(5)


class GpaLevel(NamedTuple):
    """A guest address and the level of the entry that is meant."""

    gpa: int
    level: int
    reserved: int

    @classmethod
    def unpack(cls, raw: int) -> GpaLevel:
        return cls(raw & 0x000F_FFFF_FFFF_F000, raw & 7, raw & 0xFFF0_0000_0000_0FF8)

    def aligned(self) -> bool:
        return not self.gpa & ((1 << (12 + 9 * self.level)) - 1)


# -- TDMR_INFO (section 2.2)
# --------------------------------------------------------------------------------

TDMR_INFO_SIZE = 512
_TDMR = Struct("<64Q")


class TdmrInfo(NamedTuple):
    """A TDMR as a host describes it; reserved areas hold offsets."""

    base: int
    size: int
    pamt: tuple[Range, Range, Range]  # 1G, 2M, 4K
    reserved: tuple[Range, ...]

    @classmethod
    def unpack(cls, data: bytes) -> TdmrInfo:
        words = _TDMR.unpack(data)
        pairs = [Range(words[i], words[i + 1]) for i in range(0, 8 + 2 * MAX_RESERVED, 2)]
        return cls(*pairs[0], (pairs[1], pairs[2], pairs[3]), tuple(pairs[4:]))

    def pack(self) -> bytes:
        words = [self.base, self.size]
        for area in (*self.pamt, *self.reserved):
            words += area
        return _TDMR.pack(*words, *(0,) * (64 - len(words)))


# -- TDSYSINFO and the CMR array (section 2.2)
# --------------------------------------------------------------

SYSINFO_SIZE = 1024
_SYSINFO = Struct("<IIIHHHB13xHHH10xH2xHB9xQQQQ32xI")
CPUID_CONFIG = Struct("<II4I")


def pack_sysinfo(values: Sequence[int], cpuid_config: Sequence[tuple[int, ...]]) -> bytes:
    """TDSYSINFO_STRUCT: the values in the order of the layout, then one row of CPUID_CONFIG each."""
    head = _SYSINFO.pack(*values, len(cpuid_config))
    rows = b"".join(CPUID_CONFIG.pack(*row) for row in cpuid_config)
    return (head + rows).ljust(SYSINFO_SIZE, b"\0")


def pack_cmrs(cmrs: Sequence[Range]) -> bytes:
    """The CMR array: always 32 entries, null ones last."""
    return b"".join(U64.pack(cmr.base) + U64.pack(cmr.size) for cmr in cmrs).ljust(16 * MAX_CMRS, b"\0")


# -- TD_PARAMS (section 2.3)
# --------------------------------------------------------------------------------

TD_PARAMS_SIZE = 1024
_TD_PARAMS = Struct("<QQHBB4sQQH38s48s48s48sQ24s")
CPUID_VALUES_AT = 256
CPUID_VALUE = Struct("<4I")

DEBUG = 1 << 0
SEPT_VE_DISABLE = 1 << 28
MIGRATABLE = 1 << 29
PKS = 1 << 30
KL = 1 << 31
PERFMON = 1 << 63

GPAW, FLEXIBLE_PENDING_VE, CONFIG_NO_RBP_MOD = 1 << 0, 1 << 1, 1 << 2


@dataclass(frozen=True, slots=True)
class TdParams:
    """What a host asks of a new TD. `reserved` are the reserved fields in their order, all of them bytes."""

    attributes: int
    xfam: int
    max_vcpus: int
    num_l2_vms: int
    msr_config: int
    eptp: int
    config_flags: int
    tsc_frequency: int
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    arch_capabilities: int
    cpuid: tuple[tuple[int, int, int, int], ...]
    reserved: tuple[bytes, bytes, bytes, bytes]

    @classmethod
    def unpack(cls, data: bytes, configs: int) -> TdParams:
        """`configs` is how many CPUID configurations the module knows; what follows them is reserved."""
        (attributes, xfam, vcpus, l2_vms, msr, zero0, eptp, flags, tsc, zero1, config, owner, owner_config,
        caps,
         zero2) = _TD_PARAMS.unpack_from(data)  # fmt: skip
        end = CPUID_VALUES_AT + configs * CPUID_VALUE.size
        cpuid = tuple(
            CPUID_VALUE.unpack_from(data, at) for at in range(CPUID_VALUES_AT, end, CPUID_VALUE.size)
        )
        reserved = (zero0, zero1, zero2, data[end:TD_PARAMS_SIZE])
        return cls(
            attributes, xfam, vcpus, l2_vms, msr, eptp, flags, tsc, config, owner, owner_config, caps,
            cpuid, reserved,
        )  # fmt: skip

    def pack(self) -> bytes:
        data = _TD_PARAMS.pack(
            self.attributes, self.xfam, self.max_vcpus, self.num_l2_vms, self.msr_config, self.reserved[0],
            self.eptp, self.config_flags, self.tsc_frequency, self.reserved[1], self.mrconfigid, self.mrowner,
            self.mrownerconfig, self.arch_capabilities, self.reserved[2],
        )  # fmt: skip
        cpuid = b"".join(CPUID_VALUE.pack(*values) for values in self.cpuid)
        return (data + cpuid + self.reserved[3]).ljust(TD_PARAMS_SIZE, b"\0")


# -- TDREPORT (section 2.7)
# ---------------------------------------------------------------------------------

REPORT_SIZE = 1024
REPORT_DATA_SIZE = 64
REPORT_MAC_SIZE = 256
TEE_TYPE_TDX = 0x81
REPORT_MAC = Struct("<4B12x16s48s48s64s32x32s")  # type, CPUSVN, two hashes, report data, MAC
TEE_TCB_INFO = Struct("<Q16s48s48sQ128x")
TD_INFO = Struct("<QQ48s48s48s48s192s48s64x")
MAC_COVERS = REPORT_MAC_SIZE - 32
