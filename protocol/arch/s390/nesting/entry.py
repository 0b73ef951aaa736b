"""SIE of a guest host: run its guest's CPU on a shadow of its control block.

Follows 5.3, 5.4, 7.2 and 7.6 of the fact sheet. The block is copied in once, its handles are held against
the books, ASCE, data page and handles are replaced; then the level below runs the CPU until something
happens that is the guest host's business. What is not: a page that the guest host maps but the shadow does
not yet, and a page that this level swapped out. Both are put right, and the CPU is entered again.

An exit with code 0 (the host was interrupted) is the answer where a call about the very page is still under
way: the guest host enters again, and in one process it never sees one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.instructions import (
    IPA_SPX,
    IPA_UVC,
    KICKED,
    NO_GPRS,
    NOTIFICATION,
    PREFIX,
    SECURE_INSTRUCTION,
    VALIDITY,
    prefixed,
)
from protocol.arch.s390.machine.sie import ALREADY_INSIDE, BAD_ASCE, BAD_FORMAT, BAD_HANDLE, area
from protocol.arch.s390.nesting.entities import TrackedCpu
from protocol.arch.s390.nesting.memory import import_page, restore
from protocol.arch.s390.nesting.passing import normal_block
from protocol.arch.s390.nesting.shadow import Space
from protocol.arch.s390.nesting.vcpu import drop_shadow
from protocol.arch.s390.structs import (
    SECURE,
    SHARE,
    SIE_CONFIG_HANDLE,
    SIE_CPU_HANDLE,
    SIE_GPRS,
    SIE_ICPTCODE,
    SIE_IICTL,
    SIE_IPA,
    SIE_LENGTH,
    SIE_MSL,
    SIE_MSO,
    SIE_SDF,
    SIE_SIDA,
    SIE_TIMER,
    TEXT,
    U64,
    SieEntry,
    SieExit,
)
from protocol.effects import Fault, Step
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import CLAIMED

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

NO_SHADOW = 0x1001  # guess: validity reason of our own, for a level below that is out of memory
NORMAL_SPACES = 8  # shadow tables kept for guests that are not secure

_TIMER, _CODE, _IICTL = (SIE_TIMER, 8), (SIE_ICPTCODE, 1), (SIE_IICTL, 1)
_TEXT, _GPRS = (SIE_IPA, 6), (SIE_GPRS, 128)
COPIED_IN = (_TIMER, (SIE_ICPTCODE, 12), (SIE_SDF, 1), _GPRS)
COPIED_OUT = (_TIMER, _CODE, _IICTL, _TEXT, _GPRS)
NORMAL_IN = ((SIE_ICPTCODE, 12), (SIE_MSO, 8), (SIE_MSL, 8), _GPRS)
NORMAL_OUT = (_CODE, _TEXT, _GPRS)
_RAN = (_TIMER, _IICTL)
_LEFT = (*_RAN, _GPRS)

# Exceptions of a table walk: the shadow may lack what the guest host's own table has.
WALK = z.NOT_MAPPED | {z.PROTECTION, z.ASCE_TYPE}
KICK = SieExit(KICKED, 0, 0, NO_GPRS)

Left = SieExit | Fault


def enter(nested: Nested, cpu: Cpu, address: int, program: Program, stay: bool, level: int) -> Step[Left]:
    raw = nested.peek(address, SIE_LENGTH)
    if isinstance(raw, Fault):
        return raw
    entry = SieEntry.unpack(raw)
    if entry.sdf == 0:
        return (yield from _enter_normal(nested, cpu, address, raw, program, stay, level))
    reason = _validity(nested, cpu, entry)
    if reason:
        return _refused(nested, address, reason, entry.gprs)
    secure = nested.secure_cpus[entry.cpu_handle]
    secure.inside = True
    try:
        _copy_in(nested, secure, entry, raw)
        left = yield from _run(nested, cpu, secure, program, stay, level)
        _copy_out(nested, address, secure, entry.sida, left)
    finally:
        secure.inside = False
        secure.config.space.follows &= any(other.inside for other in secure.config.cpus)
        if secure.ended:
            drop_shadow(nested, secure)
    nested.ledger.count(("reflections", str(nested.below.level), str(nested.level)))
    return left


def _validity(nested: Nested, cpu: Cpu, entry: SieEntry) -> int:
    """The checks that need this level's books, in the machine's order; all others are the level's below."""
    if entry.sdf != SECURE:
        return BAD_FORMAT
    config = nested.configs.get(entry.config_handle)
    secure = nested.secure_cpus.get(entry.cpu_handle)
    if config is None or secure is None or secure.config is not config:
        nested.ledger.count(("lookups", "vcpu_map", "miss"))
        return BAD_HANDLE
    nested.ledger.count(("lookups", "vcpu_map", "hit"))
    if cpu.cr[1] != config.space.asce:
        return BAD_ASCE
    return ALREADY_INSIDE if secure.inside else 0


