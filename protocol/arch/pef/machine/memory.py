"""Memory of an SVM as the hypervisor manages it: slots, pages in and out, invalidation.

Sections 5.3 and 5.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.crypto import PageKey
from protocol.arch.pef.machine.svm import OutOfUnits, Svm
from protocol.arch.pef.status import P2, P3, P5, PARAMETER, STATE, SUCCESS
from protocol.arch.pef.tables import (
    MEM_SLOTS,
    ORDER,
    PAGE,
    PAGE_IN,
    PAGE_INVAL,
    PAGE_OUT,
    PAGE_SHIFT,
    SECURE_BIT,
    Bring,
    Page,
    SvmState,
)

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

END = 1 << 64


def register_mem_slot(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    """Reserve secure memory for a range. Whatever is wrong is U_PARAMETER."""
    lpid, gpa, size, _, number = gpr[4:9]
    svm = machine.svms.get(lpid)
    if svm is None or gpa % PAGE or not size or gpa + size > END or number >= MEM_SLOTS:
        return PARAMETER
    first, count = gpa >> PAGE_SHIFT, -(-size // PAGE)
    if number in svm.slots or svm.overlaps(first, first + count):
        return PARAMETER
    if count > machine.secure.state.size:
        return PARAMETER
    try:
        svm.slots[number] = machine.secure.reserve(lpid, number, first, count)
    except OutOfUnits:
        return PARAMETER
    return SUCCESS


def unregister_mem_slot(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    svm = machine.svms.get(gpr[4])
    if svm is None:
        return PARAMETER
    slot = svm.slots.pop(gpr[5], None)
    if slot is None:
        return P2
    machine.secure.release(slot)
    return SUCCESS


def page_in(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    lpid, source, gpa, _, order = gpr[4:9]
    if order != ORDER:
        return P5
    if not machine.normal_page(source):
        return P2
    svm = machine.svms.get(lpid)
    if svm is None:
        return PARAMETER
    if svm.state is SvmState.ABORT:
        return STATE
    frame = svm.frame(gpa >> PAGE_SHIFT)
    return P3 if frame is None else bring_in(machine, svm, frame, source)


def bring_in(machine: Machine, svm: Svm, frame: int, source: int) -> int:
    """The table of states, for one page."""
    page = machine.secure.page(frame)
    if page in (Page.SECURE, Page.HV_UNSHARED):
        if svm.state is SvmState.SECURE:
            return P2
        machine.secure.write(frame, 0, machine.load(source, PAGE))
        return SUCCESS
    what, then = PAGE_IN[page]
    if what is Bring.DECRYPT and not _decrypt(machine, svm, frame, source):
        return P3
    if what is Bring.BIND:
        machine.secure.bind(frame, source)
    machine.secure.become(frame, then)
    return SUCCESS


def _decrypt(machine: Machine, svm: Svm, frame: int, source: int) -> bool:
    secure = machine.secure
    assert svm.key is not None, "a page is out and there is no key"
    plain = svm.key.open(machine.load(source, PAGE), secure.iv[frame].tobytes(), secure.tag[frame].tobytes())
    if plain is None:
        return False
    secure.write(frame, 0, plain)
    return True


def page_out(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    lpid, target, gpa, _, order = gpr[4:9]
    if order != ORDER:
        return P5
    if not machine.normal_page(target):
        return P2
    svm = machine.svms.get(lpid)
    if svm is None:
        return PARAMETER
    if svm.state is SvmState.ABORT:
        return SUCCESS
    frame = svm.frame(gpa >> PAGE_SHIFT)
    if frame is None:
        return P3
    page = machine.secure.page(frame)
    if page is not Page.SECURE:
        return _not_out(machine, page)
    if svm.key is None:
        svm.key = PageKey(machine.random)
    sealed, iv, tag = svm.key.seal(machine.secure.read(frame, 0, PAGE))
    machine.store(target, sealed)
    machine.secure.iv[frame] = memoryview(iv)
    machine.secure.tag[frame] = memoryview(tag)
    machine.secure.zero(frame)
    machine.secure.become(frame, Page.PAGEDOUT)
    return SUCCESS


def _not_out(machine: Machine, page: Page) -> int:
    """A page that is not the ultravisor's to give out."""
    shared = page in (Page.SHARED, Page.SHARED_INV)
    if shared and machine.profile.choices.page_out_shared == "documentation":
        return SUCCESS
    return PAGE_OUT[page]


def page_inval(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    lpid, gpa, order = gpr[4:7]
    if order != ORDER:
        return P3
    svm = machine.svms.get(lpid)
    if svm is None:
        return PARAMETER
    if svm.state is SvmState.ABORT:
        return STATE
    frame = svm.frame(gpa >> PAGE_SHIFT)
    if frame is None:
        return P3
    answer, then = PAGE_INVAL[machine.secure.page(frame)]
    machine.secure.become(frame, then)
    return answer


def usable(address: int, size: int) -> bool:
    """Is it a page of normal memory, as far as the ultravisor looks?"""
    return bool(address) and not address & SECURE_BIT and not address % PAGE and address + PAGE <= size
