"""TDH.VP.ENTER: from the checks to the exit. Sections 2.4, 3.3 to 3.5, 4.5 and 4.7.

While a VCPU is inside it holds its TDVPR and its TDR shared, and the op state only until it is in. The
zero-step filter stands between both: too many private EPT violations without progress of the guest, and
the next entry is answered without the guest running until the host has mapped what was missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call, pending_interrupt
from protocol.arch.tdx.guest import Program, Tdcall
from protocol.arch.tdx.machine import checks, steps
from protocol.arch.tdx.machine.access import EPT_VIOLATION, MACHINE_CHECK, Exit
from protocol.arch.tdx.machine.entities import LastExit, Vcpu, VeInfo
from protocol.arch.tdx.machine.sept import RWX, state_of
from protocol.arch.tdx.machine.vcpu import associate
from protocol.arch.tdx.shared_ept import WRITE
from protocol.arch.tdx.status import R8, R9, RAX, RBP, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import CONFIG_NO_RBP_MOD
from protocol.arch.tdx.tables import VcpuState
from protocol.effects import Idle, Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

ENTER = 0
HANDLE = 0x000F_FFFF_FFFF_F000
HOST_HINT = 1 << 52
RESUME_L1 = 1 << 53
THRESHOLD = 6  # private violations without progress that are still nobody's business
SUSPECTS = 32
CODE_SHIFT = 32


def enter(m: Machine, call: Call) -> Step[int]:
    raw = call.r[RCX]
    if raw & ~(HANDLE | HOST_HINT | RESUME_L1):
        raise Refused(Status.OPERAND_INVALID | RCX)
    vcpu = checks.vcpu_of(m, call, raw & HANDLE, RCX, exclusive=False)
    td = vcpu.td
    checks.state(call, td, ENTER, checks.SHARE)
    if not vcpu.complete():
        raise Refused(Status.TDCX_NUM_INCORRECT)
    associate(call, vcpu, disabled=False)
    if raw & HOST_HINT and vcpu.last_exit is not LastExit.ASYNC_TRAP:
        raise Refused(Status.OPERAND_INVALID | RCX)
    if raw & RESUME_L1:  # no L2 VM ever runs here, so none can have left
        raise Refused(Status.OPERAND_INVALID | RCX)
    if not call.held.share(checks.epoch_lock(td)):
        raise Refused(Status.OPERAND_BUSY | Operand.TD_EPOCH)
    yield from call.commit()
    epoch = td.epoch
    td.inside[epoch & 1] += 1
    vcpu.epoch = epoch
    call.held.release(checks.epoch_lock(td))
    program = call.program or Program()
    left = _filter(call, vcpu, program)
    if left is None:
        call.held.release(checks.op_lock(td))
        left = yield from _inside(m, call, vcpu, program)
    if left is not MACHINE_CHECK:
        td.inside[epoch & 1] -= 1
    return _leave(m, call, vcpu, program, left)


# -- the zero-step filter --------------------------------------------------------------------------


def _filter(call: Call, vcpu: Vcpu, program: Program) -> Exit | None:
    """A synthetic violation if an address that the guest was kept from is still not there."""
    td = vcpu.td
    if not vcpu.suspected:
        return None
    if not call.held.own(checks.tree_lock(td)):
        td.inside[vcpu.epoch & 1] -= 1
        raise Refused(Status.OPERAND_BUSY | Operand.SEPT_TREE)
    missing = next((gpa for gpa in vcpu.suspected if _would_fault(vcpu, gpa)), None)
    call.held.release(checks.tree_lock(td))
    if missing is not None:
        return Exit("zero_step", EPT_VIOLATION, WRITE, 0, missing & ~0xFFF)
    if td.notify_enables & 1 and vcpu.ve is None and program.steps:
        vcpu.ve = VeInfo(EPT_VIOLATION, WRITE, gla=0, gpa=vcpu.suspected[-1])
        program.finish(steps.fault(0x14))
    return None


def _would_fault(vcpu: Vcpu, gpa: int) -> bool:
    assert vcpu.td.sept is not None
    entry = vcpu.td.sept.leaf_at(gpa).entry
    return not (state_of(entry).writable and entry & RWX == RWX)


def _note_progress(vcpu: Vcpu, program: Program, left: Exit) -> None:
    """Count a violation that the guest did not get over; forget all of them once it got on."""
    if program.done != vcpu.entered_at:
        vcpu.violations = 0
        vcpu.suspected.clear()
    if not left.counts_as_step:
        return
    if vcpu.violations < THRESHOLD:
        vcpu.violations += 1
    elif left.r8 not in vcpu.suspected and len(vcpu.suspected) < SUSPECTS:
        vcpu.suspected.append(left.r8)


# -- inside ----------------------------------------------------------------------------------------


def _inside(m: Machine, call: Call, vcpu: Vcpu, program: Program) -> Step[Exit]:
    """The guest runs until something makes it leave."""
    vcpu.state = VcpuState.ACTIVE
    vcpu.entered_at = program.done
    if _broken(m, vcpu):
        return MACHINE_CHECK
    _answer(call, vcpu, program)
    while True:
        if pending_interrupt(call.lp):
            return steps.EXTERNAL_INTERRUPT
        while program.steps:
            left = steps.do(m, vcpu, program)
            if left is not None:
                return left
        if not call.stay or not (yield Idle()):
            return steps.EXTERNAL_INTERRUPT


def _broken(m: Machine, vcpu: Vcpu) -> bool:
    """Was a control structure stored to by somebody else?"""
    if not m.spoiled:
        return False
    td = vcpu.td
    return any(m.broken(frame) for frame in (td.frame, *td.tdcs, *vcpu.pages))


def _answer(call: Call, vcpu: Vcpu, program: Program) -> None:
    """After a TDVMCALL: the host's registers go where the guest let them, and the guest goes on behind it."""
    made, vcpu.vmcall = vcpu.vmcall, None
    if made is None or not program.steps or made != (program.done, program.steps[0]):
        return  # the guest is somewhere else now
    step = made[1]
    control = step.registers[RCX]
    after = [
        call.r[number] if control >> number & 1 else value for number, value in enumerate(step.registers)
    ]
    after[RAX], after[RCX] = Status.SUCCESS, control
    program.finish(steps.shown(after))


