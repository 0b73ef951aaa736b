"""Memory of an SVM as the hypervisor manages it: slots, pages in and out, invalidation.

Sections 5.3 and 5.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.crypto import PageKey
from protocol.arch.pef.machine.svm import OutOfUnits, Svm
from protocol.arch.pef.profiles import DOCUMENTATION, FIRMWARE
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


class SlotCodes(NamedTuple):
    """What a new slot is refused with, by what is wrong. That memory has run out is the size's (guess)."""

    address: int
    size: int
    slot: int


SLOT_CODES = {FIRMWARE: SlotCodes(PARAMETER, PARAMETER, PARAMETER), DOCUMENTATION: SlotCodes(P2, P3, P5)}


def register_mem_slot(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    """Reserve secure memory for a range."""
    lpid, gpa, size, _, number = gpr[4:9]
    svm = machine.svms.get(lpid)
    if svm is None:
        return PARAMETER
    codes = SLOT_CODES[machine.profile.choices.slot_codes]
    refused = slot_refusal(codes, {slot.number: (slot.first, slot.end) for slot in svm.slots.values()}, gpr)
    if refused is not None:
        return refused
    first, count = gpa >> PAGE_SHIFT, -(-size // PAGE)
    if count > machine.secure.state.size:
        return codes.size
    try:
        svm.slots[number] = machine.secure.reserve(lpid, number, first, count)
    except OutOfUnits:
        return codes.size
    return SUCCESS


def slot_refusal(codes: SlotCodes, taken: Mapping[int, tuple[int, int]], gpr: list[int]) -> int | None:
    """What is wrong with a new slot beside those that are there, in GFNs; memory comes behind it."""
    gpa, size, _, number = gpr[5:9]
    if gpa % PAGE:
        return codes.address
    if not size or gpa + size > END:
        return codes.size
    if number >= MEM_SLOTS or number in taken:
        return codes.slot
    first, end = gfns(gpa, size)
    return codes.address if any(a < end and first < b for a, b in taken.values()) else None


def gfns(gpa: int, size: int) -> tuple[int, int]:
    """First GFN of a range, and the one behind it."""
    return gpa >> PAGE_SHIFT, (gpa >> PAGE_SHIFT) - (-size // PAGE)


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
    if shared and machine.profile.choices.page_out_shared == DOCUMENTATION:
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
        return P3 if machine.profile.choices.inval_gpa == FIRMWARE else P2
    answer, then = PAGE_INVAL[machine.secure.page(frame)]
    machine.secure.become(frame, then)
    return answer


def usable(address: int, size: int) -> bool:
    """Is it a page of normal memory, as far as the ultravisor looks?"""
    return bool(address) and not address & SECURE_BIT and not address % PAGE and address + PAGE <= size
