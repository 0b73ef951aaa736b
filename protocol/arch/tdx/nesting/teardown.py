"""Clean up behind a guest host that gives no help: section 7.7.

A sudden reboot, a crash and an orderly shutdown look the same from here. VCPUs are flushed where they are
associated, keys are taken away, one write-back of all caches serves all TDs, and then every page comes
back, the TDR last. What the module below will not give back is quarantined, and asked for again with the next
end of a host: only what answers that it is busy, or still runs, can be the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.tdx.nesting.entities import TrackedTd
from protocol.arch.tdx.nesting.keys import asked, cycle, kept
from protocol.arch.tdx.platform import FRAMES, PAGE_SHIFT
from protocol.arch.tdx.status import R8, RAX, Status
from protocol.arch.tdx.tables import Lifecycle, PageType
from protocol.effects import Step
from protocol.nesting.quarantine import Quarantine

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested

FLUSH, FLUSH_DONE, FREE_KEY, RECLAIM = 18, 19, 20, 28


def everything(n: Nested, cause: str) -> Step[None]:
    """End all that the guest host has, and what is left of it from earlier.

    Its own calls and entries have ended before.
    """
    n.shadows.clear()
    doomed = [*n.lost, *((td, [*_pages(n, td), td.frame]) for td in n.tds.values())]
    for td, _ in doomed:
        yield from _block(n, td, cause)
    blocked = [td for td, _ in doomed if td.lifecycle is Lifecycle.BLOCKED]
    if not all(td.written_back for td in blocked):
        yield from cycle(n, blocked)
    for td in blocked:
        status = yield from kept(n, n.keepers[0], rax=FREE_KEY, rcx=n.below_td(td))
        if status == Status.SUCCESS:
            td.lifecycle = Lifecycle.TEARDOWN
            n.below.hkids.append(td.real)
    n.quarantine, n.lost = Quarantine(), []
    for td, frames in doomed:
        left = yield from _reclaim(n, td, frames, cause)
        if left:
            n.lost.append((td, left))
    _forget(n)


def _forget(n: Nested) -> None:
    """The guest host's module starts anew; what is lost stays in the book."""
    n.tds.clear()
    n.vcpus.clear()
    for book in (n.book, *n.page_books):
        book.drop("vcpu_map", book.records().get("vcpu_map", 0))
    lost = n.lost_frames
    kinds, owners = n.platform.kind[lost], n.platform.owner[lost]
    n.platform.handoff_valid = False
    n.platform.reload()
    n.platform.kind[lost], n.platform.owner[lost] = kinds, owners


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


def _pages(n: Nested, td: TrackedTd) -> list[int]:
    """Frames of the TD's pages, ascending, without its TDR."""
    kind = n.platform.kind
    used = np.flatnonzero((kind > PageType.RSVD) & (kind != PageType.TDR))
    mine: list[int] = used[n.platform.owner[used] == td.frame].tolist()
    return mine


def _reclaim(n: Nested, td: TrackedTd, frames: list[int], cause: str) -> Step[list[int]]:
    """Every page of the TD, large ones as a whole, then the TDR; the frames that it keeps."""
    after, left = -1, []
    for frame in frames:
        if frame == td.frame or frame >= after:
            count = yield from _one(n, frame, cause)
            if not count:
                left.append(frame)
            elif frame != td.frame:
                after = frame + count
    if td.frame not in left:
        n.book_of(td.frame).drop("vm_map")
        n.ledger.count(("teardown", "td", cause))
    return left


def _one(n: Nested, frame: int, cause: str) -> Step[int]:
    """Reclaim one page; how many frames it had, none if the module keeps it."""
    below = n.frame_below(frame)
    out = yield from asked(n, n.keepers[0], rax=RECLAIM, rcx=below << PAGE_SHIFT)
    if out[RAX]:
        n.quarantine.add(below, 1, f"PAGE.RECLAIM: {out[RAX]:#x}")
        return 0
    count = FRAMES[out[R8]]
    n.takes_back(frame, count)
    n.ledger.count(("teardown", "page", cause), count)
    return count
