"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from protocol.arch.sev.guest import GuestStep, Leave, Pvalidate, Rdmsr, Read, Rmpadjust, Touch, Wrmsr
from protocol.keyboard import Fields
from protocol.keyboard.steps import Steps, read, touch

U32_MAX = 0xFFFF_FFFF


def _insn(step: Fields) -> GuestStep:
    name = step.choice("insn", ("pvalidate", "rmpadjust", "wrmsr", "rdmsr"))
    if name == "pvalidate":
        step.only("insn", "rax", "ecx", "edx")
        return Pvalidate(
            step.number("rax"), step.number("ecx", 0, high=U32_MAX), step.number("edx", 0, high=U32_MAX)
        )
    if name == "rmpadjust":
        step.only("insn", "rax", "ecx", "rdx")
        return Rmpadjust(step.number("rax"), step.number("ecx", 0, high=U32_MAX), step.number("rdx", 0))
    if name == "rdmsr":
        step.only("insn", "ecx")
        return Rdmsr(step.number("ecx", high=U32_MAX))
    step.only("insn", "ecx", "rax", "rdx")
    rax = step.number("rax", 0)  # all 64 bits of the value, unless RDX is given
    value = step.number("rdx") << 32 & U32_MAX << 32 | rax & U32_MAX if "rdx" in step else rax
    return Wrmsr(step.number("ecx", high=U32_MAX), value)


def _exit(step: Fields) -> GuestStep:
    step.only("exit")
    return Leave(step.choice("exit", ("vmgexit", "hlt", "shutdown")))


KINDS: Steps[GuestStep] = Steps(
    {"touch": touch(Touch), "read": read(Read), "insn": _insn, "exit": _exit}, Read
)
