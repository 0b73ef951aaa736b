"""Treatment of the calls about pages, and the level's own swapping under a guest host.

A page that this level exported on its own looks secure to the guest host; it is brought back before any call
that could tell the difference is issued below. While a call about a page is under way its frame is claimed,
and a guest page that is named has its shadow entry held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.machine.memory import (
    IS_DONATED,
    NOT_IMPORTABLE,
    NOT_MAPPED,
    NOT_SHARED,
    OUTSIDE,
    UNALIGNED,
)
from protocol.arch.s390.nesting import bulk
from protocol.arch.s390.nesting.entities import TrackedConfig
from protocol.arch.s390.nesting.passing import Treated, passed
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_GADDR,
    NODATA,
    NOT_NOW,
    PADDR,
    Outcome,
    block,
)
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.memory.store import OFFSET, PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, LEFTOVER

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

CTS, CFS, DSS, PIN, UNPIN = 0x0200, 0x0201, 0x0202, 0x0341, 0x0342
RETRIES = 1000  # of a call of this level's own that the guest host's stores get in the way of


# -- calls that name a page of a guest -------------------------------------------------------------


def bring_in(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Import and unpack: the guest address stays as it is, but the shadow table has to map it first."""
    handle, gaddr = HANDLE_GADDR.unpack_from(uvcb)
    config = nested.configs[handle]
    page = gaddr >> PAGE_SHIFT
    if config.space.first + page in config.space.held:  # this level's own work is under way there
        return NOT_NOW
    elsewhere = nested.away_at.get((config.space.serial, page))
    if elsewhere is not None and not (yield from restore(nested, nested.issuer(cpu), elsewhere)):
        return NOT_NOW
    frame = _mapped(nested, config, gaddr)
    if frame is not None and frame in nested.away:
        if (
            nested.by_serial.get(nested.away[frame][0]) is None
        ):  # its guest is gone, to the guest host it is secure
            nested.shadows.unmap(config.space, config.space.first + page)
            frame = None
        elif not (yield from restore(nested, nested.issuer(cpu), frame)):
            return NOT_NOW
    outcome = yield from _held(nested, spec, cpu, uvcb, config, gaddr, frame)
    if outcome.rc == EXECUTED:
        assert frame is not None, "the level below used a page that no shadow maps"
        nested.track_page(config, page, frame)
        nested.ledger.count(("pages", spec.name))
    elif outcome.rc == NOT_MAPPED.rc and _is_taken(nested, config, gaddr):
        return NOT_IMPORTABLE
    return outcome


