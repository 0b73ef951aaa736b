"""TDH.PHYMEM.*: what the PAMT says of a page, reclaiming, caches. Sections 2.5, 3.3, 4.2 and 5.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call, Front, pending_interrupt
from protocol.arch.tdx.status import R8, R9, R10, R11, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.tables import KeyState, Lifecycle, PageType
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

SUB_BLOCKS = 4  # of a package's cache; an interrupt is looked for after each but the last
START, RESUME = 0, 1
BEPOCH_SHOWN = (PageType.REG, PageType.EPT)


def read_metadata(m: Front, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.RDMD."""
    platform = m.platform
    address = call.r[RCX]
    _clear(call)
    platform.form(address, RCX)
    frame = address >> 12
    size = platform.walk(call.held, frame, RCX, exclusive=False)
    yield from call.commit()
    first, _ = platform.leaf(frame)
    kind = platform.kind_of(first)
    call.r[RCX], call.r[R8] = kind, size
    if kind not in (PageType.NDA, PageType.RSVD):
        call.r[RDX] = platform.owners[first] << 12
    if kind in BEPOCH_SHOWN:
        call.r[R9] = platform.bepochs[first]
    return Status.SUCCESS


def _clear(call: Call) -> None:
    for register in (RCX, RDX, R8, R9, R10, R11):
        call.r[register] = 0


def reclaim(m: Machine, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.RECLAIM: a page of a TD that has lost its key, the TDR last."""
    platform = m.platform
    address = call.r[RCX]
    _clear(call)
    platform.form(address, RCX)
    frame = address >> 12
    size = platform.walk(call.held, frame, RCX, exclusive=True)
    first, _ = platform.leaf(frame)
    kind = platform.kind_of(first)
    if kind in (PageType.NDA, PageType.RSVD):
        raise Refused(Status.PAGE_METADATA_INCORRECT | RCX)
    owner = platform.owners[first]
    call.r[RCX], call.r[RDX], call.r[R8] = kind, owner << 12, size
    if first != frame:
        raise Refused(Status.OPERAND_INVALID | RCX)
    td = m.tds[first if kind == PageType.TDR else owner]
    if kind != PageType.TDR:
        platform.implicit(call.held, owner, Operand.TDR, exclusive=False)
    if td.lifecycle is not Lifecycle.TEARDOWN:
        raise Refused(Status.LIFECYCLE_STATE_INCORRECT)
    if kind == PageType.TDR and td.children:
        raise Refused(Status.TD_ASSOCIATED_PAGES_EXIST)
    yield from call.commit()
    if kind == PageType.TDR:
        platform.free(first)
        del m.tds[first]
    else:
        m.vcpus.pop(first, None)
        m.take_back(td, first, size)
    return Status.SUCCESS


def write_back(m: Front, call: Call) -> Step[int]:
    """TDH.PHYMEM.CACHE.WB: the package's caches leave the KeyIDs that were flushed when the cycle started."""
    platform = m.platform
    command = call.r[RCX]
    if command > RESUME:
        raise Refused(Status.OPERAND_INVALID | RCX)
    package = call.lp.package
    if not call.held.own(("wbt", package)):
        raise Refused(Status.OPERAND_BUSY | Operand.WBCACHE)
    if not call.held.share("kot"):
        raise Refused(Status.OPERAND_BUSY | Operand.KOT)
    cycle = platform.caches[package]
    if command == START:
        cycle.point = 0
        flushed = [hkid for hkid, key in platform.kot.items() if key.state is KeyState.FLUSHED]
        if not flushed:
            raise Refused(Status.NO_HKID_READY_TO_WBCACHE)
        cycle.covered = flushed
    elif not cycle.point:
        raise Refused(Status.WBCACHE_RESUME_ERROR)
    point = cycle.point
    while True:
        point += 1
        yield from m.cache_written_back(call)
        if point == 1:
            yield from call.commit()
        if point == SUB_BLOCKS:
            break
        if pending_interrupt(call.lp):
            cycle.point = point
            return Status.INTERRUPTED_RESUMABLE
    cycle.point = 0
    for hkid in cycle.covered:
        platform.kot[hkid].pending &= ~(1 << package)
    return Status.SUCCESS


def flush_page(m: Machine, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.WBINVD: lines of a free page that were written with some KeyID leave the caches."""
    address = m.profile.without_hkid(call.r[RCX])
    m.platform.private(call.held, address, RCX, PageType.NDA, exclusive=False)
    yield from call.commit()
    return Status.SUCCESS
