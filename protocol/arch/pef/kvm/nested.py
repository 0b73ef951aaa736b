"""The nesting API, version 1, for KVM's own guests: section 8.1 of the fact sheet.

A guest that is a hypervisor keeps a partition table in its memory and runs its guests by H_ENTER_NESTED, with
their state and registers in its memory, big endian. Each of them runs under a shadow LPID of KVM's, on a
shadow table that is filled by faults. Ultracalls of such a hypervisor go to the ultravisor, which refuses
them, so a nested guest can begin to become secure here but never be helped to the end.

The timebase stands still: an `hdec_expiry` of 0 or 1 has passed, any later one never does. There is no
process table: effective addresses of H_COPY_TOFROM_GUEST are guest real ones. What is written into LPCR,
HFSCR and the like has no effect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import (
    DATA_STORAGE,
    DECREMENTER,
    GPRS,
    HCALL,
    INSTRUCTION_STORAGE,
    Cpu,
    Entry,
    Exit,
)
from protocol.arch.pef.guest import Hypercall, Program
from protocol.arch.pef.kvm import pages
from protocol.arch.pef.kvm.frames import Arena, OutOfMemory
from protocol.arch.pef.kvm.vm import NO_FRAME, KvmVcpu, NestedVm, Vm
from protocol.arch.pef.radix import PAGE_ADDRESS, entry_of, root_of, walk
from protocol.arch.pef.status import AUTHORITY, FUNCTION, NO_MEM, NOT_AVAILABLE, NOT_FOUND, PARAMETER, SUCCESS
from protocol.arch.pef.tables import LPIDS, MSR_S, PAGE, PAGE_SHIFT
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

STORAGE = (DATA_STORAGE, INSTRUCTION_STORAGE)
TOKENS = 2048
NOW = 1  # the timebase
SIZES = {1: 232, 2: 248}  # hv_guest_state by version
REGISTERS = struct.Struct(">44Q")
HEAD = struct.Struct(">QII")
NIP, MSR = 32, 33  # places in the register block
# Places of 64-bit words in the state, behind version, LPID and token.
HDEC_EXPIRY, HDAR, HDSISR, ASDR, SRR0, SRR1 = 9, 14, 15, 17, 18, 19
TABLE_SIZE, TABLE_ADDRESS = 0x1F, 0x0FFF_FFFF_FFFF_F000
MAX_TABLE_SIZE = 4  # 2^(12 + 4) bytes
ENTRY = 16  # bytes of a partition table entry
NO_EA = 0xFFF << 52
COPY_BYTES = 4 << 20  # that the kernel can allocate at once
PAGE_SIZES = {0: 1 << 12, 5: 1 << 16, 1: 1 << 21, 2: 1 << 30}  # by AP


Handler = Callable[["Kvm", Cpu, Vm, KvmVcpu, list[int]], Step[int]]


def answer(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    """One of the four calls. A VM without the capability has none of them."""
    if not vm.nested_enabled:
        return FUNCTION
    return (yield from HANDLERS[gpr[3]](kvm, cpu, vm, vcpu, gpr))


# -- the partition table -------------------------------------------------------------------------------------


def set_partition_table(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    ptcr = gpr[4]
    if not ptcr:
        vm.nesting.ptcr = 0  # first: none is made while those that are there go
        yield from drop_all(kvm, cpu, vm)
        return SUCCESS
    visible = vm.slot_of((ptcr & TABLE_ADDRESS) >> PAGE_SHIFT) is not None
    if ptcr & TABLE_SIZE > MAX_TABLE_SIZE or not visible:
        return PARAMETER
    vm.nesting.ptcr = ptcr
    return SUCCESS


def _entry(kvm: Kvm, cpu: Cpu, vm: Vm, lpid: int) -> Step[int]:
    """The first half of a nested VM's entry, 0 if there is none."""
    ptcr = vm.nesting.ptcr
    if lpid >= 1 << (ptcr & TABLE_SIZE) + 12 - 4:
        return 0
    data = yield from pages.load(kvm, cpu, vm, (ptcr & TABLE_ADDRESS) + lpid * ENTRY, 8)
    return 0 if isinstance(data, Fault) else int.from_bytes(data, "big")


def _made(kvm: Kvm, cpu: Cpu, vm: Vm, lpid: int) -> Step[NestedVm | None]:
    """The nested VM of an LPID, made at first use; None where nothing is left for it or no table."""
    known = vm.nesting.vms.get(lpid)
    if known is not None:
        return known
    shadow = yield from kvm.level.new_lpid(cpu)
    known = vm.nesting.vms.get(lpid)
    if known is not None or not vm.nesting.ptcr:  # another vcpu came first, or has dropped them all
        if shadow:
            yield from kvm.level.give_lpid(cpu, shadow)
        return known
    if shadow is None:
        shadow = next((n for n in range(LPIDS - 1, 0, -1) if n not in kvm.vms and n not in kvm.shadows), 0)
    if not shadow:
        return None
    arena = Arena(kvm.frames)
    try:
        tree = kvm.tree(arena)
    except OutOfMemory:
        yield from kvm.level.give_lpid(cpu, shadow)
        return None
    made = vm.nesting.vms[lpid] = NestedVm(shadow, arena, tree)
    kvm.shadows.add(shadow)
    return made