# -- leaving ---------------------------------------------------------------------------------------


def _leave(m: Machine, call: Call, vcpu: Vcpu, program: Program, left: Exit) -> int:
    td, r = vcpu.td, call.r
    level = call.lp.origin + 1
    m.ledger.exit(level, left.name, "vmm" if left.name in program.vmm_reasons else "kernel")
    _note_progress(vcpu, program, left)
    if left.shown is not None:
        vcpu.last_exit = LastExit.TDVMCALL
        step = program.steps[0]
        assert isinstance(step, Tdcall)
        vcpu.vmcall = program.done, step
        kept = r[RBP] if td.config_flags & CONFIG_NO_RBP_MOD else left.shown[RBP]
        r[:] = left.shown
        r[RBP] = kept
        r[RCX] = left.rcx
        vcpu.state = VcpuState.READY
        return left.status
    r[1:] = [0] * 15
    r[RCX], r[RDX], r[R8], r[R9] = left.rcx, left.rdx, left.r8, left.r9
    if left is MACHINE_CHECK:
        td.fatal = True  # whatever is in its pages is not looked at any more
        return left.status
    if left.finishes:
        program.finish(None)
    disabled = left.status >> CODE_SHIFT == Status.NON_RECOVERABLE_VCPU >> CODE_SHIFT
    vcpu.state = VcpuState.DISABLED if disabled else VcpuState.READY
    vcpu.last_exit = LastExit.ASYNC_FAULT
    return left.status