def _refused(nested: Nested, address: int, reason: int, gprs: tuple[int, ...]) -> SieExit:
    """A validity of this level's own: nothing has run and nothing is consumed."""
    ipb = reason << 16
    nested.poke(address + SIE_ICPTCODE, bytes((VALIDITY,)))
    nested.poke(address + SIE_IPA, TEXT.pack(0, ipb))
    return SieExit(VALIDITY, 0, ipb, gprs)


# -- in and out --------------------------------------------------------------------------------


def _copy_in(nested: Nested, secure: TrackedCpu, entry: SieEntry, raw: bytes) -> None:
    """Make the shadow block. A data page that cannot be stored to is none below, either."""
    own = nested.below.memory
    shadow = bytearray(SIE_LENGTH)
    for at, n in COPIED_IN:
        shadow[at : at + n] = raw[at : at + n]
    U64.pack_into(shadow, SIE_CPU_HANDLE, secure.real)
    U64.pack_into(shadow, SIE_CONFIG_HANDLE, secure.config.real)
    U64.pack_into(shadow, SIE_SIDA, _data_page(nested, secure, entry.sida))
    own.write(secure.block, bytes(shadow))
    nested.ledger.count(("copied_bytes", "scb"), sum(n for _, n in COPIED_IN))


def _data_page(nested: Nested, secure: TrackedCpu, designation: int) -> int:
    """Where the level below puts an instruction's data: none, a page of this level's own, or out of
    reach."""
    if not designation:
        return 0
    if nested.refusal(*area(designation)) is not None:
        return int(nested.below.memory.size) & ~OFFSET
    data = nested.peek(designation & ~OFFSET, PAGE)
    assert isinstance(data, bytes), f"a page that can be stored to cannot be read: {data}"
    nested.below.memory.write(secure.sida, data)
    nested.ledger.count(("copied_bytes", "sida"), PAGE)
    return secure.sida


def _copy_out(nested: Nested, address: int, secure: TrackedCpu, sida: int, left: Left) -> None:
    """Store what the hardware stores at such an exit: of this exit, not of those that were put right."""
    after = _own_bytes(nested, secure.block, SIE_LENGTH)
    fields: tuple[tuple[int, int], ...] = _RAN if isinstance(left, Fault) or left is KICK else _LEFT
    if isinstance(left, SieExit):
        if left.code == VALIDITY:  # nothing has run
            fields = ()
        nested.poke(address + SIE_ICPTCODE, bytes((left.code,)))
        nested.poke(address + SIE_IPA, TEXT.pack(left.ipa, left.ipb))
    for at, n in fields:
        nested.poke(address + at, after[at : at + n])
    nested.ledger.count(("copied_bytes", "scb"), sum(n for _, n in COPIED_OUT))
    if isinstance(left, SieExit) and left.code in (NOTIFICATION, SECURE_INSTRUCTION):
        _hand_data(nested, secure, left, sida)


def _hand_data(nested: Nested, secure: TrackedCpu, left: SieExit, designation: int) -> None:
    """Copy the instruction's data to the guest host's page, and follow the guest's prefix.

    A page that another CPU of the guest host donated while this one was inside loses the data.
    """
    data = _own_bytes(nested, secure.sida, PAGE)
    if left.code == NOTIFICATION and left.ipa == IPA_SPX:
        secure.prefix = int.from_bytes(data[:4], "big") & z.PREFIX_MASK
    sida = designation & ~OFFSET
    if designation and nested.peek(sida, PAGE) != data:
        nested.poke(sida, data)
        nested.ledger.count(("copied_bytes", "sida"), PAGE)


