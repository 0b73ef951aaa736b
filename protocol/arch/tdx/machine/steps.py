"""One step of a guest's program: done, or why the guest has to leave, or an exception of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.cpu import REGISTER_NAMES
from protocol.arch.tdx.guest import Leave, Program, Read, Tdcall, Touch
from protocol.arch.tdx.machine import guest
from protocol.arch.tdx.machine.access import Exit, GuestException, Leaves, load, store
from protocol.arch.tdx.machine.entities import Vcpu
from protocol.arch.tdx.status import Status

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

EXTERNAL_INTERRUPT = Exit("external_interrupt", 1)
NMI_INFO = 1 << 31 | 2 << 8 | 2  # valid, type NMI, vector 2
LEAVES = {
    "external_interrupt": Exit("external_interrupt", 1, finishes=True),
    "nmi": Exit("nmi", 0, r9=NMI_INFO, finishes=True),
    "triple_fault": Exit("triple_fault", Status.NON_RECOVERABLE_VCPU | 2, finishes=True),
    "smi": Exit("smi", 6, finishes=True),
}
SHOWN = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
_PLACES = [(name, REGISTER_NAMES.index(name)) for name in SHOWN]


def do(m: Machine, vcpu: Vcpu, program: Program) -> Exit | None:
    """Do the step at the head; None if the guest goes on."""
    step = program.steps[0]
    try:
        match step:
            case Touch(write=True):
                store(m, vcpu, step.gpa, step.value)
                result: dict[str, Any] = {}
            case Touch():
                load(m, vcpu, step.gpa, 1)
                result = {}
            case Read():
                result = {"hex": load(m, vcpu, step.gpa, step.length).hex()}
            case Leave():
                return LEAVES[step.reason]
            case Tdcall():  # pragma: no branch - the last kind of step
                registers = list(step.registers)
                guest.call(m, vcpu, registers)
                result = shown(registers)
    except Leaves as leaves:
        return leaves.exit
    except GuestException as exception:
        result = fault(exception.code)
    program.finish(result)
    return None


def fault(code: int) -> dict[str, Any]:
    """What a step comes to whose instruction took an exception: the guest's handler skips it."""
    return {"fault": {"code": hex(code), "name": x86.NAMES[code]}}


def shown(registers: list[int]) -> dict[str, Any]:
    return {name: hex(registers[place]) for name, place in _PLACES}
