"""A TD's private memory: tables, pages in and out, blocking, tracking. Sections 2.5, 3.3, 4.6 and 4.7."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import checks
from protocol.arch.tdx.machine.checks import IMPLIED, OWN, SHARE, Entry
from protocol.arch.tdx.machine.sept import FREE, REMOVED, blocked, leaf, table, unblocked
from protocol.arch.tdx.platform import FRAMES
from protocol.arch.tdx.status import R8, R9, R10, R11, RAX, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import DEBUG, LEVEL_1G, LEVEL_2M, LEVEL_4K, U64, U64_MASK, GpaLevel
from protocol.arch.tdx.tables import (
    BLOCKED_FROM,
    HOST_ENTRY_STATES,
    IMPORTING,
    MAY_RUN,
    STATE,
    UNBLOCKED_TO,
    PageType,
)
from protocol.effects import Step
from protocol.memory.store import PAGE

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine
    from protocol.arch.tdx.machine.entities import Td

ADD, SEPT_ADD, AUG, BLOCK = 2, 3, 6, 7
MEM_RD, MEM_WR, EXTEND, SEPT_RD = 12, 14, 16, 25
REMOVE, SEPT_REMOVE, TRACK, UNBLOCK = 29, 30, 38, 39
ALLOW_EXISTING = 1  # of RDX in SEPT.ADD
WALK_LENGTH = -1  # as the highest level: that of the root's entries
NULL_PAGE = U64_MASK
NOT_USED = 1 << 63  # of a page in R8 to R11: the call did not take it
CHUNK = 256  # bytes of one MR.EXTEND
NAME_LENGTH = 16


def take_operands(call: Call) -> tuple[int, int]:
    """RCX and RDX; in the answer they are zero, or say which entry was in the way."""
    rcx, rdx = call.r[RCX], call.r[RDX]
    call.r[RCX] = call.r[RDX] = 0
    return rcx, rdx


def target(m: Machine, call: Call, tdr: int, number: int, exclusive: bool = False) -> Td:
    """The TD in RDX, in a state for this leaf."""
    td = checks.td_of(m, call, tdr, RDX, exclusive)
    checks.state(call, td, number, IMPLIED if exclusive else SHARE)
    return td


def entry_at(call: Call, td: Td, where: GpaLevel, lock: str) -> Entry:
    """The entry, locked; where the TDR is owned nobody else can be at it."""
    place = checks.find(call, td, where, lock)
    return Entry(checks.tree(td), place) if lock is IMPLIED else checks.locked(call, td, place)


def usual(
    m: Machine, call: Call, number: int, low: int, high: int, lock: str, exclusive: bool = False
) -> tuple[Td, Entry, int]:
    """The typical Secure EPT call: TD, entry in a state that the leaf takes, guest address."""
    rcx, rdx = take_operands(call)
    td = target(m, call, rdx, number, exclusive)
    where = checks.gpa_level(td, rcx, low, checks.tree(td).top if high == WALK_LENGTH else high)
    found = entry_at(call, td, where, lock)
    checks.allowed(call, found, number)
    return td, found, where.gpa


# -- tables ----------------------------------------------------------------------------------------


def add_table(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.SEPT.ADD. Version 1 names L2 pages, too, which only a partitioned TD could use."""
    pages = [call.r[R8], *((call.r[R9], call.r[R10], call.r[R11]) if call.version else ())]
    allow, tdr = call.r[RDX] & ALLOW_EXISTING, call.r[RDX] & ~ALLOW_EXISTING
    if call.version > 1:
        take_operands(call)
        raise Refused(Status.OPERAND_INVALID | RAX)
    if tdr & 0xFFF or tdr >> 52:
        take_operands(call)
        raise Refused(Status.OPERAND_INVALID | RDX)
    call.r[RDX] = tdr
    td, found, _ = usual(m, call, SEPT_ADD, LEVEL_2M, WALK_LENGTH, SHARE)
    new, answer = _new_table(m, call, found, pages, bool(allow))
    yield from call.commit()
    if new is not None:
        m.give(td, new, PageType.EPT)
        checks.tree(td).add(new)
        found.put(table(new))
    if call.version:
        call.r[R8 : R11 + 1] = [answer, *pages[1:]]
    return Status.SUCCESS