def drop_all(kvm: Kvm, cpu: Cpu, vm: Vm) -> Step[None]:
    """Every nested VM goes: one that a vcpu runs has no memory any more, and ends when that has come out."""
    dropped = list(vm.nesting.vms.values())
    vm.nesting.vms.clear()
    for made in dropped:
        made.dropped = True
        made.users += 1
    for made in dropped:
        if made.users > 1:
            yield from pages.unmap_nested(kvm, cpu, made, made.mapped)
        yield from _leave(kvm, cpu, made)


def _leave(kvm: Kvm, cpu: Cpu, made: NestedVm) -> Step[None]:
    made.users -= 1
    if made.users or not made.dropped:
        return
    if made.svm:
        yield from kvm.ucall(cpu, front.SVM_TERMINATE, made.shadow)
    yield from kvm.write_entry(cpu, made.shadow, 0, 0)
    yield from kvm.level.give_lpid(cpu, made.shadow)
    made.mapped.clear()
    made.arena.give_all()
    kvm.shadows.discard(made.shadow)
    kvm.gives_back(made.shadow)


# -- running a nested guest ----------------------------------------------------------------------------------


def enter_nested(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    if not vm.nesting.ptcr:
        return NOT_AVAILABLE
    state_at, registers_at = gpr[4:6]
    head = yield from pages.load(kvm, cpu, vm, state_at, HEAD.size)
    if isinstance(head, Fault):
        return PARAMETER
    version, lpid, token = HEAD.unpack(head)
    size = SIZES.get(version, 0)
    state = yield from pages.load(kvm, cpu, vm, state_at, size)
    block = yield from pages.load(kvm, cpu, vm, registers_at, REGISTERS.size)
    if not size or isinstance(state, Fault) or isinstance(block, Fault) or token >= TOKENS:
        return PARAMETER
    if not (yield from _entry(kvm, cpu, vm, lpid)):
        return PARAMETER
    made = yield from _made(kvm, cpu, vm, lpid)
    if made is None:
        return PARAMETER
    words = list(struct.unpack(f">{(size - HEAD.size) // 8}Q", state[HEAD.size :]))
    registers = list(REGISTERS.unpack(block))
    program = made.vcpus.setdefault(token, Program())
    step = vcpu.program.current
    if isinstance(step, Hypercall):
        program.steps.extend(step.nested)
    if words[HDEC_EXPIRY] <= NOW:
        return DECREMENTER
    made.users += 1
    left = yield from _run(kvm, cpu, vm, lpid, made, token, words, registers)
    yield from _leave(kvm, cpu, made)
    vcpu.program.nested.extend(program.collect())
    _copy_out(left, words, registers)
    packed = head + struct.pack(f">{len(words)}Q", *words)
    for at, data in ((state_at, packed), (registers_at, REGISTERS.pack(*registers))):
        if (yield from pages.store(kvm, cpu, vm, at, data)) is not None:
            return AUTHORITY
    return left.trap


def _run(
    kvm: Kvm, cpu: Cpu, vm: Vm, lpid: int, made: NestedVm, token: int, words: list[int], registers: list[int]
) -> Step[Exit]:
    """Let it run until something belongs to its own hypervisor."""
    gpr = registers[:GPRS]
    nip, msr = registers[NIP], registers[MSR] & ~MSR_S
    hsrr0 = made.cookies.pop(gpr[31], None) if words[SRR1] & MSR_S else None
    if not made.written:
        made.written = True
        yield from kvm.write_entry(cpu, made.shadow, entry_of(made.tree.root), 0)
    while True:
        if hsrr0 is not None:  # the way back into a nested SVM
            cpu.lpidr, cpu.pidr = made.shadow, 0
            gpr[0], gpr[2], gpr[3] = gpr[3], words[SRR1], front.RETURN
            out = yield from kvm.issue(cpu, gpr, hsrr0, program=made.vcpus[token])
            assert isinstance(out, Exit), "UV_RETURN came back"
            left = out
        else:
            entry = Entry(made.shadow, token, gpr, nip, msr, made.vcpus[token])
            entered = kvm.checked((yield from kvm.level.enter(cpu, entry)))
            assert isinstance(entered, Exit)
            left = entered
        kvm.arrived(left)
        if left.secure:
            made.svm = True
            made.cookies[left.gpr[31]] = left.hsrr0
            return left
        if left.trap not in STORAGE or not (yield from _resolved(kvm, cpu, vm, lpid, made, left)):
            return left
        hsrr0, gpr, nip, msr = None, left.gpr, left.hsrr0, left.srr1


def _resolved(kvm: Kvm, cpu: Cpu, vm: Vm, lpid: int, made: NestedVm, left: Exit) -> Step[bool]:
    """Map the page of a storage interrupt, if the nested guest's hypervisor has mapped it."""
    gfn = left.asdr >> PAGE_SHIFT
    frame = yield from _frame(kvm, cpu, vm, lpid, gfn << PAGE_SHIFT)
    if frame == NO_FRAME or gfn in made.mapped or made.dropped:
        return False
    try:
        made.tree.map(gfn << PAGE_SHIFT, frame)
    except OutOfMemory:
        return False
    made.mapped.add(gfn)
    return True


def _frame(kvm: Kvm, cpu: Cpu, vm: Vm, lpid: int, gpa: int) -> Step[int]:
    """The host's page behind a page of a nested guest, NO_FRAME if its hypervisor has none there."""
    root = root_of((yield from _entry(kvm, cpu, vm, lpid)))
    leaf = walk(lambda at, length: _peek(kvm, vm, at, length), root, gpa)
    slot = vm.slot_of((leaf & PAGE_ADDRESS) >> PAGE_SHIFT) if leaf else None
    if slot is None:
        return NO_FRAME
    return (yield from pages.resident(kvm, cpu, vm, slot, (leaf & PAGE_ADDRESS) >> PAGE_SHIFT))


def _peek(kvm: Kvm, vm: Vm, gpa: int, length: int) -> bytes | Fault:
    """A word of the guest's own tables. What is inside the ultravisor maps nothing."""
    slot = vm.slot_of(gpa >> PAGE_SHIFT)
    frame = NO_FRAME if slot is None else slot.frame(gpa >> PAGE_SHIFT)
    if frame == NO_FRAME:
        return bytes(length)
    return kvm.level.read(frame + gpa % PAGE, length)


def _copy_out(left: Exit, words: list[int], registers: list[int]) -> None:
    words[HDAR], words[HDSISR], words[ASDR] = left.hdar, left.hdsisr, left.asdr
    words[SRR0], words[SRR1] = left.srr0, left.srr1
    registers[:GPRS] = left.gpr
    of_syscall = left.trap == HCALL
    registers[NIP] = left.srr0 if of_syscall else left.hsrr0
    registers[MSR] = left.srr1 if of_syscall else left.hsrr1


# -- translations, and copies --------------------------------------------------------------------------------


def tlb_invalidate(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    """`tlbie`: its image says what kind, RS the LPID, RB the range."""
    image, rs, rb = gpr[4:7]
    ric, prs, radix = image >> 18 & 3, image >> 17 & 1, image >> 16 & 1
    scope = rb >> 10 & 3
    if not radix or prs or ric == 3 or scope == 1 or (not scope and ric in (1, 2)):
        return PARAMETER
    if not scope and rb >> 5 & 7 not in PAGE_SIZES:
        return PARAMETER
    lpid = rs & 0xFFFF_FFFF
    for known, made in list(vm.nesting.vms.items()):
        if scope == 3 or known == lpid:
            first = (rb & TABLE_ADDRESS) >> PAGE_SHIFT
            count = -(-PAGE_SIZES.get(rb >> 5 & 7, 0) // PAGE)
            gone = made.mapped if scope else made.mapped & set(range(first, first + count))
            yield from pages.unmap_nested(kvm, cpu, made, gone)
    return SUCCESS


def copy_tofrom_guest(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    lpid, _, address, to, source, length = gpr[4:10]
    if (to and source) or address & NO_EA:
        return PARAMETER
    if length > COPY_BYTES:
        return NO_MEM
    if lpid not in vm.nesting.vms:
        return PARAMETER
    places = []
    for at, n in pages.pieces(address, length):
        frame = yield from _frame(kvm, cpu, vm, lpid, at & -PAGE)
        if frame == NO_FRAME:
            return NOT_FOUND
        places.append((frame + at % PAGE, n))
    if to:
        data = b"".join(_read(kvm, at, n) for at, n in places)
        return SUCCESS if (yield from pages.store(kvm, cpu, vm, to, data)) is None else NOT_FOUND
    loaded = yield from pages.load(kvm, cpu, vm, source, length)
    if isinstance(loaded, Fault):
        return NOT_FOUND
    done = 0
    for at, n in places:
        kvm.level.write(at, loaded[done : done + n])
        done += n
    return SUCCESS


def _read(kvm: Kvm, address: int, length: int) -> bytes:
    data = kvm.level.read(address, length)
    assert not isinstance(data, Fault), "a frame of the host's own cannot be read"
    return data


HANDLERS: Mapping[int, Handler] = {
    hcalls.SET_PARTITION_TABLE: set_partition_table,
    hcalls.ENTER_NESTED: enter_nested,
    hcalls.TLB_INVALIDATE: tlb_invalidate,
    hcalls.COPY_TOFROM_GUEST: copy_tofrom_guest,
}