def unpin(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    handle, gaddr = HANDLE_GADDR.unpack_from(uvcb)
    config = nested.configs[handle]
    if config.space.first + (gaddr >> PAGE_SHIFT) in config.space.held:
        return NOT_NOW
    frame = _mapped(nested, config, gaddr)
    outcome = yield from _held(nested, spec, cpu, uvcb, config, gaddr, frame)
    if outcome.rc == EXECUTED and frame is not None:
        nested.pins.pop(frame, None)
    elif outcome.rc == NOT_MAPPED.rc and _is_taken(nested, config, gaddr):
        return NOT_SHARED
    return outcome


def _held(
    nested: Nested,
    spec: CallSpec,
    cpu: Cpu,
    uvcb: bytes,
    config: TrackedConfig,
    gaddr: int,
    frame: int | None,
) -> Treated:
    """Issue a call about a guest page; its shadow entry and its frame stay what they are meanwhile."""
    if frame is not None and not begin(nested, frame):
        return NOT_NOW
    page = config.space.first + (gaddr >> PAGE_SHIFT)
    config.space.hold(page)
    try:
        return (yield from passed(nested, spec, cpu, uvcb))
    finally:
        config.space.release(page)
        if frame is not None:
            end(nested, frame)


def _mapped(nested: Nested, config: TrackedConfig, gaddr: int) -> int | None:
    """The guest host's frame for a page of its guest, its shadow entry filled; None if it maps none."""
    space = config.space
    if gaddr >= space.length or gaddr & OFFSET:
        return None
    frame = nested.shadows.fill(space, space.mso + gaddr, write=True)
    return None if isinstance(frame, Fault) else frame


def _is_taken(nested: Nested, config: TrackedConfig, gaddr: int) -> bool:
    """Does the guest host map a frame there that the level below cannot see as what it is?"""
    frame = nested.shadows.walk(config.space, config.space.mso + gaddr, write=True)
    if isinstance(frame, Fault):
        return False
    return bool(nested.attention_of(frame) & DONATED) or frame in nested.away


# -- calls that name a page of the guest host ------------------------------------------------------


def convert_from_secure(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A page that is away is exported already; from now on the guest host may see the ciphertext."""
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
    outcome = yield from _translated(nested, spec, cpu, frame)
    if outcome.rc == EXECUTED:
        if frame in nested.away and nested.space_of(frame) is None:  # its key is gone with its guest
            nested.below.memory.clear([nested.frame_below(frame)])
        nested.untrack_page(frame)
        nested.ledger.count(("pages", spec.name))
    return outcome


def destroy_storage(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A page that is away comes back first: outside, its proof would outlive it."""
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
    if frame in nested.away and not (yield from restore(nested, nested.issuer(cpu), frame)):
        return NOT_NOW
    outcome = yield from _translated(nested, spec, cpu, frame)
    if outcome.rc == EXECUTED:
        if frame in nested.away:
            nested.below.memory.clear([nested.frame_below(frame)])
        nested.untrack_page(frame)
        nested.ledger.count(("pages", spec.name))
    return outcome


def pin(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A page that is away is not shared, here as below."""
    frame = _own_frame(nested, uvcb)
    if isinstance(frame, Outcome):
        return frame
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
    attention = nested.attention_of(frame)
    if attention & LEFTOVER:
        nested.replace_leftover(frame)
    return IS_DONATED if attention & DONATED else frame


def _translated(nested: Nested, spec: CallSpec, cpu: Cpu, frame: int) -> Treated:
    if not begin(nested, frame):
        return NOT_NOW
    nested.ledger.count(("translations", "host_page"))
    paddr = nested.frame_below(frame) << PAGE_SHIFT
    try:
        return (yield from nested.issuer(cpu).uvc(block(spec.length, spec.code, PADDR, paddr)))
    finally:
        end(nested, frame)


# -- calls about all pages of a guest ----------------------------------------------------------------


def unshare_all(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    config = nested.configs[NODATA.unpack_from(uvcb)[0]]
    if not config.close():
        return NOT_NOW
    try:
        outcome = yield from passed(nested, spec, cpu, uvcb)
    finally:
        config.closed = False
    if outcome.rc == EXECUTED:
        nested.unpin_all(config.space.serial)
    return outcome


# -- what is under way --------------------------------------------------------------------------------


def begin(nested: Nested, frame: int) -> bool:
    """A call about this frame goes below. False if another one is there, or one about all of its guest."""
    owner = nested.by_serial.get(nested.owners[frame])
    if owner is not None and owner.closed:
        return False
    if not nested.claim_one(frame):
        return False
    if owner is not None:
        owner.flights += 1
    return True


def end(nested: Nested, frame: int) -> None:
    nested.unclaim_one(frame)
    owner = nested.by_serial.get(nested.owners[frame])
    if owner is not None:
        owner.flights -= 1


# -- pages that this level brings in by itself ------------------------------------------------------------


def import_page(nested: Nested, issuer: Issuer, config: TrackedConfig, page: int, frame: int) -> Step[bool]:
    """Make a page secure without a call of the guest host (an enlightenment); the shadow maps it."""
    if not begin(nested, frame):
        return False
    held = config.space.first + page
    config.space.hold(held)
    try:
        outcome = yield from issuer.uvc(block(0x28, CTS, HANDLE_GADDR, config.real, page << PAGE_SHIFT))
    finally:
        config.space.release(held)
        end(nested, frame)
    if outcome.rc != EXECUTED:
        return False
    nested.track_page(config, page, frame)
    nested.ledger.count(("pages", "merged"))
    return True


def import_all(nested: Nested, cpu: Cpu, config: TrackedConfig) -> Step[None]:
    """Make everything secure that the guest host maps for its guest."""
    space = config.space
    issuer = nested.issuer(cpu)

    def one(page: int) -> Step[None]:
        if space.first + page in space.held:
            return
        frame = nested.shadows.fill(space, space.mso + (page << PAGE_SHIFT), write=True)
        if not isinstance(frame, Fault) and not nested.page_owner[frame]:
            yield from import_page(nested, issuer, config, page, frame)

    if nested.folds and bulk.import_all(nested, config, one):
        return
    for page in range(space.length >> PAGE_SHIFT):
        yield from one(page)


def restore(nested: Nested, issuer: Issuer, frame: int) -> Step[bool]:
    """Bring a page back that this level exported on its own. False if a call about it is under way.

    If its guest is gone nothing can be brought back, and nothing is: the page goes on to look secure.
    """
    serial, page = nested.away[frame]
    config = nested.by_serial.get(serial)
    if config is None:
        return True
    if not begin(nested, frame):
        return False
    keep = config.space.frame_of(config.space.first + page) == frame
    try:
        yield from _mapped_here(nested, issuer, config, page, frame, CTS, keep)
    finally:
        end(nested, frame)
    nested.came_back(frame)
    nested.ledger.count(("pages", "restored"))
    return True


def swap(nested: Nested, frame: int) -> Step[bool]:
    """Put another frame of this level under `frame` of the guest host; True if it was done.

    Invisible to the guest host and to its guests. A page that its guest shares is left where it is: to export
    it would take it away from the guest host as well. So is one that a call under way names, and any of a
    guest with a CPU inside that could not be entered again.
    """
    if (
        nested.keeping
        or nested.dead
        or nested.frame_below(frame) < 0
        or nested.attention_of(frame) & LEFTOVER
    ):
        return False
    whose = nested.space_of(frame)
    if (whose is not None and whose.follows) or not begin(nested, frame):
        return False
    nested.keeping = True
    # Out of the guest's reach first: it could share the page between the question and the export.
    nested.shadows.unmap_frame(frame)
    space, at = nested.space_of(frame), 0
    if space is not None:
        at = space.first + int(nested.page_number[frame])
        space.hold(at)
    try:
        done = yield from _export(nested, frame)
    finally:
        nested.keeping = False
        if space is not None:
            space.release(at)
        end(nested, frame)
    if not done:
        return False
    nested.shadows.unmap_frame(frame)  # once more: a call of the guest host may have filled it meanwhile
    if nested.below.pool.free <= nested.below.promised:
        return False  # a page that was exported stays away, in its old place
    new = nested.below.pool.take()
    nested.below.pool.give((nested.move_under(frame, new),))
    nested.ledger.count(("pages", "swapped"))
    return True


def _export(nested: Nested, frame: int) -> Step[bool]:
    """Have the page outside, so that this level can copy it; False if its guest shares it."""
    if not nested.page_owner[frame] or frame in nested.away:
        return True
    if nested.space_of(frame) is None:  # nobody can bring it back: let it be
        return False
    if (yield from _is_shared(nested, frame)):
        return False
    paddr = nested.frame_below(frame) << PAGE_SHIFT
    nested.leaving = frame
    try:
        outcome = yield from nested.keeper.uvc(block(0x20, CFS, PADDR, paddr))
    finally:
        nested.leaving = None
    if outcome.rc != EXECUTED:
        return False
    nested.went_away(frame)
    return True


def _is_shared(nested: Nested, frame: int) -> Step[bool]:
    """Pin works on shared pages only; a pin that the guest host did not make is taken away again."""
    if frame in nested.pins:
        return True
    paddr = nested.frame_below(frame) << PAGE_SHIFT
    outcome = yield from nested.keeper.uvc(block(0x20, PIN, PADDR, paddr))
    if outcome.rc != EXECUTED:
        return False
    config = nested.by_serial[int(nested.page_owner[frame])]
    page = int(nested.page_number[frame])
    yield from _mapped_here(nested, nested.keeper, config, page, frame, UNPIN, keep=False)
    return True


def _mapped_here(
    nested: Nested, issuer: Issuer, config: TrackedConfig, page: int, frame: int, code: int, keep: bool
) -> Step[None]:
    """Have a call of this level's own done about a guest page that lies in `frame`, whatever its host maps.

    A store of the guest host to its table takes the entry away while the call is under way: once more then.
    Unless it is to `keep`, the entry goes when the call is done.
    """
    space, at = config.space, config.space.first + page
    uvcb = block(0x28, code, HANDLE_GADDR, config.real, page << PAGE_SHIFT)
    space.hold(at)
    try:
        for _ in range(RETRIES):  # pragma: no branch - no host stores there that often in so many calls
            keep = nested.shadows.map(space, at, frame) is False and keep
            outcome = yield from issuer.uvc(uvcb)
            if outcome.rc != NOT_MAPPED.rc:
                break
    finally:
        space.release(at)
        if not keep:
            nested.shadows.unmap(space, at)
    assert outcome.rc == EXECUTED, f"a page of this level's own doing does not come right: {outcome}"