def _new_table(m: Machine, call: Call, found: Entry, pages: list[int], allow: bool) -> tuple[int | None, int]:
    """The frame that becomes a table, None if one is there already; and what R8 says of it in version 1."""
    page = pages[0] if pages[0] == NULL_PAGE else pages[0] & ~NOT_USED
    mapped = found.state.name == "NL_MAPPED"
    new: int | None = None
    if page == NULL_PAGE:
        if not call.version:
            raise Refused(Status.OPERAND_INVALID | R8)
        if not mapped:
            raise found.refuse(call, Status.EPT_ENTRY_STATE_INCORRECT | RCX)
    elif not mapped:
        new = m.platform.private(call.held, page, R8, PageType.NDA, exclusive=True)
    elif not allow:
        raise found.refuse(call, Status.EPT_ENTRY_STATE_INCORRECT | RCX)
    for number, other in enumerate(pages[1:], 1):
        if other != NULL_PAGE:
            raise Refused(Status.OPERAND_INVALID | (R8 + number))  # no L2 VM has that number
    if new is not None:
        return new, NULL_PAGE
    return None, page if page == NULL_PAGE else page | NOT_USED


def remove_table(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.SEPT.REMOVE."""
    if call.version:
        call.r[R9] = call.r[R10] = call.r[R11] = NULL_PAGE
    if call.version > 1:
        take_operands(call)
        raise Refused(Status.OPERAND_INVALID | RAX)
    td, found, _ = usual(m, call, SEPT_REMOVE, LEVEL_2M, WALK_LENGTH, OWN)
    frame = found.frame
    m.platform.implicit(call.held, frame, RCX, exclusive=True)
    checks.tracking(m, call, td, found)
    if any(entry != FREE for entry in checks.tree(td).tables[frame]):
        raise found.refuse(call, Status.EPT_PAGE_NOT_FREE | RCX)
    yield from call.commit()
    found.put(FREE)
    checks.tree(td).drop(frame)
    m.take_back(td, frame)
    call.r[RCX] = frame << 12
    return Status.SUCCESS


def read_entry(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.SEPT.RD. Bit 0 of RDX asks for L2 attributes, which only a debug TD shows."""
    rcx, rdx = take_operands(call)
    attributes = rdx & 1
    td = target(m, call, rdx & ~1, SEPT_RD)
    if attributes and not td.attributes & DEBUG:
        raise Refused(Status.OPERAND_INVALID | RDX)
    found = entry_at(call, td, checks.gpa_level(td, rcx, LEVEL_4K, checks.tree(td).top), SHARE)
    yield from call.commit()
    checks.details(call, found.value, found.level)
    if attributes:
        call.r[R8] = 0
    return Status.SUCCESS


# -- pages -----------------------------------------------------------------------------------------


def add_page(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.ADD: a page with content; its address is measured."""
    td, found, gpa = usual(m, call, ADD, LEVEL_4K, LEVEL_4K, IMPLIED, exclusive=True)
    source = m.platform.shared(call.r[R9], R9, PAGE)
    frame = m.platform.private(call.held, call.r[R8], R8, PageType.NDA, exclusive=True)
    data = m.load(source, PAGE)
    yield from call.commit()
    m.give(td, frame, PageType.REG)
    m.storage.vault_write(frame, 0, data)
    found.put(leaf(frame, STATE["MAPPED"]))
    measure(td, b"MEM.PAGE.ADD", gpa)
    m.ledger.count(("pages", "add"))
    return Status.SUCCESS


def augment(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.AUG: a page, or a large one, that the guest has to accept."""
    td, found, _ = usual(m, call, AUG, LEVEL_4K, LEVEL_2M, SHARE)
    size = found.level
    frame = m.platform.private(call.held, call.r[R8], R8, PageType.NDA, exclusive=True, size=size)
    yield from call.commit()
    m.give(td, frame, PageType.REG, size)
    found.put(leaf(frame, STATE["PENDING"]))
    m.ledger.count(("pages", "aug"), FRAMES[size])
    return Status.SUCCESS


def remove_page(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.REMOVE."""
    td, found, _ = usual(m, call, REMOVE, LEVEL_4K, LEVEL_1G, SHARE)
    frame, size = found.frame, found.size
    m.platform.implicit(call.held, frame, RCX, exclusive=True, size=size)
    checks.tracking(m, call, td, found)
    yield from call.commit()
    found.put(REMOVED if td.op_state in IMPORTING else FREE)
    m.take_back(td, frame, size)
    call.r[RCX] = frame << 12
    m.ledger.count(("pages", "remove"), FRAMES[size])
    return Status.SUCCESS


def measure(td: Td, name: bytes, gpa: int, data: bytes = b"") -> None:
    """A block of 128 bytes, then what is measured, into MRTD (section 6.4)."""
    assert td.hashing is not None
    td.hashing.update((name.ljust(NAME_LENGTH, b"\0") + U64.pack(gpa)).ljust(128, b"\0") + data)


# -- blocking and tracking -------------------------------------------------------------------------


def block(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.RANGE.BLOCK. What is blocked already is a success that says so."""
    rcx, rdx = take_operands(call)
    td = target(m, call, rdx, BLOCK)
    found = entry_at(call, td, checks.gpa_level(td, rcx, LEVEL_4K, checks.tree(td).top), OWN)
    if found.state.blocked:
        raise found.refuse(call, Status.GPA_RANGE_ALREADY_BLOCKED | RCX)
    checks.allowed(call, found, BLOCK)
    frame = found.frame
    m.platform.implicit(call.held, frame, RCX, exclusive=True, size=found.size)
    yield from call.commit()
    found.put(blocked(found.value, STATE[BLOCKED_FROM[found.state.name]]))
    m.platform.bepochs[frame] = td.epoch
    return Status.SUCCESS


def unblock(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.RANGE.UNBLOCK. Where tracking is missing it names the tree, unlike every other call."""
    td, found, _ = usual(m, call, UNBLOCK, LEVEL_4K, WALK_LENGTH, OWN)
    frame = found.frame
    m.platform.implicit(call.held, frame, RCX, exclusive=True, size=found.size)
    if td.op_state in MAY_RUN and not td.tracked(m.platform.bepochs[frame]):
        raise Refused(Status.TLB_TRACKING_NOT_DONE | Operand.SEPT_TREE)
    yield from call.commit()
    found.put(unblocked(found.value, STATE[UNBLOCKED_TO[found.state.name]]))
    return Status.SUCCESS


def track(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.TRACK: a new epoch, once everybody has left the one before the present."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=False)
    checks.state(call, td, TRACK, SHARE)
    if not call.held.own(checks.epoch_lock(td)):
        raise Refused(Status.OPERAND_BUSY | Operand.TD_EPOCH)
    if td.inside[1 - (td.epoch & 1)]:
        raise Refused(Status.PREVIOUS_TLB_EPOCH_BUSY)
    yield from call.commit()
    td.epoch += 1
    return Status.SUCCESS


# -- debug and measurement -------------------------------------------------------------------------


def read_memory(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.RD, of a debug TD."""
    return _debug(m, call, MEM_RD)


def write_memory(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.WR, of a debug TD."""
    return _debug(m, call, MEM_WR)


def _debug(m: Machine, call: Call, number: int) -> Step[int]:
    (gpa, rdx), data = take_operands(call), call.r[R8]
    call.r[R8] = 0
    td = target(m, call, rdx, number)
    if not td.attributes & DEBUG:
        raise Refused(Status.TD_NON_DEBUG)
    if gpa & 7:
        raise Refused(Status.OPERAND_INVALID | RCX)
    if not call.held.share(checks.tree_lock(td)):
        raise Refused(Status.OPERAND_BUSY | Operand.SEPT_TREE)
    found = checks.locked(call, td, checks.leaf_entry(call, td, gpa))
    checks.allowed(call, found, number)
    frame = found.frame + (gpa >> 12 & (FRAMES[found.level] - 1))
    yield from call.commit()
    call.r[R8] = U64.unpack(m.storage.vault_read(frame, gpa & 0xFFF, 8))[0]
    if number == MEM_WR:
        m.storage.vault_write(frame, gpa & 0xFFF, U64.pack(data))
    return Status.SUCCESS


def extend(m: Machine, call: Call) -> Step[int]:
    """TDH.MR.EXTEND: 256 bytes of content into the measurement."""
    gpa, rdx = take_operands(call)
    td = target(m, call, rdx, EXTEND, exclusive=True)
    if gpa & (CHUNK - 1):
        raise Refused(Status.OPERAND_INVALID | RCX)
    found = Entry(checks.tree(td), checks.leaf_entry(call, td, gpa))
    if found.state.name not in HOST_ENTRY_STATES[EXTEND]:
        raise Refused(Status.EPT_ENTRY_NOT_PRESENT)
    frame = found.frame + (gpa >> 12 & (FRAMES[found.level] - 1))
    yield from call.commit()
    measure(td, b"MR.EXTEND", gpa, m.storage.vault_read(frame, gpa & 0xFFF, CHUNK))
    return Status.SUCCESS
