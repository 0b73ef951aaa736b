"""Running a vcpu: in by UV_RETURN or HRFID, out until something reaches the VMM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import DATA_STORAGE, HCALL, INSTRUCTION_STORAGE, Cpu, Entry, Exit
from protocol.arch.pef.hcalls import OS_TERM, TOKEN_BYTES
from protocol.arch.pef.kvm import nested, pages, svm, vmm
from protocol.arch.pef.kvm.vm import KvmVcpu, Vm
from protocol.arch.pef.status import FUNCTION, SUCCESS, unsigned
from protocol.arch.pef.tables import MSR_S
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

TRIES = 4  # of one storage interrupt
STORAGE = (DATA_STORAGE, INSTRUCTION_STORAGE)


def enter(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, stay: bool) -> Step[Exit]:
    """Run until an exit reaches the VMM. One that is open is answered first."""
    if vcpu.exit is not None and not vcpu.reply:
        if (yield from terminated(kvm, cpu, vm, vcpu.exit)):
            return vcpu.exit
        yield from answer_after_all(kvm, cpu, vm, vcpu)
    cpu.lpidr, cpu.pidr = vm.lpid, 0
    return (yield from go(kvm, cpu, vm, vcpu, stay))


def go(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, stay: bool) -> Step[Exit]:
    """Enter, and enter again while KVM and the VMM can answer by themselves."""
    before, same = None, 0
    while True:
        vcpu.running = True
        try:
            if by_ultravisor(vm, vcpu):
                left = yield from _uv_return(kvm, cpu, vcpu, stay)
            else:
                left = yield from _hrfid(kvm, cpu, vm, vcpu, stay)
        finally:
            vcpu.running = False
        if not (yield from came_out(kvm, cpu, vm, vcpu, left)):
            return left
        what = (left.trap, left.asdr, left.srr0) if left.trap in STORAGE else None
        same = same + 1 if what is not None and what == before else 0
        if same == TRIES:  # what KVM does does not help: the VMM has to know
            return left
        before = what
        cpu.lpidr, cpu.pidr = vm.lpid, 0


def by_ultravisor(vm: Vm, vcpu: KvmVcpu) -> bool:
    """Does the way back into this vcpu lead through the ultravisor?"""
    last = vcpu.exit
    return last is not None and last.secure and bool(vm.flags or last.srr1 & MSR_S)


def came_out(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, left: Exit) -> Step[bool]:
    """An exit arrived: keep it, and answer it if that is KVM's or the VMM's to do."""
    kvm.arrived(left)
    vcpu.exit = left
    vcpu.reply.clear()
    if left.program is not None:
        vcpu.program = left.program
    if _wanted(left, vcpu.stop):
        return False
    return (yield from _handle(kvm, cpu, vm, vcpu, left))


def _wanted(left: Exit, stop: frozenset[str]) -> bool:
    """Is it the keyboard's?"""
    if hex(left.trap) in stop:
        return True
    return left.trap == HCALL and hcalls.name_of(left.gpr[3]) in stop


def _handle(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, left: Exit) -> Step[bool]:
    """True if the vcpu can go on."""
    if left.trap in STORAGE:
        return (yield from pages.fault(kvm, cpu, vm, left))
    if left.trap != HCALL:
        return False
    gpr = list(left.gpr)
    if not (yield from hypercall(kvm, cpu, vm, vcpu, gpr, left.srr1)):
        return False
    vcpu.reply.update({number: gpr[number] for number in range(3, 13)})
    return True


def hypercall(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int], srr1: int) -> Step[bool]:
    """Answer a hypercall in `gpr`; False for one that neither KVM nor the VMM knows."""
    number = gpr[3]
    if number in svm.HANDLERS:
        status = yield from svm.answer(kvm, cpu, vm, gpr, srr1)
    elif number == hcalls.SVM_TPM_COMM:
        status = yield from vmm.tpm_comm(kvm, cpu, vm, gpr)
    elif number == hcalls.CEDE:
        status = SUCCESS
    elif number == hcalls.RANDOM:
        status, gpr[4] = SUCCESS, kvm.random.getrandbits(64)
    elif number in nested.HANDLERS:
        status = yield from nested.answer(kvm, cpu, vm, vcpu, gpr)
    else:
        return False
    gpr[3] = unsigned(status)
    return True


def answer_after_all(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu) -> Step[None]:
    """The open exit was left to KVM and the VMM. A hypercall that nobody knows is answered H_FUNCTION."""
    left = vcpu.exit
    assert left is not None
    if (yield from _handle(kvm, cpu, vm, vcpu, left)) or left.trap != HCALL:
        return
    vcpu.reply.update({number: left.gpr[number] for number in range(4, 13)})
    vcpu.reply[3] = unknown(left.gpr[3])


def unknown(number: int) -> int:
    """R3 where neither KVM nor the VMM does anything; the VMM's firmware services succeed with that."""
    return unsigned(SUCCESS if number == hcalls.RTAS else FUNCTION)


def terminated(kvm: Kvm, cpu: Cpu, vm: Vm, left: Exit) -> Step[bool]:
    """Did the guest end by `ibm,os-term`? Its VMM does not answer that."""
    at = block_of(left)
    return at is not None and is_os_term((yield from pages.load(kvm, cpu, vm, at, TOKEN_BYTES)))


def block_of(left: Exit) -> int | None:
    """Where the argument block of an SVM's H_RTAS begins; None for any other exit."""
    if left.trap != HCALL or left.gpr[3] != hcalls.RTAS or not left.secure:
        return None
    return left.gpr[4]


def is_os_term(token: bytes | Fault | None) -> bool:
    return isinstance(token, bytes) and int.from_bytes(token, "big") == OS_TERM


def _uv_return(kvm: Kvm, cpu: Cpu, vcpu: KvmVcpu, stay: bool) -> Step[Exit]:
    last = vcpu.exit
    assert last is not None
    gpr = list(last.gpr)
    for number, value in vcpu.reply.items():
        gpr[number] = value
    gpr[0], gpr[2] = gpr[3], last.srr1
    gpr[3] = front.RETURN
    out = yield from kvm.issue(cpu, gpr, last.hsrr0, stay, vcpu.program)
    assert isinstance(out, Exit), "UV_RETURN came back"
    return out


def _hrfid(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, stay: bool) -> Step[Exit]:
    last = vcpu.exit
    if last is not None:
        vcpu.gpr = list(last.gpr)
        for number, value in vcpu.reply.items():
            vcpu.gpr[number] = value
        of_syscall = last.trap == HCALL
        vcpu.nip = last.srr0 if of_syscall else last.hsrr0
        vcpu.msr = (last.srr1 if of_syscall else last.hsrr1) & ~MSR_S
    entry = Entry(vm.lpid, vcpu.number, vcpu.gpr, vcpu.nip, vcpu.msr, vcpu.program, stay)
    out = kvm.checked((yield from kvm.level.enter(cpu, entry)))
    assert isinstance(out, Exit)
    return out
