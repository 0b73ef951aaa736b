"""H_SVM_*: what KVM does for the ultravisor.

Section 4.3 of the fact sheet, results in the order given there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.kvm import pages
from protocol.arch.pef.kvm.frames import OutOfMemory
from protocol.arch.pef.kvm.pages import OutOfDevices
from protocol.arch.pef.kvm.vm import INIT_DONE, INIT_START, MEM, NO_FRAME, SHARED, UVMEM, Memslot, Vm
from protocol.arch.pef.profiles import DOCUMENTATION
from protocol.arch.pef.status import AUTHORITY, P2, P3, PARAMETER, STATE, SUCCESS, UNSUPPORTED
from protocol.arch.pef.tables import MSR_S, ORDER, PAGE_SHIFT
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

Handler = Callable[["Kvm", Cpu, Vm, list[int]], Step[int]]


def answer(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int], srr1: int) -> Step[int]:
    """One of the calls that the kernel answers. Only INIT_ABORT comes with the guest's own SRR1."""
    number = gpr[3]
    if number != hcalls.SVM_INIT_ABORT and not srr1 & MSR_S:
        return UNSUPPORTED
    if number != hcalls.SVM_INIT_START and not vm.flags & INIT_START:
        return UNSUPPORTED
    return (yield from HANDLERS[number](kvm, cpu, vm, gpr))


def init_start(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    """The flag is set before the checks, so that an abort works whatever they say."""
    if vm.flags and kvm.level.profile.choices.start_again == DOCUMENTATION:
        return STATE
    vm.flags |= INIT_START
    if not kvm.has_ultravisor or not vm.radix:
        return UNSUPPORTED
    if not vm.svm_enabled:
        return AUTHORITY
    done: list[Memslot] = []
    for slot in vm.in_order():
        if (yield from register(kvm, cpu, vm, slot)) != SUCCESS:
            for earlier in done:
                yield from kvm.ucall(cpu, front.UNREGISTER_MEM_SLOT, vm.lpid, earlier.number)
            return PARAMETER
        done.append(slot)
    return SUCCESS


def register(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot) -> Step[int]:
    return (yield from kvm.ucall(cpu, front.REGISTER_MEM_SLOT, vm.lpid, slot.gpa, slot.size, 0, slot.number))


def init_done(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    """What is left becomes secure without a call."""
    for slot in vm.in_order():
        if not (yield from silently(kvm, cpu, vm, slot)):
            return STATE
    vm.flags |= INIT_DONE
    return SUCCESS


def silently(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot) -> Step[bool]:
    """Every GFN without a flag gets a device frame. False where there is none left."""
    for place in (slot.words == 0).nonzero()[0].tolist():
        gfn = slot.first + place
        try:
            word = pages.take_device(kvm)
        except OutOfDevices:
            return False
        yield from pages.into_device(kvm, cpu, vm, slot, gfn, word)
    return True


def page_in(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    gpa, flags, order = gpr[4:7]
    if order != ORDER:
        return P3
    if flags & ~hcalls.SHARED:
        return P2
    gfn = gpa >> PAGE_SHIFT
    slot = vm.slot_of(gfn)
    if slot is None:
        return PARAMETER
    if flags & hcalls.SHARED:
        return (yield from _share(kvm, cpu, vm, slot, gfn))
    if slot.word(gfn) & UVMEM:
        return PARAMETER
    try:
        word = pages.take_device(kvm)
    except OutOfDevices:
        return PARAMETER
    frame = yield from pages.resident(kvm, cpu, vm, slot, gfn)
    if frame != NO_FRAME:
        if slot.word(gfn) & SHARED:
            yield from pages.notify(kvm, cpu, vm, gfn)
        status = yield from _give(kvm, cpu, vm, frame, gfn)
        if status == SUCCESS:
            yield from pages.into_device(kvm, cpu, vm, slot, gfn, word)
            return SUCCESS
    pages.give_device(kvm, word)
    return PARAMETER


def _give(kvm: Kvm, cpu: Cpu, vm: Vm, frame: int, gfn: int) -> Step[int]:
    return (yield from kvm.ucall(cpu, front.PAGE_IN, vm.lpid, frame, gfn << PAGE_SHIFT, 0, ORDER))


def _share(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot, gfn: int) -> Step[int]:
    """A page that is inside the ultravisor is dropped without moving it out."""
    if slot.word(gfn) & UVMEM:
        try:
            frame = pages.take_zeroed(kvm)
        except OutOfMemory:
            return PARAMETER
        yield from pages.notify(kvm, cpu, vm, gfn)
        pages.give_device(kvm, slot.word(gfn))
        slot.put(gfn, MEM, frame)
    frame = yield from pages.resident(kvm, cpu, vm, slot, gfn)
    if frame == NO_FRAME or (yield from _give(kvm, cpu, vm, frame, gfn)) != SUCCESS:
        return PARAMETER
    slot.put(gfn, SHARED, frame)
    return SUCCESS


def page_out(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    gpa, flags, order = gpr[4:7]
    if order != ORDER:
        return P3
    if flags:
        return P2
    gfn = gpa >> PAGE_SHIFT
    slot = vm.slot_of(gfn)
    if slot is None:
        return PARAMETER
    if not slot.word(gfn) & UVMEM:
        return SUCCESS
    return SUCCESS if (yield from pages.page_out(kvm, cpu, vm, slot, gfn)) else PARAMETER


def init_abort(kvm: Kvm, cpu: Cpu, vm: Vm, gpr: list[int]) -> Step[int]:
    """The VM stays normal: H_PARAMETER is the way it succeeds."""
    if vm.flags & INIT_DONE:
        return STATE
    for slot in vm.in_order():
        for place in (slot.words >= UVMEM).nonzero()[0].tolist():
            yield from pages.page_out(kvm, cpu, vm, slot, slot.first + place)
        pages.drop_devices(kvm, slot)
    yield from kvm.ucall(cpu, front.SVM_TERMINATE, vm.lpid)
    vm.flags = 0
    return PARAMETER


HANDLERS: Mapping[int, Handler] = {
    hcalls.SVM_PAGE_IN: page_in,
    hcalls.SVM_PAGE_OUT: page_out,
    hcalls.SVM_INIT_START: init_start,
    hcalls.SVM_INIT_DONE: init_done,
    hcalls.SVM_INIT_ABORT: init_abort,
}
