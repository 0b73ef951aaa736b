"""What the module says about itself: TDSYSINFO, SYS metadata, and what of a TD can be configured.

Follows sections 2.2, 2.3, 4.8 and 6.1. The CPU below is a made-up one: family, model and stepping are
those of a Sapphire Rapids, and every CPUID bit that a host may allow is set.
"""

from __future__ import annotations

from struct import Struct

from protocol.arch.tdx import fields
from protocol.arch.tdx.fields import SYS_FIELDS, Field
from protocol.arch.tdx.front import Front
from protocol.arch.tdx.profiles import (
    MAX_CMRS,
    MAX_RESERVED,
    MAX_TDMRS,
    PAGE,
    PAMT_ENTRY,
    TDCS_PAGES,
    TDCS_PER_L2,
    TDVPS_PAGES,
    TDVPS_PER_L2,
    Profile,
)
from protocol.arch.tdx.status import Status
from protocol.arch.tdx.structs import DEBUG, MIGRATABLE, PERFMON, PKS, SEPT_VE_DISABLE, U64

VENDOR_INTEL = 0x8086
MAJOR, MINOR, UPDATE = 1, 5, 1
BUILD_DATE = 20240129
BUILD_NUM = 0  # not known
PLATFORM_FMS = 0x000806F8
XFAM_FIXED0 = 0x0006DBE7
XFAM_FIXED1 = 0x3
CONFIG_FLAGS = 0x7
ARCH_CAPABILITIES_MASK = 1 << 4 | 1 << 19 | 1 << 20 | 1 << 24
MAX_VCPUS = 0xFFFF
MAX_STREAMS = 512
MAX_SERVICE_TDS = 1
NO_SUBLEAF = 0xFFFF_FFFF

# Leaf, subleaf, and which bits of EAX, EBX, ECX, EDX a host may configure, set or leave allowed.
CPUID_CONFIGURABLE: tuple[tuple[int, int, tuple[int, int, int, int]], ...] = (
    (0x1, NO_SUBLEAF, (0x0FFF3FFF, 0x00FF0000, 0x31044D88, 0xB8440000)),
    (0x4, 0x0, (0xFFFFC3FF, 0xFFFFF000, 0xFFFFFFFF, 0xFFFFFFFB)),
    (0x4, 0x1, (0xFFFFC3FF, 0xFFFFF000, 0xFFFFFFFF, 0xFFFFFFFB)),
    (0x4, 0x2, (0xFFFFC3FF, 0xFFFFF000, 0xFFFFFFFF, 0xFFFFFFFB)),
    (0x4, 0x3, (0xFFFFC3FF, 0xFFFFF000, 0xFFFFFFFF, 0x00000007)),
    (0x7, 0x0, (0, 0xDC2B9B18, 0x02417F65, 0x0005411C)),
    (0x7, 0x1, (0x1D30, 0, 0, 0)),
    (0xA, NO_SUBLEAF, (0, 0, 0, 0)),
    (0x1C, NO_SUBLEAF, (0xFF, 0, 0, 0)),
    (0x80000008, NO_SUBLEAF, (0, 0x200, 0, 0)),
    (0x7, 0x2, (0, 0, 0, 0x28)),
    (0x23, 0x0, (0xF, 0, 0, 0)),
)
LEAF_1, LEAF_7 = 0, 5  # places in that table
_LIST_HEADER = Struct("<HHI")


def attributes_fixed0(profile: Profile) -> int:
    """Which ATTRIBUTES a TD may have."""
    allowed = DEBUG | SEPT_VE_DISABLE | PKS | PERFMON
    return allowed | MIGRATABLE if profile.migration else allowed


def sysinfo(profile: Profile) -> tuple[int, ...]:
    """The values of TDSYSINFO_STRUCT in the order of its layout."""
    module = (0, VENDOR_INTEL, BUILD_DATE, BUILD_NUM, MINOR, MAJOR, 1)
    memory = (MAX_TDMRS, MAX_RESERVED, PAMT_ENTRY)
    control = (TDCS_PAGES * PAGE, TDVPS_PAGES * PAGE, 0)
    return (*module, *memory, *control, attributes_fixed0(profile), 0, XFAM_FIXED0, XFAM_FIXED1)


def cpuid_config() -> list[tuple[int, ...]]:
    return [(leaf, subleaf, *bits) for leaf, subleaf, bits in CPUID_CONFIGURABLE]


def leaf_id(place: int) -> int:
    """Leaf and subleaf of a configuration, as a register holds them."""
    leaf, subleaf, _ = CPUID_CONFIGURABLE[place]
    return leaf | subleaf << 32


# -- metadata --------------------------------------------------------------------------------------


def value(m: Front, field: Field, index: int) -> int:
    """One element of a SYS field."""
    constant = _CONSTANTS.get(field.name)
    if constant is not None:
        return constant
    platform, profile = m.platform, m.profile
    match field.name:
        case "NUM_PKGS":
            return profile.packages
        case "PKG_FMS":
            return PLATFORM_FMS if index < profile.packages else 0
        case "HANDOFF_DATA_VALID":
            return int(platform.handoff_valid)
        case "TDX_FEATURES0":
            return profile.features
        case "CMR_BASE":
            return platform.cmrs[index].base if index < len(platform.cmrs) else 0
        case "CMR_SIZE":
            return platform.cmrs[index].size if index < len(platform.cmrs) else 0
        case "ATTRIBUTES_FIXED0":
            return attributes_fixed0(profile)
        case "CPUID_CONFIG_LEAVES":
            return leaf_id(index) if index < len(CPUID_CONFIGURABLE) else (1 << 64) - 1
        case "CPUID_CONFIG_VALUES":  # pragma: no branch - the last of them
            return _config_value(index)
    raise AssertionError(field.name)  # pragma: no cover - a field without a value is a mistake of ours


