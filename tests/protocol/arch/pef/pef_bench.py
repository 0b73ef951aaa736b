"""A rig with a host's KVM on it, driven inline: for tests of what a console does not show."""

from __future__ import annotations

from random import Random
from typing import Any

from protocol.arch.pef import front
from protocol.arch.pef.compose import Rig, Seat, compose
from protocol.arch.pef.cpu import Exit, gprs
from protocol.arch.pef.guest import GuestStep, Touch, Ultracall
from protocol.arch.pef.kvm import Kvm, vmm
from protocol.arch.pef.kvm import run as running
from protocol.arch.pef.kvm.vm import Vm
from protocol.arch.pef.profiles import MIB, PROFILES, Profile
from protocol.effects import run

LPID = 3


class Bench:
    """One host at `depth`, and its KVM."""

    def __init__(
        self, depth: int, memory_mib: int = 64, profile: Profile = PROFILES["small"], **options: Any
    ) -> None:
        self.rig: Rig = compose(profile, depth, 1, memory_mib * MIB, 1, 7, **options)
        self.seat: Seat = self.rig.seats[0]
        self.kvm = Kvm(self.seat.level, depth > 0, Random(1))
        self.cpu = self.seat.cpus[0]

    @property
    def ledger(self) -> Any:
        return self.rig.ledger

    def vm(self, size: int = 8 * MIB, slot_gpa: int = 0) -> Vm:
        ret, lpid = run(vmm.create_vm(self.kvm, self.cpu, LPID, tpm_proxy=True))
        assert ret == 0
        vm = self.kvm.vms[lpid]
        assert run(vmm.set_memory(self.kvm, self.cpu, vm, 0, slot_gpa, size)) == 0
        assert vmm.create_vcpu(vm, 0) == 0
        assert vmm.enable_cap(self.kvm, vm, vmm.SECURE_GUEST) == 0
        return vm

    def load(self, vm: Vm, kernel: int = 0x20000, initrd: int = 0x10000) -> Any:
        areas = run(vmm.load(self.kvm, self.cpu, vm, MIB, kernel, initrd, "quiet", "bench"))
        assert isinstance(areas, dict)
        return areas

    def esm(self, vm: Vm, areas: Any) -> None:
        self.enter(vm, esm_step(areas))
        assert vm.secure

    def svm(self, size: int = 8 * MIB) -> Vm:
        vm = self.vm(size)
        self.esm(vm, self.load(vm))
        return vm

    def enter(self, vm: Vm, *steps: GuestStep, vcpu: int = 0) -> Exit:
        it = vm.vcpus[vcpu]
        it.program.steps.extend(steps)
        return run(running.enter(self.kvm, self.cpu, vm, it, stay=False))

    def results(self, vm: Vm, *steps: GuestStep) -> list[dict[str, Any]]:
        self.enter(vm, *steps)
        return vm.vcpus[0].program.collect()


def esm_step(areas: Any) -> Ultracall:
    return Ultracall(tuple(gprs(r3=front.ESM, r4=areas["kernel"].address, r5=areas["fdt"].address)))


def share_step(gfn: int, count: int = 1) -> Ultracall:
    return Ultracall(tuple(gprs(r3=front.SHARE_PAGE, r4=gfn, r5=count)))


def store(gpa: int, value: bytes) -> Touch:
    return Touch(gpa, write=True, value=value)