def _own_bytes(nested: Nested, address: int, length: int) -> bytes:
    data = nested.below.memory.read(address, length)
    assert isinstance(data, bytes), f"a level cannot read its own memory: {data}"
    return data


# -- the guest runs ----------------------------------------------------------------------------


def _run(
    nested: Nested, cpu: Cpu, secure: TrackedCpu, program: Program, stay: bool, level: int
) -> Step[Left]:
    issuer = nested.issuer(cpu)
    own = issuer.cpu
    again: Left | bool = False
    while True:
        own.cr[1] = secure.config.space.table.asce
        left: Left = yield from nested.below.memory.enter(own, secure.block, program, stay, level)
        if isinstance(left, Fault):
            again = yield from _put_right(nested, cpu, secure, left)
        elif left.code == VALIDITY and again:  # a reset began, or a dump in the middle of putting right
            return KICK
        elif left.code == PREFIX:
            again = yield from _prefix_put_right(nested, cpu, secure)
        elif left.code == NOTIFICATION and left.ipa == IPA_UVC:
            again = _own_pin(nested, secure)
        else:
            return left
        if again is not True:
            return again or left


def _put_right(nested: Nested, cpu: Cpu, secure: TrackedCpu, fault: Fault) -> Step[Left | bool]:
    """True to enter again; else what the guest host gets (False: the fault as it is)."""
    space = secure.config.space
    address = space.mso + fault.address
    if address >> PAGE_SHIFT in space.held:
        return KICK
    if fault.code in WALK:
        frame = nested.shadows.fill(space, address, fault.write)
        if isinstance(frame, Fault):
            return replace(frame, address=fault.address, write=fault.write)
        if frame in nested.away:
            return (yield from _back(nested, cpu, frame, fault))
        return True
    mapped = space.frame_of(address >> PAGE_SHIFT)
    if mapped is None:
        return False
    if mapped in nested.away:
        return (yield from _back(nested, cpu, mapped, fault))
    if nested.attention_of(mapped) & CLAIMED:
        return KICK
    if fault.code == z.NON_SECURE_ACCESS and nested.strategy.pages == "merged_l0":
        page = fault.address >> PAGE_SHIFT
        return (yield from import_page(nested, nested.issuer(cpu), secure.config, page, mapped))
    return False


def _back(nested: Nested, cpu: Cpu, frame: int, fault: Fault) -> Step[Left | bool]:
    """Bring a page in that this level swapped out. Where its guest is gone, it looks like another
    guest's."""
    if not (yield from restore(nested, nested.issuer(cpu), frame)):
        return KICK
    if frame in nested.away:
        return z.program(z.SECURE_VIOLATION, fault.address, fault.write)
    return True


def _prefix_put_right(nested: Nested, cpu: Cpu, secure: TrackedCpu) -> Step[Left | bool]:
    """Intercept 112: True if this level's own doing was the cause, or may have been, and is no more."""
    space = secure.config.space
    again = False
    for page in (secure.prefix, secure.prefix + PAGE):
        at = (space.mso + page) >> PAGE_SHIFT
        if at in space.held:
            return KICK
        before = space.frame_of(at)
        if page >= space.length or isinstance(
            frame := nested.shadows.fill(space, at << PAGE_SHIFT, write=True), Fault
        ):
            return False
        if nested.attention_of(frame) & CLAIMED:
            return KICK
        if frame in nested.away:
            if not (yield from restore(nested, nested.issuer(cpu), frame)):
                return KICK
            again = again or frame not in nested.away
        again = again or before != frame
    return again


