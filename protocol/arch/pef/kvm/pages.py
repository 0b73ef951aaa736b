"""Guest memory: frames behind GFNs, device frames, what userspace touches. Sections 5.2 and 6.3.

A *device frame* stands for a page that is inside the ultravisor. Touching such a page from outside moves it
out, encrypted; that is the whole of an access exception here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.pef import front
from protocol.arch.pef.cpu import Cpu, Exit
from protocol.arch.pef.kvm.frames import OutOfMemory
from protocol.arch.pef.kvm.vm import DEVICE, MEM, NO_FRAME, UVMEM, Memslot, NestedVm, Vm
from protocol.arch.pef.status import SUCCESS
from protocol.arch.pef.tables import ORDER, PAGE, PAGE_SHIFT
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE_SHIFT as SMALL_SHIFT

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

SIGBUS, SIGSEGV = 0x7, 0xB
_SMALL_PAGES = PAGE >> SMALL_SHIFT


class OutOfDevices(Exception):
    """KVM has no device frame left."""


def sigbus(address: int, write: bool) -> Fault:
    return Fault(SIGBUS, "SIGBUS", address, write)


def take_zeroed(kvm: Kvm) -> int:
    """A page of the host's, zeroed. Raises OutOfMemory."""
    address = kvm.frames.take()
    first = address >> SMALL_SHIFT
    kvm.level.clear(np.arange(first, first + _SMALL_PAGES))
    return address


def resident(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot, gfn: int) -> Step[int]:
    """The page behind a GFN, made or moved out of the ultravisor if it has to be; NO_FRAME if that fails."""
    if slot.word(gfn) & UVMEM:
        moved = yield from page_out(kvm, cpu, vm, slot, gfn)
        return slot.frame(gfn) if moved else NO_FRAME
    frame = slot.frame(gfn)
    if frame == NO_FRAME:
        try:
            frame = take_zeroed(kvm)
        except OutOfMemory:
            return NO_FRAME
        slot.put(gfn, slot.word(gfn), frame)
    return frame


def page_out(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot, gfn: int) -> Step[bool]:
    """Move a page out of the ultravisor. Refused or out of memory: False, and its word stays."""
    try:
        frame = take_zeroed(kvm)
    except OutOfMemory:
        return False
    status = yield from kvm.ucall(cpu, front.PAGE_OUT, vm.lpid, frame, gfn << PAGE_SHIFT, 0, ORDER)
    if status != SUCCESS:
        kvm.frames.give(frame)
        return False
    give_device(kvm, slot.word(gfn))
    slot.put(gfn, MEM, frame)
    return True


# -- device frames -----------------------------------------------------------------------------------------


def take_device(kvm: Kvm) -> int:
    """A device frame, as the word of a GFN. Raises OutOfDevices."""
    if not kvm.devices:
        raise OutOfDevices
    return UVMEM | kvm.devices.pop()


def give_device(kvm: Kvm, word: int) -> None:
    kvm.devices.append(word & DEVICE)


def into_device(kvm: Kvm, cpu: Cpu, vm: Vm, slot: Memslot, gfn: int, word: int) -> Step[None]:
    """The page behind a GFN is inside the ultravisor from now on: its frame here is free."""
    frame = slot.frame(gfn)
    slot.put(gfn, word, NO_FRAME)
    if frame != NO_FRAME:
        yield from unmap(kvm, cpu, vm, gfn)
        kvm.frames.give(frame)


def unmap(kvm: Kvm, cpu: Cpu, vm: Vm, gfn: int) -> Step[None]:
    """Take a GFN out of the VM's table."""
    if vm.tree.unmap(gfn << PAGE_SHIFT):
        yield from kvm.level.tlbie(cpu, vm.lpid, gfn << PAGE_SHIFT)
    for made in list(vm.nesting.vms.values()):  # which of its pages the GFN is behind nobody has noted
        yield from unmap_nested(kvm, cpu, made, made.mapped)


def unmap_nested(kvm: Kvm, cpu: Cpu, made: NestedVm, gfns: set[int]) -> Step[None]:
    """Take GFNs of a nested VM out of its shadow table."""
    for gfn in sorted(gfns):
        if gfn not in made.mapped:  # another CPU took it, or all of it
            continue
        made.mapped.discard(gfn)
        made.tree.unmap(gfn << PAGE_SHIFT)
        yield from kvm.level.tlbie(cpu, made.shadow, gfn << PAGE_SHIFT)


