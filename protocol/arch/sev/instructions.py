"""Privileged instructions of a host: contract of the console, `insn`, and section 7.1 of the fact sheet.

A kernel changes the RMP with RMPUPDATE and PSMASH; where these cannot be intercepted usefully, in a guest
host, it uses the trapping MSRs with their own register convention. Operands and results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from protocol.arch.sev.cpu import TRAP_PSMASH, TRAP_RMPUPDATE, UD, Cpu, fault, gp
from protocol.arch.sev.level import Level
from protocol.arch.sev.structs import NewState
from protocol.effects import Fault, Step

MASK32 = 0xFFFF_FFFF
OPERAND = 16


class Registers(NamedTuple):
    """Operands; absent ones are zero."""

    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    r8: int = 0


Results = Mapping[str, int]


def rmpupdate(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    """The new state lies in memory at RCX."""
    if refused := _refusal(cpu):
        return refused
    operand = level.read(r.rcx, OPERAND)
    if isinstance(operand, Fault):
        return operand
    return {"rax": (yield from level.rmpupdate(cpu, r.rax, NewState.unpack(operand)))}


def psmash(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    if refused := _refusal(cpu):
        return refused
    return {"rax": (yield from level.psmash(cpu, r.rax))}


def _refusal(cpu: Cpu) -> Fault | None:
    """Privilege, then whether SNP is on."""
    if cpu.cpl:
        return gp()
    return None if cpu.snp else fault(UD)


def wrmsr(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    """The trapping MSRs return in RAX; every other leaves the registers alone."""
    if cpu.cpl:
        return gp()
    number = r.rcx & MASK32
    if number in (TRAP_RMPUPDATE, TRAP_PSMASH):
        if not level.nested_msr or not cpu.snp:
            return gp()
        if number == TRAP_PSMASH:
            rax = yield from level.psmash(cpu, r.rax)
        else:
            operand = r.rdx.to_bytes(8, "little") + r.r8.to_bytes(8, "little")
            rax = yield from level.rmpupdate(cpu, r.rax, NewState.unpack(operand))
        return {"rax": rax, "rdx": r.rdx, "r8": r.r8}
    raised = yield from level.wrmsr(cpu, number, (r.rdx & MASK32) << 32 | r.rax & MASK32)
    return {"rax": r.rax, "rdx": r.rdx, "r8": r.r8} if raised is None else raised


def rdmsr(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    if cpu.cpl:
        return gp()
    value = yield from level.rdmsr(cpu, r.rcx & MASK32)
    return value if isinstance(value, Fault) else {"rax": value & MASK32, "rdx": value >> 32}


def cpuid(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    """The contract refuses it to a user like every other instruction."""
    yield from ()
    if cpu.cpl:
        return gp()
    values = level.cpuid(r.rax & MASK32, r.rcx & MASK32)
    return dict(zip(("eax", "ebx", "ecx", "edx"), values, strict=True))


def wbinvd(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    if cpu.cpl:
        return gp()
    yield from level.wbinvd(cpu)
    return {}


def rmpread(level: Level, cpu: Cpu, r: Registers) -> Step[Results | Fault]:
    """Newer than this machine."""
    yield from ()
    return fault(UD)


Instruction = Callable[[Level, Cpu, Registers], Step[Results | Fault]]
# Name -> the instruction, and how its operands are written.
INSTRUCTIONS: Mapping[str, tuple[Instruction, tuple[str, ...]]] = {
    "rmpupdate": (rmpupdate, ("rax", "rcx")),
    "psmash": (psmash, ("rax",)),
    "wrmsr": (wrmsr, ("ecx", "rax", "rdx", "r8")),
    "rdmsr": (rdmsr, ("ecx",)),
    "cpuid": (cpuid, ("eax", "ecx")),
    "wbinvd": (wbinvd, ()),
    "rmpread": (rmpread, ("rax", "rcx")),
}
FIELD_OF = {"rax": "rax", "eax": "rax", "rcx": "rcx", "ecx": "rcx", "rdx": "rdx", "r8": "r8"}
