"""What a host's VMM asks of its kernel while it lives a plan, and the same told as a person types it.

The console of this architecture has KVM inside: a person types system calls and entries, never single
ultracalls of the kernel. So transcripts are of these, not of what the level below is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocol.arch.pef import hcalls
from protocol.arch.pef.cpu import Cpu, Exit
from protocol.arch.pef.guest import GuestStep, Hypercall, Read, Touch, Ultracall
from protocol.arch.pef.image import Area
from protocol.arch.pef.keyboard.steps import shown
from protocol.arch.pef.kvm import Kvm, pages, vmm
from protocol.arch.pef.kvm import run as running
from protocol.arch.pef.kvm.vm import KvmVcpu, Vm
from protocol.arch.pef.tables import PAGE
from protocol.effects import Fault, Step
from protocol.keyboard.recorded import Json, Say, Telling

INITRD_BYTES = PAGE
WRITE_BYTES = 1 << 20  # in one request
Done = list[dict[str, Any]]


class System:
    """The kernel of a host as its VMM meets it: return values are those of the system calls."""

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def create_vm(self, cpu: Cpu) -> Step[tuple[int, int]]:
        """(return value, LPID)."""
        return (yield from vmm.create_vm(self.kvm, cpu, None, tpm_proxy=True))

    def set_memory(self, cpu: Cpu, vm: Vm, size: int) -> Step[int]:
        """One slot from address 0 on."""
        return (yield from vmm.set_memory(self.kvm, cpu, vm, 0, 0, size))

    def create_vcpu(self, vm: Vm, number: int) -> int:
        return vmm.create_vcpu(vm, number)

    def enable_secure(self, vm: Vm) -> int:
        return vmm.enable_cap(self.kvm, vm, vmm.SECURE_GUEST)

    def load(self, cpu: Cpu, vm: Vm, at: int, kernel: bytes, seed: str) -> Step[Mapping[str, Area] | Fault]:
        return (yield from vmm.load(self.kvm, cpu, vm, at, kernel, INITRD_BYTES, "quiet", seed))

    def read(self, cpu: Cpu, vm: Vm, gpa: int, length: int) -> Step[bytes | Fault]:
        """The VMM reads guest memory."""
        return (yield from pages.load(self.kvm, cpu, vm, gpa, length))

    def enter(self, cpu: Cpu, vm: Vm, vcpu: KvmVcpu) -> Step[tuple[Exit, Done]]:
        """Run a vcpu until an exit reaches the VMM: that, and the results of its steps."""
        left = yield from running.enter(self.kvm, cpu, vm, vcpu, stay=False)
        return left, vcpu.program.collect()

    def terminated(self, cpu: Cpu, vm: Vm, left: Exit) -> Step[bool]:
        """Did the guest end by `ibm,os-term`?"""
        at = running.block_of(left)
        token = None if at is None else (yield from self.read(cpu, vm, at, hcalls.TOKEN_BYTES))
        return running.is_os_term(token)

    def svm_off(self, cpu: Cpu, vm: Vm) -> Step[int]:
        return (yield from vmm.svm_off(self.kvm, cpu, vm))

    def close(self, cpu: Cpu, vm: Vm) -> Step[int]:
        return (yield from vmm.close(self.kvm, cpu, vm))


class ToldSystem(Telling, System):
    """The same, each told as a request with its answer. See `protocol.keyboard.recorded`."""

    def __init__(self, kvm: Kvm, say: Say) -> None:
        Telling.__init__(self, say)
        System.__init__(self, kvm)

    def typed(self, step: GuestStep) -> Json:
        match step:
            case Touch(gpa, True, value):
                return {"touch": hex(gpa), "write": True, "value": value.hex()}
            case Touch(gpa):
                return {"touch": hex(gpa)}
            case Read(gpa, length):
                return {"read": hex(gpa), "len": length}
            case Ultracall(gpr, False):
                return {"call": _named(gpr)}
        assert isinstance(step, Hypercall), "no plan has another step"
        assert not step.nested, "nor a guest of a guest"
        return {"hcall": _named(step.gpr)}

    def create_vm(self, cpu: Cpu) -> Step[tuple[int, int]]:
        ret, lpid = yield from super().create_vm(cpu)
        body = {"ret": ret} if ret else {"ret": ret, "vm": hex(lpid)}
        self.tell({"ok": body}, op="kvm", cpu=cpu.number, name="KVM_CREATE_VM")
        return ret, lpid

    def set_memory(self, cpu: Cpu, vm: Vm, size: int) -> Step[int]:
        ret = yield from super().set_memory(cpu, vm, size)
        self._called("KVM_SET_USER_MEMORY_REGION", vm, ret, cpu=cpu.number, slot=0, gpa="0x0", size=hex(size))
        return ret

    def create_vcpu(self, vm: Vm, number: int) -> int:
        ret = super().create_vcpu(vm, number)
        self._called("KVM_CREATE_VCPU", vm, ret, vcpu=hex(number))
        return ret

    def enable_secure(self, vm: Vm) -> int:
        ret = super().enable_secure(vm)
        self._called("KVM_ENABLE_CAP", vm, ret, cap=vmm.SECURE_GUEST)
        return ret

    def svm_off(self, cpu: Cpu, vm: Vm) -> Step[int]:
        ret = yield from super().svm_off(cpu, vm)
        self._called("KVM_PPC_SVM_OFF", vm, ret, cpu=cpu.number)
        return ret

    def close(self, cpu: Cpu, vm: Vm) -> Step[int]:
        ret = yield from super().close(cpu, vm)
        self._called("close", vm, ret, cpu=cpu.number)
        return ret

    def _called(self, name: str, vm: Vm, ret: int, **more: Any) -> None:
        self.tell({"ok": {"ret": ret}}, op="kvm", name=name, vm=hex(vm.lpid), **more)

    def load(self, cpu: Cpu, vm: Vm, at: int, kernel: bytes, seed: str) -> Step[Mapping[str, Area] | Fault]:
        """What the VMM wrote, byte by byte: the console's own `load` makes other contents."""
        areas = yield from super().load(cpu, vm, at, kernel, seed)
        for area in () if isinstance(areas, Fault) else areas.values():
            for first in range(0, len(area.data), WRITE_BYTES):
                data = area.data[first : first + WRITE_BYTES]
                space, addr = f"vm:{vm.lpid:#x}", hex(area.address + first)
                self.tell({"ok": {}}, op="write", cpu=cpu.number, space=space, addr=addr, hex=data.hex())
        return areas

    def read(self, cpu: Cpu, vm: Vm, gpa: int, length: int) -> Step[bytes | Fault]:
        data = yield from super().read(cpu, vm, gpa, length)
        answer = self.fault(data) if isinstance(data, Fault) else {"ok": {"hex": data.hex()}}
        self.tell(answer, op="read", cpu=cpu.number, space=f"vm:{vm.lpid:#x}", addr=hex(gpa), len=length)
        return data

    def enter(self, cpu: Cpu, vm: Vm, vcpu: KvmVcpu) -> Step[tuple[Exit, Done]]:
        names = {"vm": hex(vm.lpid), "vcpu": hex(vcpu.number)}
        key = id(vm), vcpu.number
        self.queue(key, vcpu.program, **names)
        reply = {f"r{number}": hex(value) for number, value in vcpu.reply.items()}
        left, done = yield from super().enter(cpu, vm, vcpu)
        self.entered(key, vcpu.program)
        more = {"gpr": reply} if reply else {}
        self.tell({"ok": shown(left, done)}, op="enter", cpu=cpu.number, **names, **more)
        return left, done


def _named(gpr: tuple[int, ...]) -> Json:
    return {f"r{number}": hex(value) for number, value in enumerate(gpr) if value or number == 3}