def _own_pin(nested: Nested, secure: TrackedCpu) -> bool:
    """Was the page that the guest could not unshare pinned by this level alone, for a moment?

    By now it may be over. What counts is that the guest host has no pin there, so it is told nothing.
    """
    block = _own_bytes(nested, secure.sida, 0x30)
    page = prefixed(secure.prefix, SHARE.unpack_from(block)[0] & ~OFFSET) >> PAGE_SHIFT
    serial = secure.config.space.serial
    return not any(
        owner == serial and nested.page_number[frame] == page for frame, owner in nested.pins.items()
    )


# -- guests that are not secure ----------------------------------------------------------------


class NormalSpaces:
    """Shadow tables of guests that are not secure, by ASCE: kept as long as there is room."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested
        self._spaces: dict[int, Space] = {}

    def take(self, asce: int) -> Space:
        """The space of an ASCE, in use until `give`. Raises OutOfFrames."""
        space = self._spaces.pop(asce, None)
        if space is None:
            if len(self._spaces) >= NORMAL_SPACES:
                self.recycle()
            try:
                space = self._nested.shadows.open_normal(asce)
            except OutOfFrames:
                if not self.recycle():
                    raise
                return self.take(asce)
        self._spaces[asce] = space  # the last one used stands last
        space.users += 1
        return space

    def give(self, space: Space) -> None:
        space.users -= 1

    def recycle(self) -> bool:
        """Close the space that was not used for longest; False if all are in use."""
        for asce, space in self._spaces.items():
            if not space.users:
                del self._spaces[asce]
                self._nested.shadows.close(space)
                return True
        return False

    def fill(self, space: Space, address: int, write: bool) -> int | Fault:
        """As `Shadows.fill`, with what other guests can spare. Raises OutOfFrames."""
        try:
            return self._nested.shadows.fill(space, address, write)
        except OutOfFrames:
            if not self.recycle():
                self._nested.shadows.unmap_all(space)
                return self._nested.shadows.fill(space, address, write)
        return self.fill(space, address, write)

    def clear(self) -> None:
        """No guest is inside any more."""
        for space in self._spaces.values():
            self._nested.shadows.close(space)
        self._spaces.clear()


def _enter_normal(
    nested: Nested, cpu: Cpu, address: int, raw: bytes, program: Program, stay: bool, level: int
) -> Step[Left]:
    issuer = nested.issuer(cpu)
    shadow = bytearray(SIE_LENGTH)
    for at, n in NORMAL_IN:
        shadow[at : at + n] = raw[at : at + n]
    own, block = nested.below.memory, normal_block(issuer)
    own.write(block, bytes(shadow))
    nested.ledger.count(("copied_bytes", "scb"), sum(n for _, n in NORMAL_IN))
    try:
        space = nested.normal.take(cpu.cr[1])
    except OutOfFrames:
        return _refused(nested, address, NO_SHADOW, NO_GPRS)
    mso = U64.unpack_from(raw, SIE_MSO)[0] & ~0xFFFFF
    try:
        while True:
            issuer.cpu.cr[1] = space.table.asce
            left: Left = yield from own.enter(issuer.cpu, block, program, stay, level)
            if not isinstance(left, Fault):
                break
            virtual = mso + prefixed(program.prefix, left.address)
            again = _put_right_normal(nested, space, virtual, left)
            if again is not True:
                left = again or left
                break
    except OutOfFrames:
        return _refused(nested, address, NO_SHADOW, NO_GPRS)
    finally:
        nested.normal.give(space)
    if isinstance(left, SieExit):
        after = _own_bytes(nested, block, SIE_LENGTH)
        for at, n in NORMAL_OUT:
            nested.poke(address + at, after[at : at + n])
        nested.ledger.count(("copied_bytes", "scb"), sum(n for _, n in NORMAL_OUT))
    nested.ledger.count(("reflections", str(nested.below.level), str(nested.level)))
    return left


def _put_right_normal(nested: Nested, space: Space, virtual: int, fault: Fault) -> Fault | bool:
    """As `_put_right`; a secure page, in place or away, is one that this guest may not touch."""
    if fault.code not in WALK:
        return False
    frame = nested.normal.fill(space, virtual, fault.write)
    return replace(frame, address=fault.address, write=fault.write) if isinstance(frame, Fault) else True
