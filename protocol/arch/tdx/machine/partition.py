"""TDCALLs of TD partitioning and of service TDs: section 2.7, 23 to 27, 18 and 20.

A TD may have L2 VMs configured and pays their pages, but none can be made to run: its virtual APIC page can
be set by no call here, and no page of a second set of tables is ever taken. So every operand is checked in
the module's order, and where an L2 VM itself would be needed the call ends as one without that part does.
Nothing is bound to a service TD, so no binding handle is right. Read in the module's source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx import fields
from protocol.arch.tdx.machine.access import EEQ_ATTR_WR, Leaves, violation
from protocol.arch.tdx.machine.guest import GuestRegisters, get, operand, unacceptable
from protocol.arch.tdx.machine.sept import state_of
from protocol.arch.tdx.profiles import MAX_L2_VMS, MAX_PA
from protocol.arch.tdx.shared_ept import READ
from protocol.arch.tdx.status import R8, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import LEVEL_1G, U64, GpaLevel
from protocol.arch.tdx.tables import GUEST_ENTRY_STATES
from protocol.memory.store import OFFSET

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine
    from protocol.arch.tdx.machine.entities import Td, Vcpu

ATTR_RD, ATTR_WR = 23, 24
PENDING_FLAG = 1 << 62  # of RCX: the page is not accepted yet
READABLE, WRITABLE, EXECUTABLE, PAGING_WRITE, SUPPRESS_VE = 1 << 0, 1 << 1, 3 << 2, 1 << 5, 1 << 7
ATTR_RESERVED = 0x7F << 8
VALID = 1 << 15
VM_SHIFT, VM_MASK = 52, 3  # of the VM's number in RCX
ENTER_INVEPT, INVVPID_LIST = 3, 1  # flags beside it
STATE_ALIGN = 256
LIST_ENTRIES = 512
CANONICAL_BITS = 48  # of linear addresses; a guess: the processor may have 57
ENTRY = 8


# -- attributes of pages --------------------------------------------------------------------------


def read_attributes(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MEM.PAGE.ATTR.RD. The TD's own attributes are none; no L2 VM has any."""
    gpa, r[RCX], r[RDX] = r[RCX], 0, 0
    _private(vcpu.td, gpa, RCX)
    sept = vcpu.td.sept
    assert sept is not None
    place = sept.leaf_at(gpa)
    if not sept.lock_for_guest(place):
        raise Refused(Status.OPERAND_BUSY | RCX)
    try:
        state = state_of(place.entry)
        if state.name not in GUEST_ENTRY_STATES[ATTR_RD]:
            raise Leaves(violation(gpa, 0))
        size = 1 << (12 + 9 * place.level)
        r[RCX] = gpa & ~(size - 1) | place.level | (PENDING_FLAG if state.pending else 0)
        return Status.SUCCESS
    finally:
        sept.unlock(place)


