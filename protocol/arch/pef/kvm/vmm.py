"""System calls of the VMM, what it loads, and its TPM device: sections 4.3, 6.4 to 6.6 of the fact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef import front, hcalls, image, tpm
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.image import Area
from protocol.arch.pef.kvm import nested, pages, svm
from protocol.arch.pef.kvm.frames import Arena, OutOfMemory
from protocol.arch.pef.kvm.vm import NO_FRAME, KvmVcpu, Memslot, Vm
from protocol.arch.pef.radix import entry_of
from protocol.arch.pef.status import FUNCTION, P3, P5, PARAMETER, RESOURCE, SUCCESS
from protocol.arch.pef.tables import ADDRESS_LIMIT, MEM_SLOTS, PAGE
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

ENOMEM, EBUSY, EEXIST, EINVAL, ENOSPC = -12, -16, -17, -22, -28
SECURE_GUEST, NESTED_HV = "KVM_CAP_PPC_SECURE_GUEST", "KVM_CAP_PPC_NESTED_HV"
VCPUS = 2048
MOST_BYTES = 1 << 38  # of one VM: a word and a frame for each of its GFNs are real


def capabilities(kvm: Kvm) -> tuple[str, ...]:
    """What KVM_CHECK_EXTENSION says yes to."""
    return (SECURE_GUEST, NESTED_HV) if kvm.has_ultravisor else (NESTED_HV,)


# -- VMs ---------------------------------------------------------------------------------------------------


def create_vm(kvm: Kvm, cpu: Cpu, lpid: int | None, tpm_proxy: bool) -> Step[tuple[int, int]]:
    """(return value, LPID). The VM is radix, and in the partition table."""
    if lpid is None:
        lpid = yield from kvm.level.new_lpid(cpu)
    if lpid is None:
        lpid = kvm.free_lpid()
    if not lpid:
        return ENOSPC, 0
    if lpid in kvm.vms or lpid in kvm.shadows:
        return EEXIST, lpid
    arena = Arena(kvm.frames)
    try:
        tree = kvm.tree(arena)
    except OutOfMemory:
        yield from kvm.level.give_lpid(cpu, lpid)
        return ENOMEM, lpid
    kvm.vms[lpid] = Vm(lpid, tree, arena, tpm_proxy)
    yield from kvm.write_entry(cpu, lpid, entry_of(tree.root), 0)
    return 0, lpid


def configure_mmu(kvm: Kvm, cpu: Cpu, vm: Vm, radix: bool) -> Step[int]:
    """A KVM that runs itself as a guest has radix VMs only."""
    if not radix and kvm.guest:
        return EINVAL
    if vm.flags or any(vcpu.running for vcpu in vm.vcpus.values()):
        return EINVAL
    vm.radix = radix
    yield from kvm.write_entry(cpu, vm.lpid, entry_of(vm.tree.root, radix), 0)
    return 0


def create_vcpu(vm: Vm, number: int) -> int:
    if number in vm.vcpus:
        return EEXIST
    if number >= VCPUS:
        return EINVAL
    vm.vcpus[number] = KvmVcpu(number)
    return 0


def enable_cap(kvm: Kvm, vm: Vm, cap: str) -> int:
    if cap not in capabilities(kvm):
        return EINVAL
    if cap == SECURE_GUEST:
        vm.svm_enabled = True
    else:
        vm.nested_enabled = True
    return 0


# -- memory ------------------------------------------------------------------------------------------------


def set_memory(kvm: Kvm, cpu: Cpu, vm: Vm, number: int, gpa: int, size: int) -> Step[int]:
    """A slot is made or, with size 0, deleted; to change one is refused."""
    old = vm.slots.get(number)
    if number >= MEM_SLOTS or gpa % PAGE or size % PAGE or gpa + size > ADDRESS_LIMIT:
        return EINVAL
    if not size:
        if old is None:
            return EINVAL
        yield from _delete(kvm, cpu, vm, old)
        return 0
    if old is not None:
        return 0 if (old.gpa, old.size) == (gpa, size) else EINVAL
    if size + sum(slot.size for slot in vm.slots.values()) > MOST_BYTES:
        return ENOMEM
    made = Memslot.make(number, gpa, size)
    if vm.overlaps(made.first, made.end):
        return EEXIST
    vm.slots[number] = made
    if vm.flags and (yield from svm.register(kvm, cpu, vm, made)) == SUCCESS:
        yield from svm.silently(kvm, cpu, vm, made)
    return 0


def _delete(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot) -> Step[None]:
    for place in (slot.frames != NO_FRAME).nonzero()[0].tolist():
        yield from pages.unmap(kvm, cpu, vm, slot.first + place)
    if vm.flags:
        yield from kvm.ucall(cpu, front.UNREGISTER_MEM_SLOT, vm.lpid, slot.number)
    pages.drop_slot(kvm, slot)
    del vm.slots[slot.number]


def svm_off(kvm: Kvm, cpu: Cpu, vm: Vm) -> Step[int]:
    """KVM_PPC_SVM_OFF: the VM begins again as a normal one. What was inside the ultravisor is lost."""
    if not vm.flags:
        return 0
    if any(vcpu.running for vcpu in vm.vcpus.values()):
        return EBUSY
    for slot in vm.in_order():
        pages.drop_devices(kvm, slot)
        yield from kvm.ucall(cpu, front.UNREGISTER_MEM_SLOT, vm.lpid, slot.number)
    if (yield from kvm.ucall(cpu, front.SVM_TERMINATE, vm.lpid)) != SUCCESS:
        return EINVAL
    yield from kvm.write_entry(cpu, vm.lpid, entry_of(vm.tree.root, vm.radix), 0)
    vm.flags = 0
    for vcpu in vm.vcpus.values():
        vcpu.restart()
    return 0


def close(kvm: Kvm, cpu: Cpu, vm: Vm) -> Step[int]:
    """Destroy a VM. Its memory goes first, without a call; no slot is unregistered."""
    if any(vcpu.running for vcpu in vm.vcpus.values()):
        return EBUSY
    yield from nested.drop_all(kvm, cpu, vm)
    for slot in vm.slots.values():
        pages.drop_slot(kvm, slot)
    if vm.flags:
        yield from kvm.ucall(cpu, front.SVM_TERMINATE, vm.lpid)
    yield from kvm.write_entry(cpu, vm.lpid, 0, 0)
    yield from kvm.level.give_lpid(cpu, vm.lpid)
    vm.arena.give_all()
    del kvm.vms[vm.lpid]
    kvm.gives_back(vm.lpid)
    return 0


# -- boot and devices --------------------------------------------------------------------------------------


def load(
    kvm: Kvm, cpu: Cpu, vm: Vm, at: int, kernel: int | bytes, initrd: int, cmdline: str, seed: str
) -> Step[Mapping[str, Area] | Fault]:
    """Write what a boot needs into guest memory. Raises ValueError if it does not fit."""
    slot = vm.slot_of(at // PAGE)
    if slot is None:
        raise ValueError(f"{at:#x} lies in no slot")
    end = slot.gpa + slot.size
    memory = (slot.gpa, slot.size)
    areas = image.build(at, end, memory, kernel, initrd, cmdline, kvm.level.tpm_public(), seed)
    for area in areas.values():
        fault = yield from pages.store(kvm, cpu, vm, area.address, area.data)
        if fault is not None:
            return fault
    return areas


def tpm_comm(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    """H_SVM_TPM_COMM: the VMM's TPM device."""
    if not vm.tpm_proxy:
        return FUNCTION
    operation, source, length, target, room = gpr[4:9]
    if operation == hcalls.TPM_CLOSE:
        yield from kvm.level.tpm_close(cpu)
        return SUCCESS
    if operation != hcalls.TPM_EXECUTE:
        return PARAMETER
    if length > tpm.BUFFER:
        return P3
    if room < tpm.BUFFER:
        return P5
    command = yield from pages.load(kvm, cpu, vm, source, length)
    if isinstance(command, Fault):
        return RESOURCE
    answer = yield from kvm.level.tpm_execute(cpu, command)
    if (yield from pages.store(kvm, cpu, vm, target, answer)) is not None:
        return RESOURCE
    gpr[4] = len(answer)
    return SUCCESS