def _config_value(index: int) -> int:
    place, half = divmod(index, 2)
    if place >= len(CPUID_CONFIGURABLE):
        return 0
    bits = CPUID_CONFIGURABLE[place][2]
    return bits[2 * half] | bits[2 * half + 1] << 32


_CONSTANTS = {
    "VENDOR_ID": VENDOR_INTEL,
    "BUILD_DATE": BUILD_DATE,
    "BUILD_NUM": BUILD_NUM,
    "MINOR_VERSION": MINOR,
    "MAJOR_VERSION": MAJOR,
    "UPDATE_VERSION": UPDATE,
    "INTERNAL_VERSION": 0,
    "MODULE_HV": 0,
    "MIN_UPDATE_HV": 0,
    "NO_DOWNGRADE": 0,
    "SYS_ATTRIBUTES": 0,
    "NUM_TDX_FEATURES": 1,
    "NUM_CMRS": MAX_CMRS,
    "MAX_TDMRS": MAX_TDMRS,
    "MAX_RESERVED_PER_TDMR": MAX_RESERVED,
    "PAMT_4K_ENTRY_SIZE": PAMT_ENTRY,
    "PAMT_2M_ENTRY_SIZE": PAMT_ENTRY,
    "PAMT_1G_ENTRY_SIZE": PAMT_ENTRY,
    "TDR_BASE_SIZE": PAGE,
    "TDCS_BASE_SIZE": TDCS_PAGES * PAGE,
    "TDCS_SIZE_PER_L2_VM": TDCS_PER_L2 * PAGE,
    "TDVPS_BASE_SIZE": TDVPS_PAGES * PAGE,
    "TDVPS_SIZE_PER_L2_VM": TDVPS_PER_L2 * PAGE,
    "ATTRIBUTES_FIXED1": 0,
    "XFAM_FIXED0": XFAM_FIXED0,
    "XFAM_FIXED1": XFAM_FIXED1,
    "NUM_CPUID_CONFIG": len(CPUID_CONFIGURABLE),
    "CONFIG_FLAGS_FIXED0": CONFIG_FLAGS,
    "CONFIG_FLAGS_FIXED1": 0,
    "MAX_VCPUS_PER_TD": MAX_VCPUS,
    "ARCH_CAPABILITIES_CONFIG_MASK": ARCH_CAPABILITIES_MASK,
    "MIG_ATTRIBUTES": 0,
    "MIN_EXPORT_VERSION": 0,
    "MAX_EXPORT_VERSION": 0,
    "MIN_IMPORT_VERSION": 0,
    "MAX_IMPORT_VERSION": 0,
    "MAX_MIGS": MAX_STREAMS,
    "MAX_SERV_TDS": MAX_SERVICE_TDS,
}


def read(m: Front, field_id: int, guest: bool) -> tuple[int, int, int]:
    """SYS.RD: status, the next field's id, the value."""
    if fields.is_null(field_id):
        first = fields.following(SYS_FIELDS, None, 0, guest, debug=False)
        return Status.METADATA_FIRST_FIELD_ID_IN_CONTEXT, first, 0
    found = fields.find(SYS_FIELDS, field_id) if fields.is_single_element(field_id) else None
    if found is None:
        return Status.METADATA_FIELD_ID_INCORRECT, fields.NO_FIELD, 0
    field, index = found
    mask = (field.guest[0] if guest else field.host[0]) & field.mask
    if not mask:
        return Status.METADATA_FIELD_NOT_READABLE, fields.NO_FIELD, 0
    following = fields.following(SYS_FIELDS, field, index, guest, debug=False)
    return Status.SUCCESS, following, value(m, field, index) & mask


def dump(m: Front, first: int, guest: bool) -> tuple[int, int, bytes]:
    """SYS.RDALL: status, where to go on, and the list; a sequence is one row of the table."""
    table = [field for field in SYS_FIELDS if (field.guest[0] if guest else field.host[0])]
    start = 0
    if not fields.is_null(first):
        found = fields.find(table, first)
        if found is None or (first & 0xFFFF_FFFF) != found[0].code:
            return Status.METADATA_FIELD_ID_INCORRECT, fields.NO_FIELD, b""
        start = table.index(found[0])
    parts: list[bytes] = []
    room = PAGE - _LIST_HEADER.size
    for field in table[start:]:
        if 8 * (field.count + 1) > room:  # pragma: no cover - the sheet has it; this table fits into a page
            return Status.METADATA_LIST_OVERFLOW, field.id, _list(parts)
        head = field.id | (field.elements - 1) << 34 | (field.count // field.elements - 1) << 38
        values = [value(m, field, index) & field.mask for index in range(field.count)]
        parts.append(U64.pack(head) + b"".join(U64.pack(each) for each in values))
        room -= len(parts[-1])
    return Status.SUCCESS, fields.NO_FIELD, _list(parts)


def _list(parts: list[bytes]) -> bytes:
    body = b"".join(parts)
    return _LIST_HEADER.pack(_LIST_HEADER.size + len(body), len(parts), 0) + body
