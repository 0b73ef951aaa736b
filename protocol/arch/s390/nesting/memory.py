"""Treatment of the calls about pages, and the level's own swapping under a guest host.

A page that this level exported on its own (`away`) looks secure to the guest host; it is brought back before any call
that could tell the difference is issued below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.memory import IS_DONATED, NOT_IMPORTABLE, NOT_MAPPED, OUTSIDE, UNALIGNED
from protocol.arch.s390.nesting.entities import TrackedConfig
from protocol.arch.s390.nesting.vm import Treated, passed
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_GADDR,
    NODATA,
    PADDR,
    Outcome,
    block,
)
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.memory.store import OFFSET, PAGE_SHIFT
from protocol.nesting.guest_host import DONATED

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

CTS, CFS, DSS, PIN, UNPIN = 0x0200, 0x0201, 0x0202, 0x0341, 0x0342


def bring_in(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Import and unpack: the guest address stays as it is, but the shadow table has to map it first."""
    handle, gaddr = HANDLE_GADDR.unpack_from(uvcb)
    config = nested.configs[handle]
    frame = _mapped(nested, config, gaddr)
    if frame is not None and nested.away[frame]:
        yield from restore(nested, cpu, frame)
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        assert frame is not None, "the level below used a page that no shadow maps"
        nested.track_page(config, gaddr >> PAGE_SHIFT, frame)
        nested.ledger.count(("pages", spec.name))
    elif outcome.rc == NOT_MAPPED.rc and _donated(nested, config, gaddr):
        return NOT_IMPORTABLE
    return outcome


def _mapped(nested: Nested, config: TrackedConfig, gaddr: int) -> int | None:
    """The guest host's frame for a page of its guest, its shadow entry filled; None if it maps none."""
    space = config.space
    if gaddr >= space.length or gaddr & OFFSET:
        return None
    frame = nested.shadows.fill(space, space.mso + gaddr, write=True)
    return None if isinstance(frame, Fault) else frame


def _donated(nested: Nested, config: TrackedConfig, gaddr: int) -> bool:
    frame = nested.shadows.walk(config.space, config.space.mso + gaddr, write=True)
    return not isinstance(frame, Fault) and bool(nested.attention_of(frame) & DONATED)


# -- calls that name a page of the guest host -----------------------------------------------------------------------------


def convert_from_secure(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A page that is away is exported already; from now on the guest host may see the ciphertext."""
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
    outcome = yield from _translated(nested, spec, cpu, frame)
    if outcome.rc == EXECUTED:
        nested.untrack_page(frame)
        nested.ledger.count(("pages", spec.name))
    return outcome


def destroy_storage(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
    if nested.away[frame]:
        yield from restore(nested, cpu, frame)
    outcome = yield from _translated(nested, spec, cpu, frame)
    if outcome.rc == EXECUTED:
        nested.untrack_page(frame)
        nested.ledger.count(("pages", spec.name))
    return outcome


def pin(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
    if nested.away[frame]:
        yield from restore(nested, cpu, frame)
    outcome = yield from _translated(nested, spec, cpu, frame)
    if outcome.rc == EXECUTED:
        nested.pins[frame] = int(nested.page_owner[frame])
    return outcome


def _own_frame(nested: Nested, uvcb: bytes) -> int | Outcome:
    """The guest host's frame that a call names, checked as the machine checks it."""
    paddr = PADDR.unpack_from(uvcb)[0]
    if paddr >= nested.size:
        return OUTSIDE
    if paddr & OFFSET:
        return UNALIGNED
    frame: int = paddr >> PAGE_SHIFT
    return IS_DONATED if nested.attention_of(frame) & DONATED else frame


def _translated(nested: Nested, spec: CallSpec, cpu: Cpu, frame: int) -> Treated:
    nested.ledger.count(("translations", "host_page"))
    paddr = nested.frame_below(frame) << PAGE_SHIFT
    outcome = yield from nested.issuer(cpu).uvc(block(spec.length, spec.code, PADDR, paddr))
    return Outcome(outcome.rc, outcome.rrc)


def unpin(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    handle, gaddr = HANDLE_GADDR.unpack_from(uvcb)
    config = nested.configs[handle]
    frame = _mapped(nested, config, gaddr)
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED and frame is not None:
        nested.pins.pop(frame, None)
    return outcome


def unshare_all(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        serial = nested.configs[NODATA.unpack_from(uvcb)[0]].space.serial
        for frame in [frame for frame, owner in nested.pins.items() if owner == serial]:
            del nested.pins[frame]
    return outcome


# -- the level below the guest host swaps on its own ---------------------------------------------------------------------


def restore(nested: Nested, cpu: Cpu, frame: int) -> Step[None]:
    """Bring a page back that this level exported on its own. Its guest's key is alive or nobody can need it."""
    serial, page = int(nested.page_owner[frame]), int(nested.page_number[frame])
    config = nested.by_serial.get(serial)
    nested.away[frame] = 0
    if config is None:
        nested.below.memory.clear([nested.frame_below(frame)])
        return
    gaddr = page << PAGE_SHIFT
    space = config.space
    virtual = (space.mso + gaddr) >> PAGE_SHIFT
    before = space.frame_of(virtual)
    nested.shadows.map(space, virtual, frame)
    outcome = yield from nested.issuer(cpu).uvc(block(0x28, CTS, HANDLE_GADDR, config.real, gaddr))
    assert outcome.rc == EXECUTED, f"a page that this level exported does not come back: {outcome}"
    if before != frame:
        nested.shadows.unmap(space, virtual)
    nested.ledger.count(("pages", "restored"))


def swap(nested: Nested, cpu: Cpu, frame: int) -> Step[bool]:
    """Put another frame of this level under `frame` of the guest host; True if it was done.

    Invisible to the guest host and to its guests. A page that its guest shares is left where it is: to export it would
    take it away from the guest host as well.
    """
    if nested.frame_below(frame) < 0:
        return False
    if nested.page_owner[frame] and not nested.away[frame]:
        shared = yield from _is_shared(nested, cpu, frame)
        if shared:
            return False
        paddr = nested.frame_below(frame) << PAGE_SHIFT
        outcome = yield from nested.issuer(cpu).uvc(block(0x20, CFS, PADDR, paddr))
        assert outcome.rc == EXECUTED, f"a private page cannot be exported: {outcome}"
        nested.away[frame] = 1
    nested.shadows.unmap_frame(frame)
    old, new = nested.frame_below(frame), nested.below.pool.take()
    nested.below.memory.move(old, new)
    nested.slots[frame] = new
    nested.below.pool.give((old,))
    nested.ledger.count(("pages", "swapped"))
    return True


def _is_shared(nested: Nested, cpu: Cpu, frame: int) -> Step[bool]:
    """Pin works on shared pages only; a pin that the guest host did not make is taken away again."""
    if frame in nested.pins:
        return True
    issuer = nested.issuer(cpu)
    paddr = nested.frame_below(frame) << PAGE_SHIFT
    outcome = yield from issuer.uvc(block(0x20, PIN, PADDR, paddr))
    if outcome.rc != EXECUTED:
        return False
    config = nested.by_serial.get(int(nested.page_owner[frame]))
    if config is not None:
        page = int(nested.page_number[frame])
        virtual = (config.space.mso >> PAGE_SHIFT) + page
        before = config.space.frame_of(virtual)
        nested.shadows.map(config.space, virtual, frame)
        yield from issuer.uvc(block(0x28, UNPIN, HANDLE_GADDR, config.real, page << PAGE_SHIFT))
        if before != frame:
            nested.shadows.unmap(config.space, virtual)
    return True


