"""VMRUN:

enter a guest, run its program until something has to be told to the host. Section 5.7 of the fact sheet.

Steps of the guest are in `steps`. An entry that is INVALID runs nothing of the guest. What VMRUN stores, it
stores as the hardware: the VMCB's page was looked at before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.arch.sev.books import is_dram
from protocol.arch.sev.cpu import Cpu, gp
from protocol.arch.sev.crypto.keys import MemoryKey
from protocol.arch.sev.guest import Program
from protocol.arch.sev.machine import steps
from protocol.arch.sev.rmp import VALIDATED, VMSA
from protocol.arch.sev.structs import (
    ES_ON,
    EXIT_INTR,
    EXIT_INVALID,
    NESTED_PAGING,
    PAGE,
    SEV_ON,
    SNP_ACTIVE,
    U64,
    VMCB_EXITCODE,
    VMCB_GHCB,
    VMCB_READ,
    VMSA_FEATURES,
    VMSA_VMPL,
    Exit,
    Vmcb,
)
from protocol.effects import Fault, Idle, Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

PLAIN_ASIDS = 0x8000  # of guests without encryption, which share no key
REASONS = {
    0x60: "intr",
    0x78: "hlt",
    0x7F: "shutdown",
    0x400: "npf",
    0x403: "vmgexit",
    EXIT_INVALID: "invalid",
}


@dataclass(slots=True)
class Vcpu:
    """A VCPU for the time of one entry. `key` is None for a guest without encryption."""

    vmcb: Vmcb
    ghcb: int
    es: bool = False
    snp: bool = False
    vmpl: int = 0
    key: MemoryKey | None = None

    @property
    def asid(self) -> int:
        return self.vmcb.asid


class Svm:
    """The instruction, on one machine."""

    def __init__(self, fw: Machine) -> None:
        self.fw = fw

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
        if not self._ready(cpu, vmcb):
            return gp()
        control = Vmcb.unpack(self.fw.fetch(vmcb, VMCB_READ))
        vcpu = self._acceptable(cpu, control)
        if vcpu is None:
            return self._leave(vmcb, None, program, level, Exit(EXIT_INVALID))
        running = control.vmsa // PAGE if vcpu.snp else None
        if running is not None:
            self.fw.rmp.running.add(running)
        try:
            left = yield from self._run(vcpu, program, stay)
        finally:
            if running is not None:
                self.fw.rmp.running.discard(running)
        return self._leave(vmcb, vcpu, program, level, left)

    def _ready(self, cpu: Cpu, vmcb: int) -> bool:
        """Privilege, the host's save area, the VMCB's place; under SNP both pages have to be the
        hypervisor's.
        """
        fw = self.fw
        if cpu.cpl or not cpu.hsave or vmcb % PAGE:
            return False
        if not is_dram(fw.size, cpu.hsave, PAGE) or not is_dram(fw.size, vmcb, PAGE):
            return False
        return not fw.rmp.assigned(cpu.hsave // PAGE) and not fw.rmp.assigned(vmcb // PAGE)

    # -- before anything of the guest runs --------------------------------------------------------------

    def _acceptable(self, cpu: Cpu, control: Vmcb) -> Vcpu | None:
        sev, es = bool(control.mode & SEV_ON), bool(control.mode & ES_ON)
        if not control.asid or not control.mode & NESTED_PAGING or (es and not sev):
            return None
        if not sev:
            return Vcpu(control, control.ghcb) if control.asid < PLAIN_ASIDS else None
        asids = self.fw.platform.asids
        if not asids.may_run(control.asid, cpu.core):
            return None
        key = self.fw.key_of(control.asid)
        if es:
            return self._with_vmsa(control, key)
        # An ASID of the lower range has encrypted registers, so it cannot run without (inferred).
        return None if control.asid < asids.min_sev else Vcpu(control, control.ghcb, key=key)

    def _with_vmsa(self, control: Vmcb, key: MemoryKey) -> Vcpu | None:
        fw, frame = self.fw, control.vmsa // PAGE
        if control.vmsa % PAGE or not is_dram(fw.size, control.vmsa, PAGE):
            return None
        area = fw.plain(key, control.vmsa, PAGE)
        if not U64.unpack_from(area, VMSA_FEATURES)[0] & SNP_ACTIVE:
            if not self._vmsa_proven(control):
                return None
            return Vcpu(control, control.ghcb, es=True, key=key)
        rmp, wanted = fw.rmp, VALIDATED | VMSA
        if not rmp.assigned(frame) or rmp.asid_of(frame) != control.asid:
            return None
        if rmp.immutable(frame) or rmp.flags_of(frame) & wanted != wanted or rmp.is_busy(frame):
            return None
        return Vcpu(control, control.ghcb, es=True, snp=True, vmpl=area[VMSA_VMPL] & 3, key=key)

    def _vmsa_proven(self, control: Vmcb) -> bool:
        """The trusted region holds a checksum of every VMSA: one that the host changed does not run."""
        fw, frame = self.fw, control.vmsa // PAGE
        proof = hashlib.sha256(fw.fetch(control.vmsa, PAGE)).digest()
        return any(
            guest.asid == control.asid and guest.vmsas.get(frame) == proof
            for guest in fw.platform.guests.values()
        )

    # -- the guest runs ---------------------------------------------------------------------------------

    def _run(self, vcpu: Vcpu, program: Program, stay: bool) -> Step[Exit]:
        while True:
            while program.steps:
                left = steps.do(self.fw, vcpu, program)
                if left is not None:
                    return left
            if not stay or not (yield Idle()):
                return Exit(EXIT_INTR)

    def _leave(self, vmcb: int, vcpu: Vcpu | None, program: Program, level: int, left: Exit) -> Exit:
        """Store the exit as the hardware does."""
        reason = REASONS[left.code]
        self.fw.ledger.exit(level, reason, "vmm" if reason in program.vmm_reasons else "kernel")
        self.fw.deposit(vmcb + VMCB_EXITCODE, left.pack())
        if vcpu is not None:
            self.fw.deposit(vmcb + VMCB_GHCB, U64.pack(vcpu.ghcb))
        return left
