"""Checks that many leaves share, in the order of section 3.3: the TD, its state, the way to an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine.sept import LOCKED, Place, SecureEpt, architectural, frame_of, state_of
from protocol.arch.tdx.platform import FRAMES
from protocol.arch.tdx.profiles import MAX_PA, TDCS_PAGES
from protocol.arch.tdx.status import FATAL, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import GpaLevel
from protocol.arch.tdx.tables import HOST_ENTRY_STATES, MAY_RUN, OP_STATES, EntryState, Lifecycle, PageType

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine
    from protocol.arch.tdx.machine.entities import Td, Vcpu

SHARE, OWN, IMPLIED = "share", "own", "implied"


def td_of(m: Machine, call: Call, address: int, operand: int, exclusive: bool) -> Td:
    """The TD whose TDR is at `address`, locked."""
    return m.tds[m.platform.private(call.held, address, operand, PageType.TDR, exclusive)]


def vcpu_of(m: Machine, call: Call, address: int, operand: int, exclusive: bool) -> Vcpu:
    """The VCPU whose TDVPR an operand names, locked, and its TD, locked shared."""
    frame = m.platform.private(call.held, address, operand, PageType.TDVPR, exclusive)
    vcpu = m.vcpus[frame]
    m.platform.implicit(call.held, vcpu.td.frame, Operand.TDR, exclusive=False)
    return vcpu


def state(call: Call, td: Td, leaf: int, lock: str) -> None:
    """The TD state block. `lock` is how the op state is locked; implied where the TDR is owned."""
    if td.fatal:
        raise Refused(Status.TD_FATAL | FATAL)
    if td.lifecycle is not Lifecycle.KEYS_CONFIGURED:
        raise Refused(Status.TD_KEYS_NOT_CONFIGURED)
    if len(td.tdcs) < TDCS_PAGES:
        raise Refused(Status.TDCS_NOT_ALLOCATED)
    if lock is not IMPLIED:
        key = op_lock(td)
        if not (call.held.own(key) if lock is OWN else call.held.share(key)):
            raise Refused(Status.OPERAND_BUSY | Operand.OP_STATE)
    if td.op_state not in OP_STATES[leaf]:
        raise Refused(Status.OP_STATE_INCORRECT)


def op_lock(td: Td) -> tuple[str, int]:
    return "op", td.frame


def tree_lock(td: Td) -> tuple[str, int]:
    return "sept", td.frame


def epoch_lock(td: Td) -> tuple[str, int]:
    return "epoch", td.frame


# -- Secure EPT ------------------------------------------------------------------------------------


def tree(td: Td) -> SecureEpt:
    """The TD's tables; they are there from MNG.INIT on, and no leaf gets here before."""
    assert td.sept is not None
    return td.sept


def gpa_level(td: Td, raw: int, low: int, high: int) -> GpaLevel:
    """RCX as GPA_LEVEL: its form, then a legal private address."""
    target = GpaLevel.unpack(raw)
    if target.reserved or not low <= target.level <= high or not target.aligned():
        raise Refused(Status.OPERAND_INVALID | RCX)
    private(td, target.gpa, RCX)
    return target


def private(td: Td, gpa: int, operand: int) -> None:
    """A guest address that the TD can have, with the SHARED bit clear."""
    if gpa >> (52 if td.gpaw else 48) or gpa >> MAX_PA or gpa & td.shared_bit:
        raise Refused(Status.OPERAND_INVALID | operand)


def details(call: Call, entry: int, level: int) -> None:
    """Show an entry in RCX and RDX."""
    call.r[RCX] = architectural(entry)
    call.r[RDX] = level | state_of(entry).code << 8


class Entry:
    """An entry that a call has found, and locked if it had to: where it is and what it says."""

    __slots__ = ("level", "place", "sept", "state", "value")

    def __init__(self, sept: SecureEpt, place: Place) -> None:
        self.sept = sept
        self.place = place
        self.level = place.level
        self.value = sept.get(place)
        self.state: EntryState = state_of(self.value)

    @property
    def frame(self) -> int:
        """The first frame of the page or table that the entry names."""
        first = frame_of(self.value)
        return first & ~(FRAMES[self.level] - 1) if self.state.leaf else first

    @property
    def size(self) -> int:
        """The size of that page; a table is a small one."""
        return self.level if self.state.leaf else 0

    def put(self, value: int) -> None:
        """Write the entry; a lock on it stays."""
        self.sept.put(self.place, value | self.sept.get(self.place) & LOCKED)

    def refuse(self, call: Call, status: int) -> Refused:
        """The status of a check that shows the entry."""
        details(call, self.value, self.level)
        return Refused(status)


def find(call: Call, td: Td, target: GpaLevel, lock: str) -> Place:
    """The tree's lock, then the walk to the level that was asked for."""
    if lock is not IMPLIED:
        key = tree_lock(td)
        if not (call.held.own(key) if lock is OWN else call.held.share(key)):
            raise Refused(Status.OPERAND_BUSY | Operand.SEPT_TREE)
    place = tree(td).walk(target.gpa, target.level)
    if place.level != target.level:
        details(call, place.entry, place.level)
        raise Refused(Status.EPT_WALK_FAILED | RCX)
    return place


def locked(call: Call, td: Td, place: Place) -> Entry:
    """Lock the entry, read it again; the lock is given back with all others."""
    sept = tree(td)
    if not sept.lock_for_host(place):
        details(call, place.entry, place.level)
        raise Refused(Status.OPERAND_BUSY | RCX)
    call.held.add(lambda: sept.unlock(place))
    return Entry(sept, place)


def allowed(call: Call, found: Entry, leaf: int) -> None:
    """The entry is in a state that the leaf takes."""
    if found.state.name not in HOST_ENTRY_STATES[leaf]:
        raise found.refuse(call, Status.EPT_ENTRY_STATE_INCORRECT | RCX)


def leaf_entry(call: Call, td: Td, gpa: int) -> Place:
    """The leaf that maps a private address for the guest; a miss is EPT_ENTRY_NOT_PRESENT."""
    private(td, gpa, RCX)
    place = tree(td).leaf_at(gpa)
    if not place.entry & 0x80 or not place.entry & 7:
        details(call, place.entry, place.level)
        raise Refused(Status.EPT_ENTRY_NOT_PRESENT | RCX)
    return place


def tracking(m: Machine, call: Call, td: Td, found: Entry) -> None:
    """If the TD may run: the entry is blocked, and no translation of it can be cached any more."""
    if not found.state.tracked or td.op_state not in MAY_RUN:
        return
    if not found.state.blocked:
        raise found.refuse(call, Status.GPA_RANGE_NOT_BLOCKED | RCX)
    if not td.tracked(m.platform.bepochs[found.frame]):
        raise Refused(Status.TLB_TRACKING_NOT_DONE | RCX)
