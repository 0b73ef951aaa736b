"""Pages that change their place or size: RELOCATE, PROMOTE, DEMOTE. Sections 2.5, 3.3 and 4.6."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call, pending_interrupt
from protocol.arch.tdx.machine import checks
from protocol.arch.tdx.machine.checks import SHARE, Entry
from protocol.arch.tdx.machine.memory import NULL_PAGE, entry_at, take_operands, target, usual
from protocol.arch.tdx.machine.sept import (
    ENTRIES,
    HOST_PRIORITY,
    LEAF,
    LOCKED,
    Place,
    SecureEpt,
    frame_of,
    leaf,
    state_of,
    table,
)
from protocol.arch.tdx.platform import FRAMES
from protocol.arch.tdx.status import R8, R9, R10, R11, RAX, RCX, RDX, Refused, Status
from protocol.arch.tdx.structs import LEVEL_1G, LEVEL_2M, LEVEL_4K
from protocol.arch.tdx.tables import STATE, UNBLOCKED_TO, EntryState, PageType
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

RELOCATE, DEMOTE, PROMOTE = 5, 15, 23
SPARSE = 1  # of RDX in DEMOTE


def relocate(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.RELOCATE: another page in the place of the present one, in the same state, unblocked."""
    td, found, _ = usual(m, call, RELOCATE, LEVEL_4K, LEVEL_4K, SHARE)
    old = found.frame
    if call.r[R8] == old << 12:
        raise Refused(Status.OPERAND_INVALID | R8)
    m.platform.implicit(call.held, old, RCX, exclusive=True)
    checks.tracking(m, call, td, found)
    new = m.platform.private(call.held, call.r[R8], R8, PageType.NDA, exclusive=True)
    yield from call.commit()
    m.give(td, new, PageType.REG)
    if not found.state.pending:
        m.storage.vault_write(new, 0, m.storage.vault_read(old, 0, 4096))
    found.put(leaf(new, _free_to_use(found.state)))
    m.take_back(td, old)
    call.r[RCX] = old << 12
    return Status.SUCCESS


def _free_to_use(state: EntryState) -> EntryState:
    """The state that a blocked one comes from; any other is kept."""
    return STATE[UNBLOCKED_TO.get(state.name, state.name)]


def demote(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.DEMOTE: a large page becomes a table of 512 smaller ones."""
    original = call.r[RCX], call.r[RDX]
    rcx, rdx = take_operands(call)
    tdr = rdx & ~SPARSE
    if tdr & 0xFFF or tdr >> 52:
        raise Refused(Status.OPERAND_INVALID | RDX)
    td = target(m, call, tdr, DEMOTE)
    found = entry_at(call, td, checks.gpa_level(td, rcx, LEVEL_2M, LEVEL_1G), SHARE)
    checks.allowed(call, found, DEMOTE)
    checks.tracking(m, call, td, found)
    new = m.platform.private(call.held, call.r[R8], R8, PageType.NDA, exclusive=True)
    yield from call.commit()
    if pending_interrupt(call.lp):
        call.r[RCX], call.r[RDX] = original
        return Status.INTERRUPTED_RESTARTABLE
    first, size, state = found.frame, found.level, _free_to_use(found.state)
    m.platform.implicit(call.held, first, RCX, exclusive=True, size=size)
    sept = checks.tree(td)
    m.give(td, new, PageType.EPT)
    sept.add(new)
    smaller = FRAMES[size - 1]
    for slot in range(ENTRIES):
        sept.tables[new][slot] = leaf(first + slot * smaller, state)
    found.put(table(new))
    m.platform.size[first : first + FRAMES[size]] = size - 1
    return Status.SUCCESS


def promote(m: Machine, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.PROMOTE: 512 pages that fit together become one; their table is free."""
    original = call.r[RCX], call.r[RDX]
    if call.version:
        call.r[R9] = call.r[R10] = call.r[R11] = NULL_PAGE
    if call.version > 1:
        take_operands(call)
        raise Refused(Status.OPERAND_INVALID | RAX)
    td, found, _ = usual(m, call, PROMOTE, LEVEL_2M, LEVEL_1G, SHARE)
    old = found.frame
    m.platform.implicit(call.held, old, RCX, exclusive=True)
    checks.tracking(m, call, td, found)
    sept = checks.tree(td)
    call.held.add(_lock_children(call, found, sept, old))
    first, state = _whole(call, found, sept, old)
    yield from call.commit()
    if pending_interrupt(call.lp):
        call.r[RCX], call.r[RDX] = original
        return Status.INTERRUPTED_RESTARTABLE
    m.platform.implicit(call.held, first, RCX, exclusive=True, size=found.level)
    found.put(leaf(first, state))
    sept.drop(old)
    m.take_back(td, old)
    m.platform.size[first : first + FRAMES[found.level]] = found.level
    m.platform.bepochs[first] = 0
    call.r[RCX] = old << 12
    return Status.SUCCESS


def _lock_children(call: Call, found: Entry, sept: SecureEpt, old: int) -> Callable[[], None]:
    """Lock all entries of the table, or none and OPERAND_BUSY; what gives the locks back."""
    places = [Place(old, slot, found.level - 1, 0) for slot in range(ENTRIES)]
    for number, place in enumerate(places):
        if not sept.lock_for_host(place):
            for mine in places[:number]:
                sept.unlock(mine)
            raise found.refuse(call, Status.OPERAND_BUSY | RCX)

    def release() -> None:
        for place in places:
            sept.unlock(place)

    return release


def _whole(call: Call, found: Entry, sept: SecureEpt, old: int) -> tuple[int, EntryState]:
    """The first frame and the state of 512 entries that are alike, contiguous, and aligned together."""
    level = found.level - 1
    entries = [entry & ~(LOCKED | HOST_PRIORITY) for entry in sept.tables[old]]
    state, first = state_of(entries[0]), frame_of(entries[0])
    step = FRAMES[level] << 12
    fits = (
        state.name in ("MAPPED", "PENDING")
        and entries[0] & LEAF
        and not first % FRAMES[found.level]
        and all(entry == entries[0] + slot * step for slot, entry in enumerate(entries))
    )
    if not fits:
        raise found.refuse(call, Status.EPT_INVALID_PROMOTE_CONDITIONS | RCX)
    return first, state
