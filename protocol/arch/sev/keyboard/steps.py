"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from protocol.arch.sev.guest import GuestStep, Leave, Pvalidate, Rdmsr, Read, Rmpadjust, Touch, Wrmsr
from protocol.keyboard import Fields

STEPS = 65536  # of one request, and of one program
READ_BYTES = 1 << 20  # of one step
VALUE_BYTES = 1 << 20
U32_MAX = 0xFFFF_FFFF


def parse(fields: Fields) -> list[GuestStep]:
    """The steps in `do`. Raises Complaint."""
    return [_step(step) for step in fields.objects("do", STEPS)]


def _step(step: Fields) -> GuestStep:
    kinds = [name for name in _KINDS if name in step]
    if len(kinds) != 1:
        raise step.wrong(kinds[1] if kinds else "step", f"exactly one of {', '.join(_KINDS)} in a step")
    return _KINDS[kinds[0]](step)


def _touch(step: Fields) -> GuestStep:
    step.only("touch", "write", "value")
    write = step.flag("write")
    if "value" in step and not write:
        raise step.wrong("value", "only with write")
    return Touch(step.number("touch"), write, step.data("value", VALUE_BYTES, b"\0"))


def _read(step: Fields) -> GuestStep:
    step.only("read", "len")
    return Read(step.number("read"), step.number("len", high=READ_BYTES))


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


_KINDS = {"touch": _touch, "read": _read, "insn": _insn, "exit": _exit}
