"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from collections.abc import Callable

from protocol.arch.tdx.cpu import REGISTER_NAMES
from protocol.arch.tdx.guest import GuestStep, Leave, Read, Tdcall, Touch
from protocol.arch.tdx.machine.steps import LEAVES
from protocol.keyboard import Fields

STEPS = 65536  # of one request, and of one program
READ_BYTES = 1 << 20  # of one step
VALUE_BYTES = 1 << 20
NAMED = tuple(name for name in REGISTER_NAMES if name != "rsp")


def parse(fields: Fields) -> list[GuestStep]:
    """The steps in `do`. Raises Complaint."""
    return [_step(step) for step in fields.objects("do", STEPS)]


def _step(step: Fields) -> GuestStep:
    kinds = [name for name in _KINDS if name in step]
    if len(kinds) != 1:
        raise step.wrong(kinds[1] if kinds else "step", f"exactly one of {', '.join(_KINDS)} in a step")
    return _KINDS[kinds[0]](step)


def _touch(step: Fields) -> Touch:
    step.only("touch", "write", "value")
    write = step.flag("write")
    if "value" in step and not write:
        raise step.wrong("value", "only with write")
    return Touch(step.number("touch"), write, step.data("value", VALUE_BYTES, b"\0"))


def _read(step: Fields) -> Read:
    step.only("read", "len")
    return Read(step.number("read"), step.number("len", high=READ_BYTES))


def _call(step: Fields) -> Tdcall:
    step.only("call")
    call = step.inner("call")
    call.only(*NAMED)
    call.number("rax")
    return Tdcall(registers(call))


def _exit(step: Fields) -> Leave:
    step.only("exit")
    return Leave(step.choice("exit", LEAVES))


def registers(fields: Fields) -> tuple[int, ...]:
    """Sixteen registers; one that is not named is zero."""
    return tuple(fields.number(name, 0) if name != "rsp" else 0 for name in REGISTER_NAMES)


_KINDS: dict[str, Callable[[Fields], GuestStep]] = {
    "touch": _touch,
    "read": _read,
    "call": _call,
    "exit": _exit,
}
