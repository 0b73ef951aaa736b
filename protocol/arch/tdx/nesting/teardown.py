"""Clean up behind a guest host that gives no help: section 7.7.

A sudden reboot, a crash and an orderly shutdown look the same from here. VCPUs are flushed where they are
associated, keys are taken away, one write-back of all caches serves all TDs, and then every page comes
back, the TDR last. What the module below will not give back is quarantined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.tdx.nesting.entities import TrackedTd
from protocol.arch.tdx.nesting.keys import CACHE_WB, asked, kept
from protocol.arch.tdx.platform import FRAMES, PAGE_SHIFT
from protocol.arch.tdx.status import R8, RAX, Status
from protocol.arch.tdx.tables import Lifecycle, PageType
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested

FLUSH, FLUSH_DONE, FREE_KEY, RECLAIM = 18, 19, 20, 28


def everything(n: Nested, cause: str) -> Step[None]:
    """End all that the guest host has. Its own calls and entries have ended before."""
    n.shadows.clear()
    for td in n.tds.values():
        yield from _block(n, td, cause)
    blocked = [td for td in n.tds.values() if td.lifecycle is Lifecycle.BLOCKED]
    if not all(td.written_back for td in blocked):
        for lp in n.keepers:
            yield from kept(n, lp, rax=CACHE_WB)
    for td in blocked:
        status = yield from kept(n, n.keepers[0], rax=FREE_KEY, rcx=n.below_td(td))
        if status == Status.SUCCESS:
            n.below.hkids.append(td.real)
    for td in list(n.tds.values()):
        yield from _reclaim(n, td, cause)
    n.tds.clear()
    n.vcpus.clear()
    for book in (n.book, *n.page_books):
        book.drop("vcpu_map", book.records().get("vcpu_map", 0))
    n.platform.handoff_valid = False
    n.platform.reload()


def _block(n: Nested, td: TrackedTd, cause: str) -> Step[None]:
    """Nobody runs the TD any more, and its KeyID has to leave the caches."""
    if td.lifecycle not in (Lifecycle.HKID_ASSIGNED, Lifecycle.KEYS_CONFIGURED):
        return
    for vcpu in td.vcpus:
        if vcpu.lp is not None:
            lp = n.under(n.lps[vcpu.lp])
            yield from kept(n, lp, rax=FLUSH, rcx=n.frame_below(vcpu.frame) << PAGE_SHIFT)
            n.ledger.count(("teardown", "vcpu", cause))
    status = yield from kept(n, n.keepers[0], rax=FLUSH_DONE, rcx=n.below_td(td))
    if status == Status.SUCCESS:
        td.lifecycle, td.written_back = Lifecycle.BLOCKED, False


def _reclaim(n: Nested, td: TrackedTd, cause: str) -> Step[None]:
    """Every page of the TD, large ones as a whole, then the TDR."""
    kind = n.platform.kind
    used = np.flatnonzero((kind > PageType.RSVD) & (kind != PageType.TDR))
    mine = used[n.platform.owner[used] == td.frame]
    after = -1
    for frame in mine.tolist():
        if frame >= after:
            after = frame + (yield from _one(n, frame, cause))
    yield from _one(n, td.frame, cause)
    n.book_of(td.frame).drop("vm_map")
    n.ledger.count(("teardown", "td", cause))


def _one(n: Nested, frame: int, cause: str) -> Step[int]:
    """Reclaim one page; how many frames it had."""
    below = n.frame_below(frame)
    out = yield from asked(n, n.keepers[0], rax=RECLAIM, rcx=below << PAGE_SHIFT)
    count = FRAMES[out[R8]]
    if out[RAX]:
        n.quarantine.add(below, count, f"PAGE.RECLAIM: {out[RAX]:#x}")
    n.takes_back(frame, count)
    n.ledger.count(("teardown", "page", cause), count)
    return count
