"""A host CPU as the secure processor and the RMP look at it: its MSRs, and the exceptions that it can take.

Contract of the console, `insn`; SYSCFG and the RMP's bounds: sections 5.1 and 5.7 of the fact sheet.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.effects import Fault

UD, GP, PF, VC = 0x6, 0xD, 0xE, 0x1D
NAMES = {UD: "#UD", GP: "#GP", PF: "#PF", VC: "#VC"}
PF_PRESENT, PF_WRITE, PF_USER = 1, 2, 4
PF_RMP = 1 << 31
VC_NOT_VALIDATED = 0x404

SYSCFG = 0xC001_0010
VM_HSAVE_PA = 0xC001_0117
GHCB_MSR = 0xC001_0130
RMP_BASE = 0xC001_0132
RMP_END = 0xC001_0133
TRAP_RMPUPDATE = 0xC001_F001
TRAP_PSMASH = 0xC001_F002

MFDM = 1 << 19
SME = 1 << 23
SNP_EN = 1 << 24
VMPL_EN = 1 << 25
_SYSCFG_BITS = MFDM | SME | SNP_EN | VMPL_EN
_MSRS = {SYSCFG: "syscfg", VM_HSAVE_PA: "hsave", RMP_BASE: "rmp_base", RMP_END: "rmp_end"}
PHYSICAL_BITS = 52


@dataclass(frozen=True, slots=True)
class X86Fault(Fault):
    """An exception with its error code."""

    error: int = 0


def fault(code: int, address: int = 0, write: bool = False, error: int = 0) -> X86Fault:
    return X86Fault(code, NAMES[code], address, write, error)


def gp() -> X86Fault:
    return fault(GP)


def not_present(address: int, write: bool) -> X86Fault:
    """The linear map maps memory and nothing else."""
    return fault(PF, address, write, PF_WRITE if write else 0)


def rmp_violation(address: int) -> X86Fault:
    """A store to a page that is assigned."""
    return fault(PF, address, True, PF_RMP | PF_WRITE | PF_PRESENT)


@dataclass(slots=True)
class Cpu:
    """One CPU (thread) of a host.

    `origin` is the level for which it works just now: its own, or a guest host's.
    """

    number: int
    cpl: int = 0
    syscfg: int = SME
    hsave: int = 0
    rmp_base: int = 0
    rmp_end: int = 0
    origin: int = 0

    @property
    def core(self) -> int:
        """Threads 2n and 2n + 1 share core n, and each core is a core complex of its own."""
        return self.number >> 1

    @property
    def snp(self) -> bool:
        return bool(self.syscfg & SNP_EN)

    def reset(self) -> None:
        self.cpl = 0
        self.syscfg = SME
        self.hsave = self.rmp_base = self.rmp_end = 0

    def read_msr(self, number: int) -> int | X86Fault:
        name = _MSRS.get(number)
        if name is None:
            return gp()
        value: int = getattr(self, name)
        return value

    def write_msr(self, number: int, value: int) -> X86Fault | None:
        """Bits of SYSCFG that this machine lacks are #GP (guess); SNP_EN once set stays."""
        name = _MSRS.get(number)
        if name is None:
            return gp()
        if number == SYSCFG:
            if value & ~_SYSCFG_BITS:
                return gp()
            value |= self.syscfg & SNP_EN
        elif number == VM_HSAVE_PA:
            if value & 0xFFF or value >> PHYSICAL_BITS:
                return gp()
        elif self.snp:
            return gp()
        setattr(self, name, value)
        return None
