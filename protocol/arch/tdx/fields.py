"""Metadata fields: which there are, who may read and write them, and how a field id is taken apart.

Follows section 4.8 of the fact sheet; SYS fields that it names in section 6.1, and the others of the
module's own list. A field whose value is not modelled is not here, and answers as an id that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.arch.tdx.structs import U64_MASK

NO_FIELD = U64_MASK  # the null id, as an answer: there is none
_CONTEXT = 7 << 52
_MUST_BE_ZERO = 0xFFFF << 34 | 1 << 55 | 1 << 62  # last element, last field, reserved


def is_null(field_id: int) -> bool:
    """All ones apart from the context: "which is the first one?"."""
    return field_id | _CONTEXT == U64_MASK


def is_single_element(field_id: int) -> bool:
    """Nothing is set that only a sequence has; size, increment, context and mask-valid bits are ignored."""
    return not field_id & _MUST_BE_ZERO


@dataclass(frozen=True, slots=True)
class Field:
    """One field, or `count` elements of fields that follow each other. Masks say which bits may be used.

    `host` and `guest` are (read, write) masks; `debug` is the host's read mask where the TD is a debug TD.
    """

    id: int
    name: str
    count: int = 1
    host: tuple[int, int] = (U64_MASK, 0)
    guest: tuple[int, int] = (0, 0)
    debug: int = 0
    elements: int = 1  # of one field; `count` counts all of them

    @property
    def code(self) -> int:
        return self.id & 0xFFFF_FFFF

    @property
    def kind(self) -> int:
        return self.id >> 56 & 0x3F

    @property
    def mask(self) -> int:
        """All bits that an element has."""
        return (1 << (8 << (self.id >> 32 & 3))) - 1

    def readable(self, debug: bool = False) -> int:
        return (self.host[0] | (self.debug if debug else 0)) & self.mask


def find(table: Sequence[Field], field_id: int) -> tuple[Field, int] | None:
    """The field that class and code of an id choose, and which of its elements."""
    code, kind = field_id & 0xFFFF_FFFF, field_id >> 56 & 0x3F
    for field in table:
        if field.kind == kind and field.code <= code < field.code + field.count:
            return field, code - field.code
    return None


def following(table: Sequence[Field], field: Field | None, index: int, guest: bool, debug: bool) -> int:
    """The id of the next element that may be read; without `field` the first. NO_FIELD behind the last."""
    if field is not None and index + 1 < field.count:
        return field.id + index + 1
    rest = table if field is None else table[table.index(field) + 1 :]
    for other in rest:
        if (other.guest[0] if guest else other.readable(debug)) & other.mask:
            return other.id
    return NO_FIELD


_BOTH = (U64_MASK, 0)
_NONE = (0, 0)

SYS_FIELDS = (
    Field(0x0000000200000000, "NUM_PKGS"),
    Field(0x0000000200000001, "PKG_FMS", 8),
    Field(0x0800000200000000, "VENDOR_ID", guest=_BOTH),
    Field(0x8800000200000001, "BUILD_DATE"),
    Field(0x8800000100000002, "BUILD_NUM"),
    Field(0x0800000100000003, "MINOR_VERSION", guest=_BOTH),
    Field(0x0800000100000004, "MAJOR_VERSION", guest=_BOTH),
    Field(0x0800000100000005, "UPDATE_VERSION"),
    Field(0x0800000100000006, "INTERNAL_VERSION"),
    Field(0x8900000100000000, "MODULE_HV"),
    Field(0x8900000100000001, "MIN_UPDATE_HV"),
    Field(0x8900000000000002, "NO_DOWNGRADE"),
    Field(0x8900000000000004, "HANDOFF_DATA_VALID"),
    Field(0x0A00000200000000, "SYS_ATTRIBUTES", guest=_BOTH),
    Field(0x0A00000000000001, "NUM_TDX_FEATURES", guest=_BOTH),
    Field(0x0A00000300000008, "TDX_FEATURES0", guest=_BOTH),
    Field(0x9000000100000000, "NUM_CMRS"),
    Field(0x9000000300000080, "CMR_BASE", 32),
    Field(0x9000000300000100, "CMR_SIZE", 32),
    Field(0x9100000100000008, "MAX_TDMRS"),
    Field(0x9100000100000009, "MAX_RESERVED_PER_TDMR"),
    Field(0x9100000100000010, "PAMT_4K_ENTRY_SIZE"),
    Field(0x9100000100000011, "PAMT_2M_ENTRY_SIZE"),
    Field(0x9100000100000012, "PAMT_1G_ENTRY_SIZE"),
    Field(0x9800000100000000, "TDR_BASE_SIZE"),
    Field(0x9800000100000100, "TDCS_BASE_SIZE"),
    Field(0x9800000100000101, "TDCS_SIZE_PER_L2_VM"),
    Field(0x9800000100000200, "TDVPS_BASE_SIZE"),
    Field(0x9800000100000201, "TDVPS_SIZE_PER_L2_VM"),
    Field(0x1900000300000000, "ATTRIBUTES_FIXED0"),
    Field(0x1900000300000001, "ATTRIBUTES_FIXED1"),
    Field(0x1900000300000002, "XFAM_FIXED0"),
    Field(0x1900000300000003, "XFAM_FIXED1"),
    Field(0x9900000100000004, "NUM_CPUID_CONFIG"),
    Field(0x9900000300000006, "CONFIG_FLAGS_FIXED0"),
    Field(0x9900000300000007, "CONFIG_FLAGS_FIXED1"),
    Field(0x9900000100000008, "MAX_VCPUS_PER_TD"),
    Field(0x9900000300000400, "CPUID_CONFIG_LEAVES", 32),
    Field(0x9900000300000500, "CPUID_CONFIG_VALUES", 64, elements=2),
    Field(0x9900000300000600, "ARCH_CAPABILITIES_CONFIG_MASK"),
    Field(0xA000000300000000, "MIG_ATTRIBUTES", guest=_BOTH),
    Field(0x2000000100000001, "MIN_EXPORT_VERSION", guest=_BOTH),
    Field(0x2000000100000002, "MAX_EXPORT_VERSION", guest=_BOTH),
    Field(0x2000000100000003, "MIN_IMPORT_VERSION", guest=_BOTH),
    Field(0x2000000100000004, "MAX_IMPORT_VERSION", guest=_BOTH),
    Field(0xA000000100000010, "MAX_MIGS"),
    Field(0xA100000100000000, "MAX_SERV_TDS"),
)

TD_FIELDS = (
    Field(0x8010000000000001, "FATAL"),
    Field(0x8010000200000002, "NUM_TDCX"),
    Field(0x8010000300000004, "CHLDCNT"),
    Field(0x8010000200000005, "LIFECYCLE_STATE"),
    Field(0x8010000300000010, "TDCX_PA", 9),
    Field(0x8010000300000020, "TD_UUID", 4, guest=_BOTH, elements=4),
    Field(0x8110000100000001, "HKID"),
    Field(0x8110000300000002, "PKG_CONFIG_BITMAP"),
    Field(0x9010000200000001, "NUM_VCPUS", guest=_BOTH),
    Field(0x9010000200000002, "NUM_ASSOC_VCPUS"),
    Field(0x9010000200000004, "OP_STATE"),
    Field(0x9010000100000005, "NUM_L2_VMS", guest=_BOTH),
    Field(0x1110000300000000, "ATTRIBUTES", guest=_BOTH),
    Field(0x1110000300000001, "XFAM", guest=_BOTH),
    Field(0x1110000200000002, "MAX_VCPUS", guest=_BOTH),
    Field(0x1110000000000003, "GPAW", guest=_BOTH),
    Field(0x1110000300000004, "EPTP"),
    Field(0x111000030000000A, "TSC_OFFSET"),
    Field(0x111000030000000B, "TSC_MULTIPLIER"),
    Field(0x111000010000000C, "TSC_FREQUENCY", guest=_BOTH),
    Field(0x9110000300000010, "NOTIFY_ENABLES", host=_NONE, debug=U64_MASK, guest=(1, 1)),
    Field(0x9110000300000011, "HP_LOCK_TIMEOUT", host=(U64_MASK, U64_MASK)),
    Field(0x1110000300000016, "CONFIG_FLAGS", guest=_BOTH),
    Field(0x1110000300000017, "TD_CTLS", host=_NONE, debug=U64_MASK, guest=(U64_MASK, 1)),
    Field(0x9210000300000000, "TD_EPOCH"),
    Field(0x9210000100000001, "REFCOUNT", 2),
    Field(0x1310000300000000, "MRTD", 6, guest=_BOTH, elements=6),
    Field(0x1310000300000010, "MRCONFIGID", 6, guest=_BOTH, elements=6),
    Field(0x1310000300000018, "MROWNER", 6, guest=_BOTH, elements=6),
    Field(0x1310000300000020, "MROWNERCONFIG", 6, guest=_BOTH, elements=6),
    Field(0x1310000300000040, "RTMR", 24, host=_NONE, debug=U64_MASK, guest=_BOTH, elements=6),
)

_HPA = 0x000F_FFFF_FFFF_F000
VP_FIELDS = (
    Field(0x9120000300000100, "VCPU_STATE_DETAILS"),
    Field(0xA020000200000002, "VCPU_INDEX", guest=_BOTH),
    Field(0xA020000000000003, "NUM_TDVPS_PAGES"),
    Field(0xA020000200000004, "ASSOC_LPID"),
    Field(0xA020000300000006, "VCPU_EPOCH"),
    Field(0xA020000000000007, "CPUID_SUPERVISOR_VE", guest=(0xFF, 0xFF)),
    Field(0xA020000000000008, "CPUID_USER_VE", guest=(0xFF, 0xFF)),
    Field(0x202000000000000B, "PEND_NMI", host=(0xFF, 0xFF)),
    Field(0x202000030000000C, "XFAM"),
    Field(0xA020000300000010, "TDVPS_PAGE_PA", 15),
    Field(0x0024000100000002, "PI_VECTOR", host=(U64_MASK, U64_MASK)),
    Field(0x0024000300002016, "PI_DESCRIPTOR", host=(U64_MASK, U64_MASK & ~0x3F)),
    Field(0x002400030000203C, "SHARED_EPTP", host=(_HPA, _HPA)),
    Field(0x0024000200004000, "PIN_BASED", host=(0x80, 0x80)),
)
