"""What a guest is told to do, as it is typed: JSON to steps of its program."""

from __future__ import annotations

from typing import Any

from protocol.arch.pef import cpu as power
from protocol.arch.pef.cpu import Exit
from protocol.arch.pef.guest import Fetch, GuestStep, Hypercall, Interrupt, Read, Touch, Ultracall
from protocol.arch.pef.tables import PAGE
from protocol.keyboard import Fields
from protocol.keyboard.steps import Steps, read, touch

VECTORS = (
    *(power.RESET, power.MACHINE_CHECK, power.EXTERNAL, power.DECREMENTER, power.EMULATION_ASSIST),
    *(power.MAINTENANCE, power.DOORBELL, power.VIRTUALIZATION, power.FACILITY),
)
GPR_NAMES = tuple(f"r{number}" for number in range(power.GPRS))


def _call(step: Fields) -> Ultracall:
    step.only("call", "pr")
    return Ultracall(_named(step.inner("call")), step.flag("pr"))


def _hcall(step: Fields) -> Hypercall:
    step.only("hcall", "do")
    nested = tuple(KINDS.parse(step)) if "do" in step else ()
    if any(isinstance(each, Hypercall) and each.nested for each in nested):
        raise step.wrong("do", "steps without do: a nested guest runs no guest of its own")
    return Hypercall(_named(step.inner("hcall")), nested)


def _fetch(step: Fields) -> Fetch:
    step.only("fetch")
    return Fetch(step.number("fetch"))


def _exit(step: Fields) -> Interrupt:
    step.only("exit")
    vector = step.number("exit")
    if vector not in VECTORS:
        raise step.wrong("exit", ", ".join(hex(vector) for vector in VECTORS))
    return Interrupt(vector)


def _named(call: Fields) -> tuple[int, ...]:
    """Registers of a call: its number has to be there, one that is not named is zero."""
    call.only(*GPR_NAMES)
    call.number("r3")
    return tuple(registers(call))


def registers(fields: Fields, default: list[int] | None = None) -> list[int]:
    """32 registers; one that is not named is as in `default`, or zero."""
    start = default or [0] * power.GPRS
    return [fields.number(name, start[number]) for number, name in enumerate(GPR_NAMES)]


def shown(left: Exit, done: list[dict[str, Any]]) -> dict[str, Any]:
    """An exit, and the results of steps, as an answer tells of them."""
    body: dict[str, Any] = {
        "trap": hex(left.trap),
        "vm": hex(left.lpid),
        "vcpu": hex(left.vcpu),
        "secure": left.secure,
    }
    body |= {f"r{number}": hex(left.gpr[number]) for number in (*range(3, 13), 31)}
    for name in ("srr0", "srr1", "hsrr0", "hsrr1", "hdar", "hdsisr", "asdr"):
        body[name] = hex(getattr(left, name))
    return body | {"steps": done}


KINDS: Steps[GuestStep] = Steps(
    {
        "call": _call,
        "hcall": _hcall,
        "touch": touch(Touch, most=PAGE, value=bytes(8)),
        "read": read(Read),
        "fetch": _fetch,
        "exit": _exit,
    },
    Read,
)
