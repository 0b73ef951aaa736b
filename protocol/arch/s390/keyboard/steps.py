"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from collections.abc import Callable

from protocol.arch.s390.guest import (
    Diag,
    GuestStep,
    Lctl,
    Load,
    Loop,
    Read,
    Sclp,
    SetCpu,
    Sigp,
    Spx,
    Touch,
    Uvc,
    Wait,
)
from protocol.keyboard import Fields
from protocol.keyboard.steps import Steps, read, touch

U32_MAX = 0xFFFF_FFFF


def _load(step: Fields) -> Load:
    step.only("load", "len", "gpr")
    return Load(step.number("load"), step.number("len", low=1, high=8), step.number("gpr", high=15))


def _cpu(step: Fields) -> SetCpu:
    step.only("cpu")
    cpu = step.inner("cpu")
    cpu.only("gprs", "timer", "problem_state")
    gprs = cpu.inner("gprs", {})
    gprs.only(*map(str, range(16)))
    return SetCpu(
        tuple((int(name), gprs.number(name)) for name in gprs),
        cpu.number("timer") if "timer" in cpu else None,
        cpu.flag("problem_state") if "problem_state" in cpu else None,
    )


def _call(step: Fields) -> Uvc:
    step.only("call")
    call = step.inner("call")
    call.only("r2", "r1", "m3", "m4")
    return Uvc(
        call.number("r2"), call.number("r1", 0), call.number("m3", 0, high=15), call.number("m4", 0, high=15)
    )


def _exit(step: Fields) -> GuestStep:
    return _EXITS[step.choice("exit", _EXITS)](step)


def _diag(step: Fields) -> Diag:
    step.only("exit", "code", "r1", "r3")
    return Diag(
        step.number("code", high=0xFFFF), step.number("r1", 0, high=15), step.number("r3", 0, high=15)
    )


def _spx(step: Fields) -> Spx:
    step.only("exit", "prefix")
    return Spx(step.number("prefix", high=U32_MAX))


def _sigp(step: Fields) -> Sigp:
    step.only("exit", "order", "address", "parameter")
    return Sigp(
        step.number("order", high=0xFF), step.number("address", 0, high=0xFFFF), step.number("parameter", 0)
    )


def _sclp(step: Fields) -> Sclp:
    step.only("exit", "command", "gpa")
    return Sclp(step.number("command", high=U32_MAX), step.number("gpa"))


def _wait(step: Fields) -> Wait:
    step.only("exit")
    return Wait()


def _lctl(step: Fields) -> Lctl:
    step.only("exit", "cr")
    return Lctl(step.number("cr", high=15))


def _loop(step: Fields) -> Loop:
    step.only("exit")
    return Loop()


_EXITS: dict[str, Callable[[Fields], GuestStep]] = {
    "diag": _diag,
    "spx": _spx,
    "sigp": _sigp,
    "sclp": _sclp,
    "wait": _wait,
    "lctl": _lctl,
    "loop": _loop,
}
KINDS: Steps[GuestStep] = Steps(
    {
        "touch": touch(Touch),
        "read": read(Read),
        "load": _load,
        "cpu": _cpu,
        "call": _call,
        "exit": _exit,
    },
    Read,
)
