"""Registers: a host's CPU, a vcpu on its way in, an exit on its way out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocol.arch.pef.guest import Program
from protocol.arch.pef.tables import MSR_SF
from protocol.effects import Fault

GPRS = 32
HCALL = 0xC00
DATA_STORAGE, INSTRUCTION_STORAGE = 0xE00, 0xE20
RESET, MACHINE_CHECK, EXTERNAL, DECREMENTER = 0x100, 0x200, 0x500, 0x980
EMULATION_ASSIST, MAINTENANCE, DOORBELL, VIRTUALIZATION, FACILITY = 0xE40, 0xE60, 0xE80, 0xEA0, 0xF80
PROGRAM = 0x700

TM_STATES = ("none", "active", "suspended")


def gprs(**named: int) -> list[int]:
    """32 registers, zero but for the named ones."""
    out = [0] * GPRS
    for name, value in named.items():
        out[int(name[1:])] = value
    return out


def machine_check(address: int, write: bool = False) -> Fault:
    return Fault(MACHINE_CHECK, "machine check", address, write)


@dataclass(slots=True)
class Cpu:
    """One CPU of a host, with its context. `origin` is the level it works for just now: its own, or above."""

    number: int
    hv: bool = True
    pr: bool = False
    tm: str = "none"
    lpidr: int = 0
    pidr: int = 0
    origin: int = 0

    def reset(self) -> None:
        self.hv, self.pr, self.tm, self.lpidr, self.pidr = True, False, "none", 0, 0


@dataclass(slots=True)
class Entry:
    """A vcpu as its hypervisor enters it by HRFID: a VM, registers, and the program that its code stands for.

    `stay`: the CPU stays in the guest when that has nothing to do.
    """

    lpid: int
    vcpu: int
    gpr: list[int]
    nip: int
    msr: int
    program: Program
    stay: bool = False
    pidr: int = 0

    @classmethod
    def from_fields(cls, lpid: int, vcpu: int, gpr: tuple[int, ...], *more: Any) -> Entry:
        """An entry that crossed a link: its registers arrive as a tuple."""
        return cls(lpid, vcpu, list(gpr), *more)


@dataclass(slots=True)
class Exit:
    """What a hypervisor finds in its registers. `secure`: the ultravisor reflected it.

    `last`: where that comes back the ultravisor gives up. A hypervisor of guest hosts has to know; that the
    ultravisor says so beside the registers is a guess, part of the change that nesting needs.
    """

    trap: int
    lpid: int
    vcpu: int
    gpr: list[int]
    secure: bool = False
    srr0: int = 0
    srr1: int = MSR_SF
    hsrr0: int = 0
    hsrr1: int = 0
    hdar: int = 0
    hdsisr: int = 0
    asdr: int = 0
    program: Program | None = None  # what runs in that vcpu
    last: bool = False

    @classmethod
    def from_fields(cls, trap: int, lpid: int, vcpu: int, gpr: tuple[int, ...], *more: Any) -> Exit:
        """An exit that crossed a link: its registers arrive as a tuple."""
        return cls(trap, lpid, vcpu, list(gpr), *more)


@dataclass(slots=True)
class Return:
    """The registers of a UV_RETURN: R0, R2, R4..R12, R31 in `gpr`, and HSRR0."""

    gpr: list[int]
    hsrr0: int
    stay: bool = False
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The host's machine stands still: the ultravisor panicked."""

    reason: str


@dataclass(slots=True)
class Vcpu:
    """A vcpu that runs: its registers as the guest has them. `secure` is its MSR[S]."""

    lpid: int
    number: int
    gpr: list[int]
    nip: int
    msr: int
    program: Program
    pidr: int = 0
    secure: bool = False
    stay: bool = field(default=False)
