"""A guest host with two CPUs, whose messages overtake each other. A plain module."""

from __future__ import annotations

from random import Random
from typing import Any

from pef_bench import LPID, esm_step

from protocol.arch.pef.audit import audit
from protocol.arch.pef.compose import compose
from protocol.arch.pef.kvm import Kvm, vmm
from protocol.arch.pef.kvm import run as running
from protocol.arch.pef.kvm.vm import Vm
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.profiles import MIB, PROFILES, V1
from protocol.crossing import Crossing, inline
from protocol.effects import Step


class TwoCpus:
    """A guest host, asked by message, with one VM of two vcpus."""

    def __init__(self, seed: int, depth: int = 1, api: str = V1) -> None:
        self.rig = compose(PROFILES["small"], depth, 1, 64 * MIB, 2, 7, apart=True, api=api)
        seat = self.rig.seats[0]
        assert isinstance(seat.level, Nested)
        self.nested = seat.level
        self.below = self.rig.below(0)
        self.kvm = Kvm(self.rig.seen(seat.level), True, Random(1))
        self.cpus = seat.cpus
        self.crossing = Crossing(Random(seed))
        _, lpid = self.alone(vmm.create_vm(self.kvm, self.cpus[0], LPID if api == V1 else None, True))
        self.vm: Vm = self.kvm.vms[lpid]
        self.alone(vmm.set_memory(self.kvm, self.cpus[0], self.vm, 0, 0, 8 * MIB))
        assert [vmm.create_vcpu(self.vm, number) for number in (0, 1)] == [0, 0]
        assert vmm.enable_cap(self.kvm, self.vm, vmm.SECURE_GUEST) == 0

    def alone(self, step: Step[Any]) -> Any:
        return inline(step, self.below)

    def enter(self, number: int) -> Step[Any]:
        return running.enter(self.kvm, self.cpus[number], self.vm, self.vm.vcpus[number], stay=False)

    def secure(self) -> TwoCpus:
        areas = self.alone(vmm.load(self.kvm, self.cpus[0], self.vm, MIB, 0x20000, 0, "", "two"))
        self.vm.vcpus[0].program.steps.append(esm_step(areas))
        self.alone(self.enter(0))
        assert self.vm.secure
        return self

    def both(self, first: Step[Any], second: Step[Any], ahead: int = 0) -> list[Any]:
        """The outcomes of two steps beside each other; the first is some messages ahead."""
        threads = [self.crossing.start("0", first, self.below)]
        for _ in range(ahead):
            self.crossing.hop()
        threads.append(self.crossing.start("1", second, self.below))
        self.crossing.run()
        assert [thread.error for thread in threads] == [None, None]
        assert not self.nested._pinned and not self.nested.reserving
        assert audit(self.rig, [self.kvm])["leaks"] == []
        return [thread.value for thread in threads]