def write_attributes(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MEM.PAGE.ATTR.WR: RDX has sixteen bits for each VM, R8 which of them are meant."""
    raw, attributes, mask = r[RCX], _by_vm(r[RDX]), _by_vm(r[R8])
    r[RCX] = r[RDX] = 0
    td = vcpu.td
    _fields(td, attributes, mask)
    where = GpaLevel.unpack(raw)
    if where.reserved or where.level > LEVEL_1G or not where.aligned():
        raise Refused(Status.OPERAND_INVALID | RCX)
    _private(td, where.gpa, RCX)
    sept = td.sept
    assert sept is not None
    place = sept.walk(where.gpa, where.level)
    if place.level != where.level:
        raise Leaves(unacceptable(where, place.level, place.entry, EEQ_ATTR_WR))
    if not sept.lock_for_guest(place):
        raise Refused(Status.OPERAND_BUSY | RCX)
    try:
        state = state_of(place.entry)
        if not state.leaf and state.name != "FREE":
            return Status.PAGE_SIZE_MISMATCH | place.level
        if state.name not in GUEST_ENTRY_STATES[ATTR_WR]:
            raise Leaves(unacceptable(where, place.level, place.entry, EEQ_ATTR_WR))
        status, after = _masked(td, attributes, mask)
        r[RDX] = sum(each << 16 * vm for vm, each in enumerate(after))
        if status == Status.SUCCESS:
            r[RCX] = raw | (PENDING_FLAG if state.pending else 0)
        return status
    finally:
        sept.unlock(place)


def _by_vm(raw: int) -> list[int]:
    return [raw >> 16 * vm & 0xFFFF for vm in range(MAX_L2_VMS + 1)]


def _fields(td: Td, attributes: list[int], mask: list[int]) -> None:
    """What is said of the TD itself, or of an L2 VM that it has not, is zero; no bits without VALID."""
    for vm, (wanted, which) in enumerate(zip(attributes, mask, strict=True)):
        if 0 < vm <= td.num_l2_vms:
            if wanted and not wanted & VALID:
                raise Refused(Status.OPERAND_INVALID | RDX)
        elif wanted:
            raise Refused(Status.OPERAND_INVALID | RDX)
        elif which:
            raise Refused(Status.OPERAND_INVALID | R8)


def _masked(td: Td, attributes: list[int], mask: list[int]) -> tuple[int, list[int]]:
    """The status, and the attributes that RDX shows. No page is mapped for an L2 VM, none can be."""
    after, status = [0, *attributes[1:]], int(Status.SUCCESS)
    for vm in range(1, td.num_l2_vms + 1):
        wanted = attributes[vm] & (mask[vm] | VALID)
        if not wanted & VALID or not wanted & (READABLE | WRITABLE | EXECUTABLE):
            continue
        if _illegal(wanted):
            after[vm], status = 0, Status.PAGE_ATTR_INVALID
            continue
        top = td.eptp >> 3 & 7  # the L2 VM's root has no entry in use
        return Status.L2_SEPT_WALK_FAILED | vm << 16 | top, [0] * len(after)
    return status, after


def _illegal(attributes: int) -> bool:
    unreadable = not attributes & READABLE and bool(attributes & (WRITABLE | PAGING_WRITE))
    return unreadable or bool(attributes & (ATTR_RESERVED | SUPPRESS_VE))


# -- L2 VMs ---------------------------------------------------------------------------------------


def enter(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.ENTER. The virtual APIC page of an L2 VM is never there."""
    td = vcpu.td
    if r[RDX] % STATE_ALIGN:
        raise Refused(Status.OPERAND_INVALID | RDX)
    _private(td, r[RDX], RDX)
    _l2_vm(td, r[RCX], ENTER_INVEPT)
    raise Refused(Status.OPERAND_INVALID | Operand.L2_VAPIC_GPA)


def invalidate_ept(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.INVEPT of the L2 VMs whose bits are set: there is nothing cached."""
    if r[RCX] & 1 or r[RCX] >> vcpu.td.num_l2_vms + 1:
        raise Refused(Status.OPERAND_INVALID | RCX)
    return Status.SUCCESS


def invalidate_vpid(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.INVVPID of linear addresses, one range in RDX or a list that it names."""
    _l2_vm(vcpu.td, r[RCX], INVVPID_LIST)
    if not r[RCX] & INVVPID_LIST:
        return _ranges([r[RDX]])
    first, count = r[RDX] & (LIST_ENTRIES - 1), r[RDX] >> 52 & 0x3FF
    if r[RDX] & 0xE00 or r[RDX] >> 62 or first + count > LIST_ENTRIES:
        raise Refused(Status.OPERAND_INVALID | RDX)
    gpa = r[RDX] & 0x000F_FFFF_FFFF_F000
    place = operand(m, vcpu, gpa, RDX, LIST_ENTRIES * ENTRY, READ, private=True)
    listed = [U64.unpack_from(get(m, place), ENTRY * slot)[0] for slot in range(first, first + count)]
    status = _ranges(listed)
    if status == Status.SUCCESS:
        end = first + count & LIST_ENTRIES - 1
        r[RDX] = gpa | end
    return status


def _ranges(listed: list[int]) -> int:
    """Each entry has an address and, in its low bits, how many pages come behind the first."""
    for entry in listed:
        base, last = entry & ~OFFSET, entry & OFFSET
        if not (_canonical(base) and _canonical(base + (last << 12))):
            return Status.GLA_NOT_CANONICAL
    return Status.SUCCESS


def _canonical(address: int) -> bool:
    return address >> CANONICAL_BITS - 1 in (0, (1 << 65 - CANONICAL_BITS) - 1)


def _l2_vm(td: Td, raw: int, flags: int) -> None:
    """RCX names an L2 VM of the TD, and no reserved bit."""
    number = raw >> VM_SHIFT & VM_MASK
    if not 0 < number <= td.num_l2_vms or raw & ~(VM_MASK << VM_SHIFT | flags):
        raise Refused(Status.OPERAND_INVALID | RCX)


def _private(td: Td, gpa: int, number: int) -> None:
    if gpa >> (52 if td.gpaw else 48) or gpa >> MAX_PA or gpa & td.shared_bit:
        raise Refused(Status.OPERAND_INVALID | number)


# -- service TDs ----------------------------------------------------------------------------------


def service_read(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.SERVTD.RD."""
    r[RDX] = fields.NO_FIELD
    return service_write(m, vcpu, r)


def service_write(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.SERVTD.WR: no binding was ever made, so RCX names none."""
    r[R8] = 0
    raise Refused(Status.OPERAND_INVALID | RCX)
