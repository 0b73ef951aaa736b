"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from protocol.arch.tdx.cpu import REGISTER_NAMES
from protocol.arch.tdx.guest import GuestStep, Leave, Read, Tdcall, Touch
from protocol.arch.tdx.machine.steps import LEAVES
from protocol.keyboard import Fields
from protocol.keyboard.steps import Steps, read, touch

NAMED = tuple(name for name in REGISTER_NAMES if name != "rsp")


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


KINDS: Steps[GuestStep] = Steps(
    {
        "touch": touch(Touch),
        "read": read(Read),
        "call": _call,
        "exit": _exit,
    },
    Read,
)
