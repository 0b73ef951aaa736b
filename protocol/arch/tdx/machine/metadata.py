"""Metadata of TDs and VCPUs, as hosts and guests read and write it: section 4.8.

Status and value come back together; the order of checks is that of the module: the id, the field, the
mask, the bits that may not change, then what the field's value has to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx import fields
from protocol.arch.tdx.fields import NO_FIELD, TD_FIELDS, VP_FIELDS, Field
from protocol.arch.tdx.machine.entities import NO_LP, NO_VECTOR, NOT_SET, Td, Vcpu
from protocol.arch.tdx.platform import NOT_OURS
from protocol.arch.tdx.status import Status
from protocol.arch.tdx.structs import DEBUG, FLEXIBLE_PENDING_VE, U64_MASK

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

POSTED_INTERRUPTS = 1 << 7
PI_DESCRIPTOR_SIZE = 64
PI_VECTOR_LAST = 0xFF
PAGE = 4096
TSC_UNIT = 25_000_000
NATIVE_TSC = 2_000_000_000  # of the made-up CPU; nobody here reads a clock, so TSC_OFFSET is zero
PI_VECTOR_CODE, PI_DESCRIPTOR_CODE = 0x0002, 0x2016
HP_LOCK_TIMEOUT_RANGE = range(10_000, 100_000_001)  # microseconds

__all__ = ["NO_FIELD", "read_td", "read_vp", "write_td", "write_vp"]


def read_td(m: Machine, td: Td, field_id: int, version: int = 0, guest: bool = False) -> tuple[int, int, int]:
    """Status, the id of the next element, the value."""
    debug = bool(td.attributes & DEBUG)
    status, following, found = _readable(TD_FIELDS, field_id, version, guest, debug)
    if found is None:
        return status, following, 0
    field, index, mask = found
    return status, following, td_value(m, td, field, index) & mask


def read_vp(
    m: Machine, vcpu: Vcpu, field_id: int, version: int = 0, guest: bool = False
) -> tuple[int, int, int]:
    debug = bool(vcpu.td.attributes & DEBUG)
    status, following, found = _readable(VP_FIELDS, field_id, version, guest, debug)
    if found is None:
        return status, following, 0
    field, index, mask = found
    return status, following, vp_value(m, vcpu, field, index) & mask


def _readable(
    table: tuple[Field, ...], field_id: int, version: int, guest: bool, debug: bool
) -> tuple[int, int, tuple[Field, int, int] | None]:
    if version and fields.is_null(field_id):
        first = fields.following(table, None, 0, guest, debug)
        return Status.METADATA_FIRST_FIELD_ID_IN_CONTEXT, first, None
    found = fields.find(table, field_id) if fields.is_single_element(field_id) else None
    if found is None:
        return Status.METADATA_FIELD_ID_INCORRECT, NO_FIELD, None
    field, index = found
    mask = field.guest[0] & field.mask if guest else field.readable(debug)
    if not mask:
        return Status.METADATA_FIELD_NOT_READABLE, NO_FIELD, None
    return Status.SUCCESS, fields.following(table, field, index, guest, debug), (field, index, mask)


def _digest_word(digest: bytes, index: int) -> int:
    return int.from_bytes(digest[8 * index : 8 * index + 8], "little")


def td_value(m: Machine, td: Td, field: Field, index: int) -> int:
    match field.name:
        case "FATAL":
            return int(td.fatal)
        case "NUM_TDCX":
            return len(td.tdcs)
        case "CHLDCNT":
            return td.children
        case "LIFECYCLE_STATE":
            return td.lifecycle
        case "TDCX_PA":
            keyed = td.hkid << m.profile.hkid_shift
            return td.tdcs[index] << 12 | keyed if index < len(td.tdcs) else 0
        case "TD_UUID":
            return _digest_word(td.uuid, index)
        case "HKID":
            return td.hkid
        case "PKG_CONFIG_BITMAP":
            return td.configured
        case "NUM_ASSOC_VCPUS":
            return td.associated
        case "TSC_OFFSET":
            return 0
        case "TSC_MULTIPLIER":
            return (td.tsc_frequency * TSC_UNIT << 48) // NATIVE_TSC
        case "TD_CTLS":  # pragma: no branch - the last field that anybody writes
            return int(td.pending_ve_disable)
        case "TD_EPOCH":
            return td.epoch
        case "REFCOUNT":
            return td.inside[index]
        case "MRTD" | "MRCONFIGID" | "MROWNER" | "MROWNERCONFIG":
            return _digest_word(getattr(td, field.name.lower()), index)
        case "RTMR":
            return _digest_word(td.rtmr[index // 6], index % 6)
    value: int = getattr(td, field.name.lower())
    return value


def vp_value(m: Machine, vcpu: Vcpu, field: Field, index: int) -> int:
    match field.name:
        case "VCPU_STATE_DETAILS":
            return 0  # no virtual interrupt is ever pending here
        case "VCPU_INDEX":
            return vcpu.index
        case "NUM_TDVPS_PAGES":
            return len(vcpu.pages)
        case "ASSOC_LPID":
            return NO_LP if vcpu.lp is None else vcpu.lp
        case "VCPU_EPOCH":
            return vcpu.epoch
        case "CPUID_SUPERVISOR_VE":
            return vcpu.supervisor_ve
        case "CPUID_USER_VE":
            return vcpu.user_ve
        case "XFAM":
            return vcpu.td.xfam
        case "TDVPS_PAGE_PA":
            keyed = vcpu.td.hkid << m.profile.hkid_shift
            return vcpu.pages[index] << 12 | keyed if index < len(vcpu.pages) else 0
    value: int = getattr(vcpu, field.name.lower())
    return value


# -- writing ---------------------------------------------------------------------------------------


def _merge(
    table: tuple[Field, ...], field_id: int, value: int, mask: int, guest: bool
) -> tuple[int, Field | None, int]:
    """Status, field, and the bits that are to be written."""
    found = fields.find(table, field_id) if fields.is_single_element(field_id) else None
    if found is None:
        return Status.METADATA_FIELD_ID_INCORRECT, None, 0
    field, _ = found
    writable = (field.guest if guest else field.host)[1] & field.mask
    if not writable & mask:
        return Status.METADATA_FIELD_NOT_WRITABLE, None, 0
    return Status.SUCCESS, field, writable


def write_td(
    m: Machine, td: Td, field_id: int, value: int, mask: int, guest: bool = False
) -> tuple[int, int]:
    """Status, and the value before."""
    status, field, writable = _merge(TD_FIELDS, field_id, value, mask, guest)
    if field is None:
        return status, 0
    old = td_value(m, td, field, 0)
    if (old ^ value) & mask & ~writable:
        return Status.METADATA_FIELD_VALUE_NOT_VALID, 0
    new = old & ~(mask & writable) | value & mask & writable
    match field.name:
        case "HP_LOCK_TIMEOUT":
            if mask != U64_MASK:
                return Status.METADATA_WR_MASK_NOT_VALID, 0
            if new not in HP_LOCK_TIMEOUT_RANGE:
                return Status.METADATA_FIELD_VALUE_NOT_VALID, 0
            td.hp_lock_timeout = new
        case "NOTIFY_ENABLES":
            td.notify_enables = new
        case "TD_CTLS":  # pragma: no branch - the last field that anybody writes
            if not td.config_flags & FLEXIBLE_PENDING_VE and new != old:
                return Status.METADATA_FIELD_VALUE_NOT_VALID, 0
            td.pending_ve_disable = bool(new & 1)
    return Status.SUCCESS, old


def write_vp(
    m: Machine, vcpu: Vcpu, field_id: int, value: int, mask: int, guest: bool = False
) -> tuple[int, int]:
    """Status, and the value before."""
    status, field, writable = _merge(VP_FIELDS, field_id, value, mask, guest)
    if field is None:
        return status, 0
    was = vp_value(m, vcpu, field, 0)
    old = 0 if mask & writable == field.mask else was
    if field.name in ("PI_DESCRIPTOR", "SHARED_EPTP") and old == NOT_SET:
        old &= writable  # an address that nobody wrote is all ones
    if (old ^ value) & mask & ~writable:
        return Status.METADATA_FIELD_VALUE_NOT_VALID, 0
    new = old & ~(mask & writable) | value & mask & writable
    status = _acceptable(m, vcpu, field, new)
    if status:
        return status, 0
    setattr(vcpu, field.name.lower().replace("cpuid_", ""), new)
    return Status.SUCCESS, was & (field.guest if guest else field.host)[0] & field.mask


def _acceptable(m: Machine, vcpu: Vcpu, field: Field, value: int) -> int:
    """What a VMCS field's value has to be: the status, 0 if it is acceptable."""
    match field.name:
        case "SHARED_EPTP" | "PI_DESCRIPTOR":
            size = PAGE if field.name == "SHARED_EPTP" else PI_DESCRIPTOR_SIZE
            if m.platform.shared_form(value, 1, size) == NOT_OURS:
                return Status.METADATA_FIELD_VALUE_NOT_VALID
        case "PI_VECTOR":
            if value > PI_VECTOR_LAST:
                return Status.METADATA_FIELD_VALUE_NOT_VALID
        case "PIN_BASED":
            if value & POSTED_INTERRUPTS and vcpu.pi_vector == NO_VECTOR:
                return Status.TD_VMCS_FIELD_NOT_INITIALIZED | PI_VECTOR_CODE
            if value & POSTED_INTERRUPTS and vcpu.pi_descriptor == NOT_SET:
                return Status.TD_VMCS_FIELD_NOT_INITIALIZED | PI_DESCRIPTOR_CODE
    return Status.SUCCESS
