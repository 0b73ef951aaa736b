"""VCPUs: create, control pages, initial state, association, metadata. Sections 2.4, 3.3 and 4.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import checks, metadata
from protocol.arch.tdx.machine.entities import LastExit, Vcpu
from protocol.arch.tdx.machine.system import PLATFORM_FMS
from protocol.arch.tdx.profiles import TDVPS_LIMIT
from protocol.arch.tdx.status import R8, R9, RAX, RCX, RDX, Refused, Status
from protocol.arch.tdx.tables import Lifecycle, PageType, VcpuState
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

ADDCX, CREATE, INIT, RD, WR = 4, 10, 22, 26, 43


def create(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.CREATE."""
    td = checks.td_of(m, call, call.r[RDX], RDX, exclusive=False)
    checks.state(call, td, CREATE, checks.SHARE)
    frame = m.platform.private(call.held, call.r[RCX], RCX, PageType.NDA, exclusive=True)
    yield from call.commit()
    m.give(td, frame, PageType.TDVPR)
    vcpu = Vcpu(frame, td, [frame])
    m.vcpus[frame] = vcpu
    td.vcpus.append(vcpu)
    return Status.SUCCESS


def add_page(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.ADDCX."""
    vcpu = checks.vcpu_of(m, call, call.r[RDX], RDX, exclusive=True)
    checks.state(call, vcpu.td, ADDCX, checks.SHARE)
    if vcpu.state is not VcpuState.UNINITIALIZED:
        raise Refused(Status.VCPU_STATE_INCORRECT)
    if len(vcpu.pages) >= TDVPS_LIMIT:
        raise Refused(Status.TDCX_NUM_INCORRECT)
    frame = m.platform.private(call.held, call.r[RCX], RCX, PageType.NDA, exclusive=True)
    yield from call.commit()
    m.give(vcpu.td, frame, PageType.TDCX)
    vcpu.pages.append(frame)
    return Status.SUCCESS


def initialize(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.INIT: initial registers, and the association with the calling LP.

    Version 1, where it is offered, takes an x2APIC id in R8, which nothing here depends on.
    """
    vcpu = checks.vcpu_of(m, call, call.r[RCX], RCX, exclusive=True)
    td = vcpu.td
    checks.state(call, td, INIT, checks.SHARE)
    if not vcpu.complete():
        raise Refused(Status.TDCX_NUM_INCORRECT)
    if vcpu.state is not VcpuState.UNINITIALIZED:
        raise Refused(Status.VCPU_STATE_INCORRECT)
    if td.num_vcpus >= td.max_vcpus:
        raise Refused(Status.MAX_VCPUS_EXCEEDED)
    yield from call.commit()
    value = call.r[RDX]
    vcpu.index = td.num_vcpus
    td.num_vcpus += 1
    width = 52 if td.gpaw else 48
    vcpu.initial = {"rbx": width, "rcx": value, "r8": value, "rdx": PLATFORM_FMS, "rsi": vcpu.index}
    vcpu.state = VcpuState.READY
    vcpu.last_exit = LastExit.ASYNC_FAULT
    vcpu.lp = call.lp.number
    td.associated += 1
    return Status.SUCCESS


def associate(call: Call, vcpu: Vcpu, disabled: bool) -> bool:
    """Associate the VCPU with the calling LP; whether it was free before. `disabled` ones may be, too."""
    if vcpu.state is not VcpuState.READY and not (disabled and vcpu.state is VcpuState.DISABLED):
        raise Refused(Status.VCPU_STATE_INCORRECT)
    if vcpu.lp is None:
        vcpu.lp = call.lp.number
        vcpu.td.associated += 1
        return True
    if vcpu.lp != call.lp.number:
        raise Refused(Status.VCPU_ASSOCIATED)
    return False


def flush(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.FLUSH. It looks at neither FATAL nor the op state, so that a dead TD can be torn down."""
    vcpu = checks.vcpu_of(m, call, call.r[RCX], RCX, exclusive=True)
    if vcpu.td.lifecycle is not Lifecycle.KEYS_CONFIGURED:
        raise Refused(Status.TD_KEYS_NOT_CONFIGURED)
    if not vcpu.complete():
        raise Refused(Status.TDCX_NUM_INCORRECT)
    if vcpu.lp != call.lp.number:
        raise Refused(Status.VCPU_NOT_ASSOCIATED)
    yield from call.commit()
    vcpu.lp = None
    vcpu.td.associated -= 1
    return Status.SUCCESS


def read(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.RD: it associates, even a VCPU that is disabled."""
    field_id = call.r[RDX]
    if call.version:
        call.r[RDX] = metadata.NO_FIELD
    call.r[R8] = 0
    if call.version > 1:
        raise Refused(Status.OPERAND_INVALID | RAX)
    vcpu = _ready(m, call, RD)
    yield from call.commit()
    associate(call, vcpu, disabled=True)
    status, following, call.r[R8] = metadata.read_vp(m, vcpu, field_id, call.version)
    if call.version:
        call.r[RDX] = following
    return status


def write(m: Machine, call: Call) -> Step[int]:
    """TDH.VP.WR: it associates."""
    value, mask = call.r[R8], call.r[R9]
    call.r[R8] = 0
    vcpu = _ready(m, call, WR)
    yield from call.commit()
    associate(call, vcpu, disabled=False)
    status, call.r[R8] = metadata.write_vp(m, vcpu, call.r[RDX], value, mask)
    return status


def _ready(m: Machine, call: Call, leaf: int) -> Vcpu:
    vcpu = checks.vcpu_of(m, call, call.r[RCX], RCX, exclusive=False)
    checks.state(call, vcpu.td, leaf, checks.SHARE)
    if not vcpu.complete():
        raise Refused(Status.TDCX_NUM_INCORRECT)
    if vcpu.state is not VcpuState.READY and (leaf == WR or vcpu.state is not VcpuState.DISABLED):
        raise Refused(Status.VCPU_STATE_INCORRECT)
    if vcpu.lp not in (None, call.lp.number):
        raise Refused(Status.VCPU_ASSOCIATED)
    return vcpu
