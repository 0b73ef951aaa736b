"""A vcpu of a normal VM, one step at a time.

Accesses through its hypervisor's tables, hypercalls, ultracalls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from protocol.arch.pef import front
from protocol.arch.pef.cpu import DATA_STORAGE, HCALL, INSTRUCTION_STORAGE, MACHINE_CHECK, Exit, Vcpu
from protocol.arch.pef.guest import Fetch, GuestStep, Hypercall, Interrupt, Read, Touch, Ultracall, registers
from protocol.arch.pef.machine import files, lifecycle
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.radix import PAGE_ADDRESS, root_of, walk
from protocol.arch.pef.status import FUNCTION, unsigned
from protocol.arch.pef.tables import PAGE
from protocol.effects import Fault

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

NO_TRANSLATION, STORE = 0x4000_0000, 0x0200_0000  # HDSISR; the first one also HSRR1 of a fetch
LOADED = 8

Result = dict[str, Any]


def do(machine: Machine, vcpu: Vcpu, step: GuestStep) -> Result | Exit | Svm:
    """One step: its result, the exit that it takes, or the SVM whose transition it begins."""
    if isinstance(step, Ultracall):
        return _ultracall(machine, vcpu, step)
    if isinstance(step, Hypercall):
        vcpu.gpr = list(step.gpr)
        vcpu.nip += 4
        vcpu.program.issued = True
        return left(vcpu, HCALL)
    if isinstance(step, Interrupt):
        vcpu.program.finish({})
        return left(vcpu, step.vector)
    if isinstance(step, Touch) and step.write:
        done = _store(machine, vcpu, step.gpa, step.value)
        return done or {}
    if isinstance(step, Fetch):
        found = _load(machine, vcpu, step.gpa, 4, fetch=True)
        return found if isinstance(found, Exit) else {}
    if isinstance(step, Read):
        found = _load(machine, vcpu, step.gpa, step.length)
        return found if isinstance(found, Exit) else {"hex": found.hex()}
    found = _load(machine, vcpu, step.gpa, LOADED)
    return found if isinstance(found, Exit) else {"value": found.hex()}


def left(vcpu: Vcpu, trap: int) -> Exit:
    """The exit of a vcpu, with its registers in it."""
    made = Exit(trap, vcpu.lpid, vcpu.number, list(vcpu.gpr), program=vcpu.program)
    made.srr0 = made.hsrr0 = vcpu.nip
    made.srr1 = made.hsrr1 = vcpu.msr
    return made


def _ultracall(machine: Machine, vcpu: Vcpu, step: Ultracall) -> Result | Svm:
    """`sc 2` with MSR[S] off: to the ultravisor, or, where there is none, to nobody who knows it."""
    gpr = vcpu.gpr = list(step.gpr)
    call = gpr[3]
    machine.native(call)
    if not machine.profile.ultravisor:
        answer: int | None = FUNCTION
    else:
        who = front.Context(hv=False, pr=step.problem, s=False)
        answer = front.refusal(call, who, machine.profile.choices)
    if answer is None and call == front.ESM:
        begun = lifecycle.accept(machine, vcpu.lpid, gpr)
        if isinstance(begun, Svm):
            vcpu.nip += 4
            vcpu.program.issued = True
            return begun
        answer = begun
    elif answer is None:
        answer = files.get_file(machine.svms.get(vcpu.lpid), vcpu.pidr, gpr)
    gpr[3] = unsigned(answer)
    return registers(gpr, vcpu.nip + 4, vcpu.msr)


def pieces(gpa: int, length: int) -> Iterator[tuple[int, int]]:
    """Split a range at page borders into (address, length)."""
    while length > 0:
        n = min(length, PAGE - gpa % PAGE)
        yield gpa, n
        gpa, length = gpa + n, length - n


def translate(machine: Machine, lpid: int, gpa: int) -> int | None:
    """The real address of a guest address, None if the hypervisor's tables have none."""
    leaf = walk(machine.peek, root_of(machine.pate(lpid)[0]), gpa)
    return (leaf & PAGE_ADDRESS) + gpa % PAGE if leaf else None


def _load(machine: Machine, vcpu: Vcpu, gpa: int, length: int, fetch: bool = False) -> bytes | Exit:
    parts = []
    for at, n in pieces(gpa, length):
        real = translate(machine, vcpu.lpid, at)
        if real is None:
            return _storage(vcpu, at, fetch=fetch)
        part = machine.peek(real, n)
        if isinstance(part, Fault):
            return left(vcpu, MACHINE_CHECK)
        parts.append(part)
    return b"".join(parts)


def _store(machine: Machine, vcpu: Vcpu, gpa: int, data: bytes) -> Exit | None:
    done = 0
    for at, n in pieces(gpa, len(data)):
        real = translate(machine, vcpu.lpid, at)
        if real is None:
            return _storage(vcpu, at, write=True)
        if machine.poke(real, data[done : done + n]) is not None:
            return left(vcpu, MACHINE_CHECK)
        done += n
    return None


def _storage(vcpu: Vcpu, gpa: int, write: bool = False, fetch: bool = False) -> Exit:
    made = left(vcpu, INSTRUCTION_STORAGE if fetch else DATA_STORAGE)
    made.asdr = gpa & ~0xFFF
    if fetch:
        made.hsrr1 |= NO_TRANSLATION
    else:
        made.hdar = gpa
        made.hdsisr = NO_TRANSLATION | (STORE if write else 0)
    return made
