"""Accesses of a guest to its memory: sections 4.6, 5.2 and 5.3 of the fact sheet.

What a guest cannot do by itself is raised: `Leaves` where the host gets an exit, `GuestException` where
the guest's own CPU takes an exception. Both leave the module's state as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.machine.entities import Vcpu, VeInfo
from protocol.arch.tdx.machine.sept import RWX, frame_of, state_of
from protocol.arch.tdx.platform import FRAMES
from protocol.arch.tdx.profiles import MAX_PA
from protocol.arch.tdx.shared_ept import READ, WRITE, End, Walk, walk
from protocol.arch.tdx.status import Status
from protocol.effects import Fault
from protocol.memory.physical import chunks
from protocol.memory.store import OFFSET

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

EPT_VIOLATION, EPT_MISCONFIGURATION = 48, 49
EEQ_NONE, EEQ_ACCEPT, EEQ_ATTR_WR, EEQ_PENDING = 0, 1, 5, 6


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a VCPU leaves, as the host gets it: status, and what stands in RCX, RDX, R8, R9."""

    name: str
    status: int
    rcx: int = 0
    rdx: int = 0
    r8: int = 0
    r9: int = 0
    counts_as_step: bool = False  # a private violation that may be a step of an attack
    finishes: bool = False  # the step at the head is done with it
    shown: tuple[int, ...] | None = None  # all registers, of a TDVMCALL


class Leaves(Exception):
    """The guest cannot go on without its host."""

    def __init__(self, exit: Exit) -> None:  # noqa: A002 -- the field's own word
        self.exit = exit


class GuestException(Exception):
    """The guest's own CPU takes an exception; its handler skips the instruction."""

    def __init__(self, code: int) -> None:
        self.code = code


class Piece(NamedTuple):
    """A part of an access within one page: a private frame, or an address of the host's."""

    private: bool
    address: int
    length: int


MACHINE_CHECK = Exit("machine_check", Status.NON_RECOVERABLE_TD_NON_ACCESSIBLE)


def load(m: Machine, vcpu: Vcpu, gpa: int, length: int) -> bytes:
    """Read guest memory. Raises Leaves or GuestException."""
    parts = []
    for piece in resolve(m, vcpu, gpa, length, READ):
        if piece.private:
            frame, offset = piece.address >> 12, piece.address & OFFSET
            parts.append(m.storage.vault_read(frame, offset, piece.length))
        else:
            data = m.peek(piece.address, piece.length)
            if isinstance(data, Fault):
                raise Leaves(MACHINE_CHECK)
            parts.append(data)
    return b"".join(parts)


def store(m: Machine, vcpu: Vcpu, gpa: int, data: bytes) -> None:
    """Write guest memory, all of it or nothing. Raises Leaves or GuestException."""
    done = 0
    for piece in resolve(m, vcpu, gpa, len(data), WRITE):
        part = data[done : done + piece.length]
        if piece.private:
            m.storage.vault_write(piece.address >> 12, piece.address & OFFSET, part)
        else:
            m.poke(piece.address, part)
        done += piece.length


def resolve(m: Machine, vcpu: Vcpu, gpa: int, length: int, kind: int, logged: bool = True) -> list[Piece]:
    """Where each part of an access lies. `logged`: a violation counts for the zero-step filter."""
    pieces = []
    for at, n in chunks(gpa, length):
        if at >> (52 if vcpu.td.gpaw else 48) or at >> MAX_PA:
            raise GuestException(x86.PF)
        if at & vcpu.td.shared_bit:
            pieces.append(Piece(False, _shared(m, vcpu, at, kind), n))
        else:
            pieces.append(Piece(True, _private(m, vcpu, at, n, kind, logged), n))
    return pieces


# -- private ---------------------------------------------------------------------------------------


def _private(m: Machine, vcpu: Vcpu, gpa: int, length: int, kind: int, logged: bool) -> int:
    """The physical address behind a private one."""
    sept = vcpu.td.sept
    assert sept is not None
    if m.spoiled and any(m.broken(frame) for frame in sept.path(gpa)):
        raise Leaves(MACHINE_CHECK)
    place = sept.leaf_at(gpa)
    state = state_of(place.entry)
    if not (state.writable if kind & WRITE else state.readable):
        raise _violation(vcpu, gpa, kind, place.entry & RWX, state.acceptable, logged)
    frame = (frame_of(place.entry) & ~(FRAMES[place.level] - 1)) + (gpa >> 12 & (FRAMES[place.level] - 1))
    if m.broken(frame, gpa & OFFSET, length):
        raise Leaves(MACHINE_CHECK)
    return frame << 12 | gpa & OFFSET


def _violation(
    vcpu: Vcpu, gpa: int, kind: int, rights: int, acceptable: bool, logged: bool
) -> Leaves | GuestException:
    """A private address that is not there for the guest."""
    qualification = kind | rights << 3
    if acceptable and not vcpu.td.pending_ve_disable:
        return inject_ve(vcpu, qualification, gpa)
    extended = EEQ_PENDING if acceptable else EEQ_NONE
    return Leaves(violation(gpa, qualification, extended, logged))


def violation(gpa: int, qualification: int, extended: int = 0, logged: bool = False) -> Exit:
    return Exit("ept_violation", EPT_VIOLATION, qualification, extended, gpa & ~OFFSET, counts_as_step=logged)


def inject_ve(vcpu: Vcpu, qualification: int, gpa: int) -> GuestException:
    """#VE, its data for TDG.VP.VEINFO.GET; a second one before that is #DF."""
    if vcpu.ve is not None:
        return GuestException(x86.DF)
    # Steps have no linear addresses; the guest maps all of its memory one to one.
    vcpu.ve = VeInfo(EPT_VIOLATION, qualification, gla=gpa, gpa=gpa)
    return GuestException(x86.VE)


# -- shared ----------------------------------------------------------------------------------------


def _shared(m: Machine, vcpu: Vcpu, gpa: int, kind: int) -> int:
    """The address behind a shared one, through the EPT that the host edits with plain stores."""
    found = walk(m, vcpu.shared_eptp, vcpu.td.eptp >> 3 & 7, gpa, kind)
    match found.end:
        case End.LEAF:
            return found.address
        case End.MACHINE_CHECK:
            raise Leaves(MACHINE_CHECK)
        case End.VE:
            raise inject_ve(vcpu, kind | found.rights << 3, gpa)
    raise Leaves(shared_exit(found, gpa, kind))


def shared_exit(found: Walk, gpa: int, kind: int) -> Exit:
    """The exit of a walk that did not end at a page."""
    if found.end is End.VIOLATION:
        return violation(gpa, kind | found.rights << 3)
    return Exit("ept_misconfiguration", EPT_MISCONFIGURATION, r8=gpa & ~OFFSET)
