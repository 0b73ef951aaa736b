"""Transcripts of AMD hosts: the mailbox, RMP instructions and MSRs, VMRUN."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, assert_never

from protocol.arch.sev.cpu import Cpu, X86Fault
from protocol.arch.sev.guest import GuestStep, Leave, Program, Pvalidate, Rdmsr, Read, Rmpadjust, Touch, Wrmsr
from protocol.arch.sev.instructions import MASK32, OPERAND
from protocol.arch.sev.linked import LinkedSev
from protocol.arch.sev.machine.steps import shown
from protocol.arch.sev.structs import Exit, NewState
from protocol.effects import Fault, Step
from protocol.keyboard.recorded import Json, RecordedLevel, Say


class RecordedSev(RecordedLevel, LinkedSev):
    """See `RecordedLevel`."""

    def __init__(self, level: LinkedSev, say: Say) -> None:
        LinkedSev.__init__(self, level.memory, level.cpus)
        RecordedLevel.__init__(self, level, say)
        self.profile = level.profile
        self._operand = 0  # where an operand of RMPUPDATE was read from: just before it
        self._plain_read = self.read
        self.read = self._read_operand

    def _read_operand(self, address: int, length: int) -> bytes | Fault:
        if length == OPERAND:
            self._operand = address
        return self._plain_read(address, length)

    def typed(self, step: GuestStep) -> Json:
        match step:
            case Touch(gpa, True, value):
                return {"touch": hex(gpa), "write": True, "value": value.hex()}
            case Touch(gpa):
                return {"touch": hex(gpa)}
            case Read(gpa, length):
                return {"read": hex(gpa), "len": length}
            case Pvalidate(rax, ecx, edx):
                return {"insn": "pvalidate", "rax": hex(rax), "ecx": ecx, "edx": edx}
            case Rmpadjust(rax, ecx, rdx):
                return {"insn": "rmpadjust", "rax": hex(rax), "ecx": ecx, "rdx": hex(rdx)}
            case Wrmsr(ecx, value):
                return {"insn": "wrmsr", "ecx": hex(ecx), "rax": hex(value)}
            case Rdmsr(ecx):
                return {"insn": "rdmsr", "ecx": hex(ecx)}
            case Leave(what):
                return {"exit": what}
        assert_never(step)

    def fault(self, fault: X86Fault, **more: Any) -> Json:
        return {"fault": {**shown(fault), **more}}

    def call(self, cpu: Cpu, cmdresp: int, address: int, park: bool = False, lose: bool = False) -> Step[int]:
        answer: int = yield from self._level.call(cpu, cmdresp, address, park, lose)
        low, high = hex(address & MASK32), hex(address >> 32)
        said = {"ok": {"cmdresp": hex(answer), "lo": "0x0", "hi": "0x0"}}
        self.tell(said, op="call", cpu=cpu.number, cmdresp=hex(cmdresp), lo=low, hi=high)
        return answer

    def rmpupdate(self, cpu: Cpu, address: int, new: NewState) -> Step[int]:
        code: int = yield from self._level.rmpupdate(cpu, address, new)
        self._insn("rmpupdate", cpu, {"rax": code}, rax=address, rcx=self._operand)
        return code

    def psmash(self, cpu: Cpu, address: int) -> Step[int]:
        code: int = yield from self._level.psmash(cpu, address)
        self._insn("psmash", cpu, {"rax": code}, rax=address)
        return code

    def wbinvd(self, cpu: Cpu) -> Step[None]:
        yield from self._level.wbinvd(cpu)
        self._insn("wbinvd", cpu, {})

    def rdmsr(self, cpu: Cpu, number: int) -> Step[int | Fault]:
        value: int | Fault = yield from self._level.rdmsr(cpu, number)
        found = value if isinstance(value, Fault) else {"rax": value & MASK32, "rdx": value >> 32}
        self._insn("rdmsr", cpu, found, ecx=number)
        return value

    def wrmsr(self, cpu: Cpu, number: int, value: int) -> Step[Fault | None]:
        raised: Fault | None = yield from self._level.wrmsr(cpu, number, value)
        registers = {"rax": value & MASK32, "rdx": value >> 32}
        self._insn("wrmsr", cpu, raised or {**registers, "r8": 0}, ecx=number, **registers)
        return raised

    def _insn(self, name: str, cpu: Cpu, found: Fault | dict[str, int], **operands: int) -> None:
        if isinstance(found, Fault):
            assert isinstance(found, X86Fault)
            answer = self.fault(found)
        else:
            answer = {"ok": {register: hex(value) for register, value in found.items()}}
        typed = {register: hex(value) for register, value in operands.items()}
        self.tell(answer, op="insn", cpu=cpu.number, name=name, **typed)

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
        self._shortened(vmcb, program)
        self.queue(vmcb, program, vcpu=hex(vmcb))
        done = len(program.results)
        left: Exit | Fault = yield from self._level.enter(cpu, vmcb, program, stay, level)
        self.entered(vmcb, program)
        results = program.results[done:]
        if isinstance(left, Fault):
            assert isinstance(left, X86Fault)
            answer = self.fault(left, steps=results)
        else:
            answer = {"ok": {**_exit(left), "steps": results}}
        self.tell(answer, op="enter", cpu=cpu.number, vcpu=hex(vmcb))
        return left

    def _shortened(self, key: Hashable, program: Program) -> None:
        """A host that completed an instruction of its guest took a step away: all others are told anew."""
        known, told = self._queued.get(key, (None, 0))
        if known is program and len(program.steps) < told:
            self._queued[key] = (None, told)


def _exit(left: Exit) -> Json:
    return {
        "exitcode": hex(left.code),
        "exitinfo1": hex(left.info1),
        "exitinfo2": hex(left.info2),
        "exitintinfo": hex(left.intinfo),
    }
