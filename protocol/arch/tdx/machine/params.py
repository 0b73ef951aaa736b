"""What TDH.MNG.INIT checks of TD_PARAMS: sections 2.3 and 3.3, in the module's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine.system import (
    ARCH_CAPABILITIES_MASK,
    CONFIG_FLAGS,
    CPUID_CONFIGURABLE,
    LEAF_1,
    LEAF_7,
    PLATFORM_FMS,
    XFAM_FIXED0,
    XFAM_FIXED1,
    attributes_fixed0,
    leaf_id,
)
from protocol.arch.tdx.profiles import MAX_L2_VMS, TDCS_PAGES, TDCS_PER_L2
from protocol.arch.tdx.status import RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import DEBUG, GPAW, MIGRATABLE, PERFMON, TdParams

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

WRITE_BACK = 6
TSC_LOW, TSC_HIGH = 4, 400  # in 25 MHz
HLE, RTM = 1 << 4, 1 << 11  # of CPUID leaf 7 EBX
AVX, AVX512, CET, AMX = 1 << 2, 0b111 << 5, 0b11 << 11, 0b11 << 17  # of XFAM


def examine(m: Machine, call: Call, data: bytes, tdcs_pages: int) -> TdParams:
    """The parameters, or Refused by the first check that fails."""
    params = TdParams.unpack(data, len(CPUID_CONFIGURABLE))
    if not _attributes(params.attributes, attributes_fixed0(m.profile)):
        raise _wrong(Operand.ATTRIBUTES)
    if not _xfam(params.xfam):
        raise _wrong(Operand.XFAM)
    if not params.max_vcpus:
        raise _wrong(Operand.MAX_VCPUS)
    if params.num_l2_vms > MAX_L2_VMS:
        raise _wrong(Operand.NUM_L2_VMS)
    if tdcs_pages < TDCS_PAGES + TDCS_PER_L2 * params.num_l2_vms:
        raise Refused(Status.TDCS_NOT_ALLOCATED)
    if any(params.reserved[0]):
        raise _wrong(RDX)
    if params.config_flags & ~CONFIG_FLAGS:
        raise _wrong(Operand.EXEC_CONTROLS)
    if not _eptp(params.eptp, bool(params.config_flags & GPAW)):
        raise _wrong(Operand.EPTP_CONTROLS)
    if not TSC_LOW <= params.tsc_frequency <= TSC_HIGH:
        raise _wrong(Operand.TSC_FREQUENCY)
    if any(params.reserved[1]) or params.msr_config & ~1 or any(params.reserved[2]):
        raise _wrong(RDX)
    _cpuid(call, params)
    if any(params.reserved[3]):
        raise _wrong(RDX)
    configured = ARCH_CAPABILITIES_MASK if params.msr_config & 1 else 0
    if params.arch_capabilities & ~configured:
        raise _wrong(Operand.ARCH_CAPABILITIES)
    if params.attributes & MIGRATABLE and params.num_l2_vms:
        raise _wrong(RDX)
    return params


def _wrong(operand: int) -> Refused:
    return Refused(Status.OPERAND_INVALID | operand)


def _attributes(attributes: int, allowed: int) -> bool:
    if attributes & ~allowed:
        return False
    return not (attributes & MIGRATABLE and attributes & (DEBUG | PERFMON))


def _xfam(xfam: int) -> bool:
    if xfam & ~XFAM_FIXED0 or xfam & XFAM_FIXED1 != XFAM_FIXED1:
        return False
    if xfam & AVX512 not in (0, AVX512) or (xfam & AVX512 and not xfam & AVX):
        return False
    return xfam & CET in (0, CET) and xfam & AMX in (0, AMX)


def _eptp(eptp: int, wide: bool) -> bool:
    """Write-back, a page walk of four or five levels, nothing else; a wide guest needs five."""
    walk = eptp >> 3 & 7
    if eptp & 7 != WRITE_BACK or walk not in (3, 4) or eptp & ~0x3F:
        return False
    return walk == 4 or not wide


def _cpuid(call: Call, params: TdParams) -> None:
    """A bit outside the configurable ones; a family other than the platform's; half of TSX."""
    for place, values in enumerate(params.cpuid):
        _, _, bits = CPUID_CONFIGURABLE[place]
        wrong = any(value & ~allowed for value, allowed in zip(values, bits, strict=True))
        if place == LEAF_1:
            wrong = wrong or values[0] not in (0, PLATFORM_FMS)
        elif place == LEAF_7:
            wrong = wrong or bool(values[1] & HLE) != bool(values[1] & RTM)
        if wrong:
            call.r[RCX] = leaf_id(place)
            raise _wrong(Operand.CPUID_CONFIG)
