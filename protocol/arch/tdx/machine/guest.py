"""TDCALL: what a guest asks of the module itself, with no hypervisor on the way. Sections 2.7, 3.3 and 3.4.

A leaf takes the guest's registers and changes them; it returns the status that goes to RAX, or raises what
the guest cannot go on with (`access.Leaves`, `access.GuestException`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.arch.tdx import fields
from protocol.arch.tdx.machine import metadata, report, system
from protocol.arch.tdx.machine.access import (
    EEQ_ACCEPT,
    MACHINE_CHECK,
    Exit,
    Leaves,
    Piece,
    resolve,
    violation,
)
from protocol.arch.tdx.machine.entities import Vcpu
from protocol.arch.tdx.machine.sept import LOCKED, RWX, frame_of, leaf, state_of
from protocol.arch.tdx.platform import FRAMES
from protocol.arch.tdx.profiles import MAX_PA
from protocol.arch.tdx.shared_ept import READ, WRITE
from protocol.arch.tdx.status import R8, R9, R10, R11, RAX, RCX, RDX, Refused, Status
from protocol.arch.tdx.structs import (
    CONFIG_NO_RBP_MOD,
    LEVEL_2M,
    LEVEL_4K,
    REPORT_DATA_SIZE,
    REPORT_MAC_SIZE,
    REPORT_SIZE,
    GpaLevel,
)
from protocol.arch.tdx.tables import GUEST_ENTRY_STATES, STATE
from protocol.effects import Fault

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

VERSION_SHIFT = 16
RESERVED = 0xFFFF_FFFF_FF00_0000
VM_RD = 7
VMCALL = 0
ACCEPT = 6
TDCALL_EXIT = 77
LIST_SIZE = 4096
ALWAYS_FORBIDDEN = 1 << 0 | 1 << 1 | 1 << 4  # GPRs that a TDVMCALL cannot show
RBP = 1 << 5

GuestRegisters = list[int]
GuestLeaf = Callable[["Machine", Vcpu, GuestRegisters], int]


def call(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> None:
    """One TDCALL; RAX holds its status afterwards. Raises Leaves or GuestException."""
    rax = r[RAX]
    number, version = rax & 0xFFFF, rax >> VERSION_SHIFT & 0xFF
    spec = m.guest_calls.get(number)
    if rax & RESERVED or (version and number != VM_RD) or spec is None:
        r[RAX] = Status.OPERAND_INVALID | RAX
        return
    m.ledger.count(("te_calls", spec.name, spec.category, "native", "guest"))
    assert spec.handler is not None
    try:
        r[RAX] = spec.handler(m, vcpu, r)
    except Refused as refused:
        r[RAX] = refused.status


# -- about itself ----------------------------------------------------------------------------------


def info(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.INFO."""
    td = vcpu.td
    r[RCX] = 52 if td.gpaw else 48
    r[RDX] = td.attributes
    r[R8] = td.num_vcpus | td.max_vcpus << 32
    r[R9] = vcpu.index
    r[R10], r[R11] = 1, 0
    return Status.SUCCESS