def notify(kvm: Kvm, cpu: Cpu, vm: Vm, gfn: int) -> Step[None]:
    """The MMU notifier of a page that moves while the VM is secure; the answer is ignored."""
    if vm.secure:
        yield from kvm.ucall(cpu, front.PAGE_INVAL, vm.lpid, gfn << PAGE_SHIFT, ORDER)


def drop_devices(kvm: Kvm, slot: Memslot) -> None:
    """Forget what is inside the ultravisor; nothing is moved out."""
    inside = slot.words & np.uint64(UVMEM) != 0
    for word in slot.words[inside].tolist():
        give_device(kvm, word)
    slot.words[:] = 0


def drop_slot(kvm: Kvm, slot: Memslot) -> None:
    """A slot goes with all that is behind it."""
    drop_devices(kvm, slot)
    for frame in slot.frames[slot.frames != NO_FRAME].tolist():
        kvm.frames.give(frame)
    slot.frames[:] = NO_FRAME


# -- storage interrupts ------------------------------------------------------------------------------------


def fault(kvm: Kvm, cpu: Cpu, vm: Vm, exit: Exit) -> Step[bool]:  # noqa: A002 - it is one
    """A storage interrupt of a guest: True if it can go on.

    A page of a VM that is secure is given to the ultravisor at once.
    """
    gfn = exit.asdr >> PAGE_SHIFT
    slot = vm.slot_of(gfn)
    if slot is None:
        return False
    frame = yield from resident(kvm, cpu, vm, slot, gfn)
    if frame == NO_FRAME:
        return False
    if vm.secure:
        status = yield from kvm.ucall(cpu, front.PAGE_IN, vm.lpid, frame, gfn << PAGE_SHIFT, 0, ORDER)
        return status == SUCCESS
    try:
        vm.tree.map(gfn << PAGE_SHIFT, frame)
    except OutOfMemory:
        return False
    return True


# -- what userspace touches --------------------------------------------------------------------------------


def pieces(address: int, length: int) -> Iterator[tuple[int, int]]:
    while length > 0:
        n = min(length, PAGE - address % PAGE)
        yield address, n
        address, length = address + n, length - n


def touch(kvm: Kvm, cpu: Cpu, vm: Vm, gpa: int, length: int, write: bool) -> Step[list[int] | Fault]:
    """Real addresses of the pieces of a range of the VMM's mapping, all of them there; or its fault."""
    found = []
    for at, _ in pieces(gpa, length):
        if vm.slot_of(at >> PAGE_SHIFT) is None:
            return Fault(SIGSEGV, "SIGSEGV", at, write)
    for at, _ in pieces(gpa, length):
        slot = vm.slot_of(at >> PAGE_SHIFT)
        assert slot is not None
        frame = yield from resident(kvm, cpu, vm, slot, at >> PAGE_SHIFT)
        if frame == NO_FRAME:
            return sigbus(at, write)
        found.append(frame + at % PAGE)
    return found


def load(kvm: Kvm, cpu: Cpu, vm: Vm, gpa: int, length: int) -> Step[bytes | Fault]:
    """Userspace reads guest memory."""
    places = yield from touch(kvm, cpu, vm, gpa, length, write=False)
    if isinstance(places, Fault):
        return places
    parts = []
    for real, (_, n) in zip(places, pieces(gpa, length), strict=True):
        part = kvm.level.read(real, n)
        assert not isinstance(part, Fault), "a frame of the host's own cannot be read"
        parts.append(part)
    return b"".join(parts)


def store(kvm: Kvm, cpu: Cpu, vm: Vm, gpa: int, data: bytes) -> Step[Fault | None]:
    """Userspace writes guest memory: all of `data`, or nothing and the fault."""
    places = yield from touch(kvm, cpu, vm, gpa, len(data), write=True)
    if isinstance(places, Fault):
        return places
    done = 0
    for real, (_, n) in zip(places, pieces(gpa, len(data)), strict=True):
        refused = kvm.level.write(real, data[done : done + n])
        assert refused is None, "a frame of the host's own cannot be written"
        done += n
    return None
