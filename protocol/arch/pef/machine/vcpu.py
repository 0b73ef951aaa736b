"""The processor: HRFID into a vcpu, UV_RETURN into an SVM, and the exits of both.

A vcpu of a normal VM is its hypervisor's: registers come with the entry and leave with the exit. A vcpu of an
SVM stays with the ultravisor; the hypervisor has a cookie, and scrubbed registers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from protocol.arch.pef.cpu import (
    DECREMENTER,
    DOORBELL,
    GPRS,
    PROGRAM,
    Cpu,
    Entry,
    Exit,
    Return,
    Stopped,
    Vcpu,
)
from protocol.arch.pef.guest import registers
from protocol.arch.pef.machine import lifecycle, normal
from protocol.arch.pef.machine.svm import Svm, Thread
from protocol.arch.pef.machine.upcall import BAD_COOKIE, Answer, Panic, Reflect, Wait
from protocol.arch.pef.tables import MSR_S, MSR_SF
from protocol.effects import Idle, Step

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

VECTORS_END, VECTOR_ALIGN = 0x2000, 32
_GPRS = struct.Struct(f">{GPRS}Q")


def hrfid(machine: Machine, cpu: Cpu, entry: Entry) -> Step[Exit | Stopped]:
    """Enter a vcpu with MSR[S] off: HRFID cannot set it."""
    cpu.lpidr, cpu.pidr = entry.lpid, entry.pidr
    vcpu = Vcpu(
        entry.lpid,
        entry.vcpu,
        list(entry.gpr),
        entry.nip,
        entry.msr & ~MSR_S,
        entry.program,
        entry.pidr,
        stay=entry.stay,
    )
    svm = machine.svms.get(entry.lpid)
    if svm is not None and entry.vcpu in svm.starting:
        return (yield from _started(machine, cpu, svm, vcpu))
    return (yield from _run(machine, cpu, vcpu))


def _started(machine: Machine, cpu: Cpu, svm: Svm, vcpu: Vcpu) -> Step[Exit | Stopped]:
    """A vcpu that another one of its SVM has started: the ultravisor takes it at its first instruction."""
    if vcpu.program.issued:
        vcpu.program.finish(registers(vcpu.gpr, vcpu.nip, vcpu.msr))
    vcpu.nip, first = svm.starting.pop(vcpu.number)
    vcpu.gpr = [0] * GPRS
    vcpu.gpr[3] = first
    vcpu.msr, vcpu.secure = MSR_SF | MSR_S, True
    return (yield from drive(machine, cpu, svm, Thread(vcpu, machine.life(svm, vcpu)), None))


def _run(machine: Machine, cpu: Cpu, vcpu: Vcpu) -> Step[Exit | Stopped]:
    """A vcpu that is no SVM's, until it leaves."""
    program = vcpu.program
    if program.issued:
        program.finish(registers(vcpu.gpr, vcpu.nip, vcpu.msr))
    while True:
        step = program.next()
        if step is None:
            if not vcpu.stay:
                return normal.left(vcpu, DECREMENTER)
            if not (yield Idle()):
                return normal.left(vcpu, DOORBELL)
            continue
        done = normal.do(machine, vcpu, step)
        if isinstance(done, Exit):
            return done
        if isinstance(done, Svm):
            return (yield from begin(machine, cpu, done, vcpu))
        vcpu.nip += 4
        program.finish(done)


def begin(machine: Machine, cpu: Cpu, svm: Svm, vcpu: Vcpu) -> Step[Exit | Stopped]:
    """UV_ESM was accepted: the transition begins."""
    thread = Thread(vcpu, lifecycle.transition(machine, svm, vcpu))
    return (yield from drive(machine, cpu, svm, thread, None))


def uv_return(machine: Machine, cpu: Cpu, back: Return) -> Step[Exit | Stopped]:
    """UV_RETURN: find what the cookie belongs to and let that go on.

    The LPIDR and the PIDR have to be those of the reflection; a cookie that is nobody's is the end.
    """
    cookie = back.gpr[31]
    found = machine.reflected.pop(cookie, None)
    if found is None:
        return machine.stop(BAD_COOKIE)
    thread = found.open.pop(cookie)
    vcpu = thread.vcpu
    vcpu.stay = back.stay
    if back.program is not None:
        vcpu.program = back.program
    vector = PROGRAM if cpu.tm != "none" else 0 if back.hsrr0 == cookie else back.hsrr0
    wrong = vector and (vector >= VECTORS_END or vector % VECTOR_ALIGN)
    if cpu.lpidr != vcpu.lpid or cpu.pidr != vcpu.pidr or wrong:
        thread.work.close()
        thread.work = lifecycle.kill(machine, found, vcpu)
        return (yield from drive(machine, cpu, found, thread, None))
    return (yield from drive(machine, cpu, found, thread, Answer(tuple(back.gpr), vector)))


def drive(
    machine: Machine, cpu: Cpu, svm: Svm, thread: Thread, answer: Answer | None
) -> Step[Exit | Stopped]:
    """Let the ultravisor's work for a vcpu go on until the hypervisor is asked for something."""
    vcpu = thread.vcpu
    while True:
        try:
            asked = thread.work.send(answer)
        except StopIteration:
            return (yield from _run(machine, cpu, vcpu))
        except Panic as panic:
            return machine.stop(str(panic))
        if isinstance(asked, Wait):
            if vcpu.stay and (yield Idle()):
                answer = None
                continue
            asked = Reflect(DOORBELL if vcpu.stay else DECREMENTER)
        assert isinstance(asked, Reflect)
        return reflect(machine, cpu, svm, thread, asked)


def reflect(machine: Machine, cpu: Cpu, svm: Svm, thread: Thread, asked: Reflect) -> Exit:
    """Hand an exception to the hypervisor: scrubbed registers, and a cookie to come back with."""
    vcpu = thread.vcpu
    gpr = list(_GPRS.unpack(machine.random.randbytes(_GPRS.size)))
    cookie = gpr[31]
    for number, value in asked.inputs.items():
        gpr[number] = value
    thread.cookie = cookie
    svm.open[cookie] = thread
    if machine.svms.get(svm.lpid) is svm:  # else it ended meanwhile, and nothing leads back into it
        machine.reflected[cookie] = svm
    cpu.lpidr, cpu.pidr = vcpu.lpid, vcpu.pidr
    secure = MSR_SF | MSR_S
    return Exit(
        asked.trap,
        vcpu.lpid,
        vcpu.number,
        gpr,
        secure=True,
        srr0=vcpu.nip if asked.own else cookie,
        srr1=vcpu.msr if asked.own else secure,
        hsrr0=cookie,
        hsrr1=secure,
        hdar=asked.hdar,
        hdsisr=asked.hdsisr,
        asdr=asked.asdr,
        program=vcpu.program,
        last=asked.last,
    )