def ve_info(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.VEINFO.GET."""
    ve, vcpu.ve = vcpu.ve, None
    if ve is None:
        r[RCX] = r[RDX] = r[R8] = r[R9] = r[R10] = 0
        return Status.NO_VALID_VE_INFO
    r[RCX], r[RDX], r[R8], r[R9], r[R10] = ve.reason, ve.qualification, ve.gla, ve.gpa, 0
    return Status.SUCCESS


def cpuid_ve(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.CPUIDVE.SET."""
    if r[RCX] & ~3:
        raise Refused(Status.OPERAND_INVALID | RCX)
    vcpu.supervisor_ve, vcpu.user_ve = r[RCX] & 1, r[RCX] >> 1 & 1
    return Status.SUCCESS


def vmcall(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.VMCALL: leave, and show the host the registers that RCX selects."""
    control = r[RCX]
    forbidden = ALWAYS_FORBIDDEN
    if vcpu.td.config_flags & CONFIG_NO_RBP_MOD:
        forbidden |= RBP
    if control & forbidden or control >> 32:
        raise Refused(Status.OPERAND_INVALID | RCX)
    shown = [value if control >> number & 1 else 0 for number, value in enumerate(r)]
    raise Leaves(Exit("tdvmcall", TDCALL_EXIT, control, shown=tuple(shown)))


# -- metadata --------------------------------------------------------------------------------------


def vm_read(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VM.RD."""
    version, field_id = r[RAX] >> VERSION_SHIFT & 0xFF, r[RDX]
    r[R8] = 0
    if version:
        r[RDX] = fields.NO_FIELD
    if version > 1:
        raise Refused(Status.OPERAND_INVALID | RAX)
    if r[RCX]:
        raise Refused(Status.OPERAND_INVALID | RCX)
    status, following, r[R8] = metadata.read_td(m, vcpu.td, field_id, version, guest=True)
    if version:
        r[RDX] = following
    return status


def vm_write(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VM.WR."""
    value, r[R8] = r[R8], 0
    if r[RCX]:
        raise Refused(Status.OPERAND_INVALID | RCX)
    status, r[R8] = metadata.write_td(m, vcpu.td, r[RDX], value, r[R9], guest=True)
    return status


def vp_read(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.RD."""
    status, _, r[R8] = metadata.read_vp(m, vcpu, r[RDX], guest=True)
    return status


def vp_write(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.VP.WR."""
    status, r[R8] = metadata.write_vp(m, vcpu, r[RDX], r[R8], r[R9], guest=True)
    return status


def sys_read(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.SYS.RD."""
    status, r[RDX], r[R8] = system.read(m, r[RDX], guest=True)
    return status


def sys_read_all(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.SYS.RDALL, into a page of the guest's own."""
    first, r[R8] = r[R8], fields.NO_FIELD
    if r[RDX] & (LIST_SIZE - 1):
        raise Refused(Status.OPERAND_INVALID | RDX)
    where = operand(m, vcpu, r[RDX], RDX, LIST_SIZE, READ | WRITE)
    status, r[R8], data = system.dump(m, first, guest=True)
    put(m, where, data)
    return status


# -- measurement and report ------------------------------------------------------------------------


def extend_rtmr(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MR.RTMR.EXTEND."""
    if r[RCX] & 63:
        raise Refused(Status.OPERAND_INVALID | RCX)
    data = get(m, operand(m, vcpu, r[RCX], RCX, 48, READ, private=True))
    rtmr = vcpu.td.rtmr
    if r[RDX] >= len(rtmr):
        raise Refused(Status.OPERAND_INVALID | RDX)
    rtmr[r[RDX]] = hashlib.sha384(rtmr[r[RDX]] + data).digest()
    return Status.SUCCESS


def make_report(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MR.REPORT."""
    if r[RCX] & (REPORT_SIZE - 1):
        raise Refused(Status.OPERAND_INVALID | RCX)
    if r[RDX] & (REPORT_DATA_SIZE - 1):
        raise Refused(Status.OPERAND_INVALID | RDX)
    data = get(m, operand(m, vcpu, r[RDX], RDX, REPORT_DATA_SIZE, READ))
    if r[R8]:
        raise Refused(Status.OPERAND_INVALID | R8)
    made = report.make(m, vcpu.td, data)
    put(m, operand(m, vcpu, r[RCX], RCX, REPORT_SIZE, READ | WRITE), made)
    return Status.SUCCESS


def verify_report(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MR.VERIFYREPORT: was this MAC structure made on this machine?"""
    if r[RCX] & (REPORT_MAC_SIZE - 1):
        raise Refused(Status.OPERAND_INVALID | RCX)
    structure = get(m, operand(m, vcpu, r[RCX], RCX, REPORT_MAC_SIZE, READ, private=True))
    return report.verify(m, structure)


# -- memory ----------------------------------------------------------------------------------------


def accept(m: Machine, vcpu: Vcpu, r: GuestRegisters) -> int:
    """TDG.MEM.PAGE.ACCEPT. No interrupt can come between its first and its last page here."""
    where = GpaLevel.unpack(r[RCX])
    td = vcpu.td
    legal = not where.reserved and where.level in (LEVEL_4K, LEVEL_2M) and where.aligned()
    if not legal or where.gpa >> (52 if td.gpaw else 48) or where.gpa & td.shared_bit:
        raise Refused(Status.OPERAND_INVALID | RCX)
    sept = td.sept
    assert sept is not None
    place = sept.walk(where.gpa, where.level)
    state = state_of(place.entry)
    if place.level != where.level:
        if state.readable:
            return Status.PAGE_ALREADY_ACCEPTED | place.level
        raise Leaves(unacceptable(where, place.level, place.entry))
    if not sept.lock_for_guest(place):
        raise Refused(Status.OPERAND_BUSY | RCX)
    try:
        if not state.leaf and state.name not in ("FREE", "REMOVED"):
            return Status.PAGE_SIZE_MISMATCH | place.level
        if state.readable:
            return Status.PAGE_ALREADY_ACCEPTED | place.level
        if state.name not in GUEST_ENTRY_STATES[ACCEPT]:
            raise Leaves(unacceptable(where, place.level, place.entry))
        first = frame_of(place.entry)
        for frame in range(first, first + FRAMES[place.level]):
            m.storage.vault_clear(frame)
        m.seize(first, place.level)
        accepted = STATE["MAPPED" if state.name == "PENDING" else "EXPORTED_DIRTY"]
        sept.put(place, leaf(first, accepted) | LOCKED)
        m.ledger.count(("pages", "accept"), FRAMES[place.level])
        return Status.SUCCESS
    finally:
        sept.unlock(place)


def unacceptable(where: GpaLevel, level: int, entry: int, kind: int = EEQ_ACCEPT) -> Exit:
    """The exit of a call that finds nothing it can take; the host is told what stands in the way."""
    state = state_of(entry)
    detail = where.level | level << 3 | state.code << 6 | int(state.leaf) << 14
    return violation(where.gpa, WRITE | (entry & RWX) << 3, kind | detail << 32)


# -- memory operands -------------------------------------------------------------------------------


def operand(
    m: Machine, vcpu: Vcpu, gpa: int, register: int, length: int, kind: int, private: bool = False
) -> list[Piece]:
    """Where an operand in guest memory lies. One that cannot be an address is refused; a miss leaves."""
    td = vcpu.td
    if gpa >> (52 if td.gpaw else 48) or gpa >> MAX_PA or (private and gpa & td.shared_bit):
        raise Refused(Status.OPERAND_INVALID | register)
    return resolve(m, vcpu, gpa, length, kind, logged=False)


def get(m: Machine, pieces: list[Piece]) -> bytes:
    parts = []
    for piece in pieces:
        if piece.private:
            parts.append(m.storage.vault_read(piece.address >> 12, piece.address & 0xFFF, piece.length))
        else:
            data = m.peek(piece.address, piece.length)
            if isinstance(data, Fault):
                raise Leaves(MACHINE_CHECK)
            parts.append(data)
    return b"".join(parts)


def put(m: Machine, pieces: list[Piece], data: bytes) -> None:
    done = 0
    for piece in pieces:
        part = data[done : done + piece.length]
        if piece.private:
            m.storage.vault_write(piece.address >> 12, piece.address & 0xFFF, part)
        else:
            m.poke(piece.address, part)
        done += piece.length
