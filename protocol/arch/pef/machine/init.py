"""Discovery and the platform's own calls: there is no call that starts the ultravisor.

Debug registers of the host are modelled as plain registers. No chip register, no firmware memory and no boot
engine is: their allow-lists are empty, so that every such call is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.status import PARAMETER, PERMISSION, SUCCESS

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

DAWR, DAWRX, CIABR, LDBAR, IMC = 0xB4, 0xBC, 0xBB, 0x352, 0x31F
READABLE = (DAWR, DAWRX, CIABR)
WRITABLE = (*READABLE, LDBAR, IMC)


class DebugRegisters:
    """The restricted registers of each CPU of a host."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[tuple[int, int], int] = {}

    def write(self, cpu: Cpu, gpr: list[int]) -> int:
        if gpr[4] not in WRITABLE:
            return PARAMETER
        self._values[cpu.number, gpr[4]] = gpr[5]
        return SUCCESS

    def read(self, cpu: Cpu, gpr: list[int]) -> int:
        if gpr[4] not in READABLE:
            return PARAMETER
        gpr[5] = self._values.get((cpu.number, gpr[4]), 0)
        return SUCCESS


def restricted_spr_write(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    return machine.debug.write(cpu, gpr)


def restricted_spr_read(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    return machine.debug.read(cpu, gpr)


def refused(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    """Nothing is on the allow-list."""
    return PERMISSION
