"""One level as its host meets it: the mailbox, VMRUN, the instructions that trap, and memory.

The machine and every emulation are such levels. Whether an instruction may be issued at all (privilege,
SNP_EN) was looked at before: `instructions` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.guest import Program
from protocol.arch.sev.profiles import Profile
from protocol.arch.sev.structs import Exit, NewState
from protocol.effects import Fault, Step


class Level(Protocol):
    """`nested_msr` says that RMPUPDATE and PSMASH are the trapping MSRs."""

    profile: Profile
    size: int
    cpus: list[Cpu]

    @property
    def nested_msr(self) -> bool: ...

    def call(
        self, cpu: Cpu, cmdresp: int, address: int, park: bool = False, lose: bool = False
    ) -> Step[int]: ...

    def poll(self) -> Step[None]: ...

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]: ...

    def rmpupdate(self, cpu: Cpu, address: int, new: NewState) -> Step[int]: ...

    def psmash(self, cpu: Cpu, address: int) -> Step[int]: ...

    def wbinvd(self, cpu: Cpu) -> Step[None]: ...

    def rdmsr(self, cpu: Cpu, number: int) -> Step[int | Fault]: ...

    def wrmsr(self, cpu: Cpu, number: int, value: int) -> Step[Fault | None]: ...

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]: ...

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None: ...

    def refusal(self, address: int, length: int) -> Fault | None: ...

    def clear(self, frames: Sequence[int] | np.ndarray) -> None: ...
