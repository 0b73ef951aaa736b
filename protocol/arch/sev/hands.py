"""What a host's kernel can do with its hands, counted: the mailbox, the RMP, WBINVD, VMRUN, memory.

The console's ops and the sequences of a host's own software go through here, so both are counted alike:
what was issued, refused or not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.cpu import TRAP_PSMASH, TRAP_RMPUPDATE, Cpu
from protocol.arch.sev.guest import Program
from protocol.arch.sev.instructions import INSTRUCTIONS, MASK32, Registers, Results
from protocol.arch.sev.structs import Exit
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.nesting.composition import Seat

_COUNTED = {"rmpupdate", "psmash", "wbinvd"}
_TRAPS = {TRAP_RMPUPDATE: "rmpupdate", TRAP_PSMASH: "psmash"}


class Hands:
    """Of the host on `seat`, whose guests run at `guest_level`."""

    def __init__(self, seat: Seat, guest_level: int) -> None:
        self.seat = seat
        self.guest_level = guest_level
        self._psp: defaultdict[str, int] = defaultdict(int)
        self._instructions: defaultdict[str, int] = defaultdict(int)

    def cpu(self, number: int) -> Cpu:
        cpu: Cpu = self.seat.cpus[number]
        return cpu

    def mailbox(
        self, cpu: int, cmdresp: int, address: int, park: bool = False, lose: bool = False
    ) -> Step[int]:
        """CmdResp afterwards."""
        code = cmdresp >> 16 & 0x7FF
        spec = self.seat.level.calls.get(code)
        self._psp[spec.name if spec is not None else f"{code:#05x}"] += 1
        step: Step[int] = self.seat.level.call(self.cpu(cpu), cmdresp, address, park, lose)
        return step

    def instruction(self, cpu: int, name: str, r: Registers) -> Step[Results | Fault]:
        counted = _TRAPS.get(r.rcx & MASK32, "") if name == "wrmsr" else name
        if counted in _COUNTED:
            self._instructions[counted] += 1
        return INSTRUCTIONS[name][0](self.seat.level, self.cpu(cpu), r)

    def wbinvd(self, cpu: Cpu) -> Step[None]:
        """By the kernel, on any CPU of the level."""
        self._instructions["wbinvd"] += 1
        step: Step[None] = self.seat.level.wbinvd(cpu)
        return step

    def vmrun(self, cpu: int, vmcb: int, program: Program, stay: bool = False) -> Step[Exit | Fault]:
        step: Step[Exit | Fault] = self.seat.level.enter(self.cpu(cpu), vmcb, program, stay, self.guest_level)
        return step

    def counted(self) -> dict[str, Any]:
        return {"psp": dict(self._psp), **self._instructions}
