"""Ultracalls of a guest host: re-issued below with the LPID, and where there is one the address, exchanged.

Section 4.1, last column, and section 8.4. What can be checked without the level below is checked first, in
the ultravisor's order; an LPID that is not this guest host's own answers as one that does not exist, and
nothing is issued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef import front
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.machine.memory import SLOT_CODES, gfns, slot_refusal, usable
from protocol.arch.pef.nesting.records import Record
from protocol.arch.pef.profiles import DOCUMENTATION
from protocol.arch.pef.status import INVALID, NO_MEM, P2, P3, P5, PARAMETER, PERMISSION, RETRY, SUCCESS
from protocol.arch.pef.tables import ORDER, PAGE_SHIFT, UNIT_SHIFT
from protocol.effects import Step
from protocol.memory.pool import OutOfFrames

if TYPE_CHECKING:
    from protocol.arch.pef.nesting import Nested

Treatment = Callable[["Nested", Cpu, list[int]], Step[int]]


def write_pate(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    """The guest host's entry is data; below stands one that leads to the shadow table."""
    lpid, dw0, dw1 = gpr[4:7]
    if not nested.may_use(lpid):
        return PARAMETER
    record = nested.records.get(lpid)
    if record is not None and record.svm and nested.profile.choices.pate_of_svm == DOCUMENTATION:
        return PERMISSION
    try:
        yield from nested.put_entry(cpu, lpid, dw0, dw1)
    except OutOfFrames:  # for a shadow table: the ultravisor as it is needs none (the code is a guess)
        return NO_MEM
    return SUCCESS


def register_mem_slot(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    """Units beyond the guest host's quota are not there: found where the ultravisor finds that, last."""
    record = nested.records.get(gpr[4])
    if record is None:
        return PARAMETER
    codes = SLOT_CODES[nested.profile.choices.slot_codes]
    refused = slot_refusal(codes, record.ranges, gpr) if record.svm else PARAMETER
    if refused is not None:
        return refused
    gpa, size = gpr[5:7]
    units = ((gpa + size - 1) >> UNIT_SHIFT) - (gpa >> UNIT_SHIFT) + 1
    if units + nested.units() > nested.profile.units:
        return codes.size
    life = record.lives
    nested.reserving += units
    try:
        status = yield from _reissued(nested, cpu, record, gpr)
    finally:  # also where the guest host is gone meanwhile: the next one has the whole quota
        nested.reserving -= units
    if status == SUCCESS and record.lives == life:
        record.slots[gpr[8]] = units
        nested.reserved += units
        record.ranges[gpr[8]] = gfns(gpa, size)
        nested.book.add("te_object")
    return status


def unregister_mem_slot(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    record = nested.records.get(gpr[4])
    if record is None:
        return PARAMETER
    status = yield from _reissued(nested, cpu, record, gpr)
    if status == SUCCESS and gpr[5] in record.slots:
        nested.reserved -= record.slots.pop(gpr[5])
        first, end = record.ranges.pop(gpr[5])
        nested.book.drop("te_object")
        for gfn in [gfn for gfn in record.bound if first <= gfn < end]:
            nested.unbind(record, gfn)
    return status


def page_in(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    lpid, source, gpa, _, order = gpr[4:9]
    if order != ORDER:
        return P5
    if not usable(source, nested.size):
        return P2
    record = nested.records.get(lpid)
    if record is None:
        return PARAMETER
    life = record.lives
    status = yield from _with_real(nested, cpu, record, gpr, source)
    if status == SUCCESS and record.lives == life:
        nested.given(record, gpa >> PAGE_SHIFT, source >> PAGE_SHIFT)
    return status


def page_out(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    lpid, target, _, _, order = gpr[4:9]
    if order != ORDER:
        return P5
    if not usable(target, nested.size):
        return P2
    record = nested.records.get(lpid)
    if record is None:
        return PARAMETER
    return (yield from _with_real(nested, cpu, record, gpr, target))


def page_inval(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    if gpr[6] != ORDER:
        return P3
    record = nested.records.get(gpr[4])
    if record is None:
        return PARAMETER
    status = yield from _reissued(nested, cpu, record, gpr)
    if status == SUCCESS:
        nested.unbind(record, gpr[5] >> PAGE_SHIFT)
    return status


def terminate(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    record = nested.records.get(gpr[4])
    if record is None or (not record.svm and record.entry == (0, 0)):
        return PARAMETER if nested.profile.choices.terminate_none == DOCUMENTATION else SUCCESS
    if record.returning:  # its vcpu would find no SVM any more: not now (the code is a guess)
        return RETRY
    status = yield from nested.end_below(cpu, record)
    return status if status in (SUCCESS, INVALID, RETRY) else PARAMETER


def spr_write(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    """On virtual registers: the physical ones are not a guest host's."""
    yield from ()
    return nested.debug.write(cpu, gpr)


def spr_read(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    yield from ()
    return nested.debug.read(cpu, gpr)


def refused(nested: Nested, cpu: Cpu, gpr: list[int]) -> Step[int]:
    yield from ()
    return PERMISSION


def _reissued(nested: Nested, cpu: Cpu, record: Record, gpr: list[int]) -> Step[int]:
    return (yield from nested.ucall(cpu, gpr[3], record.shadow, *gpr[5:9]))


def _with_real(nested: Nested, cpu: Cpu, record: Record, gpr: list[int], address: int) -> Step[int]:
    """The same with the address as the level below has it; its page is pinned meanwhile."""
    nested.ledger.count(("translations", "page"))
    changed = list(gpr)
    changed[5] = nested.address_below(address)
    nested.pin(address >> PAGE_SHIFT)
    try:
        return (yield from _reissued(nested, cpu, record, changed))
    finally:
        nested.unpin(address >> PAGE_SHIFT)


# Calls that name nothing but the VM: where the level below gave its id they pass with their body unchanged.
PASSED_BY_ID = frozenset(
    {front.REGISTER_MEM_SLOT, front.UNREGISTER_MEM_SLOT, front.PAGE_INVAL, front.SVM_TERMINATE}
)

TREATMENTS: Mapping[int, Treatment] = {
    front.WRITE_PATE: write_pate,
    front.REGISTER_MEM_SLOT: register_mem_slot,
    front.UNREGISTER_MEM_SLOT: unregister_mem_slot,
    front.PAGE_IN: page_in,
    front.PAGE_OUT: page_out,
    front.PAGE_INVAL: page_inval,
    front.SVM_TERMINATE: terminate,
    front.RESTRICTED_SPR_WRITE: spr_write,
    front.RESTRICTED_SPR_READ: spr_read,
    front.READ_SCOM: refused,
    front.WRITE_SCOM: refused,
    front.READ_MEM: refused,
    front.WRITE_MEM: refused,
    front.SEND_SBE_COMMAND: refused,
}
