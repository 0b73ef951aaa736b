"""Touching, loading, sharing and destroying in runs: the same counts and the same state, in one step.

One page of each kind goes the long way, call by call; the others follow at once (`protocol.fold`). Pages are
of one kind if the host's table is in the same state for them: what traps when a page is mapped depends on
which tables are there already, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import guest as g
from protocol.arch.s390 import runs
from protocol.arch.s390.cpu import NON_SECURE_ACCESS
from protocol.arch.s390.guest import Program
from protocol.arch.s390.host import MERGED_L0, MERGED_L1, SPEC
from protocol.arch.s390.host import load as loading
from protocol.arch.s390.host import pages as page
from protocol.arch.s390.host.destroy import take_back
from protocol.arch.s390.host.guests import Guest, Vcpu
from protocol.arch.s390.host.memory import backed
from protocol.arch.s390.host.perform import SHARE_CODE, sharing, touches
from protocol.arch.s390.host.run import Feed, answer, enter, run
from protocol.arch.s390.tables import CRST_ENTRIES, SEGMENT_PAGES, GuestTable
from protocol.effects import Fault, Step
from protocol.fold import Fold
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host import Host
    from protocol.arch.s390.image import ImagePage

FEWEST = 8  # pages; for fewer the long way is as short
SHARED = ("te_calls", "share", SPEC["share"].category.value, "native", "guest")
IN_OLD_SEGMENT, IN_NEW_SEGMENT, IN_NEW_REGION = 0, 1, 3  # the latter two: + 1 for every other new page table

One = Callable[[int], Step[None]]


def touch(host: Host, guest: Guest, vcpu: Vcpu, pages: np.ndarray) -> Step[None]:
    """Stores of the guest to `pages`: to those that nobody has touched in a run, to the others one by one."""
    fresh, others = _fresh(host, guest, pages)
    program = Program()

    def one(number: int) -> Step[None]:
        program.steps.append(g.Touch(number << PAGE_SHIFT, write=True))
        yield from _until_imported(host, guest, vcpu, program)

    if _fold(host, fresh) is None:
        others, fresh = pages, fresh[:0]
    yield from _first_touches(host, guest, fresh, one)
    yield from run(host, guest, vcpu, Feed(touches(host, guest, others.tolist())), program=program)


def share(host: Host, guest: Guest, vcpu: Vcpu, pages: np.ndarray) -> Step[None]:
    """The same for pages that the guest shares."""
    fresh, others = _fresh(host, guest, pages)
    program = Program()

    def one(number: int) -> Step[None]:
        program.steps.extend(step for step, _ in sharing(host, guest, vcpu, [number], SHARE_CODE))
        yield from _until_imported(host, guest, vcpu, program)

    fold = _fold(host, fresh)
    if fold is None:
        others, fresh = pages, fresh[:0]
    rest = yield from _first_touches(host, guest, fresh, one, SHARED)
    level = host.level_here
    if level is not None and rest.size:
        runs.share(level, guest.handle, np.sort(rest))
        level.ledger.count(SHARED, rest.size)
    feed = Feed(sharing(host, guest, vcpu, others.tolist(), SHARE_CODE))
    yield from run(host, guest, vcpu, feed, program=program)


def bring_in(host: Host, guest: Guest, pages: np.ndarray) -> Step[None]:
    """The host secures pages before the guest runs."""

    def one(number: int) -> Step[None]:
        page.fault_in(host, guest, number)
        yield from page.import_page(host, guest, number)

    if _fold(host, pages) is not None:
        yield from _first_touches(host, guest, pages, one)
        return
    for number in pages.tolist():
        yield from one(number)


def unpack(host: Host, guest: Guest, image: Sequence[ImagePage]) -> Step[None]:
    """An image in its own order, which the digests need: one run for each stretch of pages of a kind."""
    pages = np.array([each.gaddr >> PAGE_SHIFT for each in image], np.int64)
    fold, level = _fold(host, pages), host.level_here
    if fold is None or level is None or (backed(host.level, guest.table, pages) >= 0).any():
        yield from loading.unpack(host, guest, image)
        return
    kinds = _kinds(guest.table, pages)
    starts = np.append(0, np.flatnonzero(np.diff(kinds)) + 1)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), pages.size], strict=True):
        kind, left = int(kinds[start]), stop - start
        if not fold.knows(kind):
            left -= 1
            with fold.measured(kind):
                yield from loading.unpack_page(host, guest, image[start])
        todo = stop - left
        if left:
            with fold.instead((kind, left)):
                frames = _back(host, guest, pages[todo:stop])
                runs.unpack(level, guest.handle, frames, image[todo:stop])


def destroy(host: Host, guest: Guest, frames: np.ndarray) -> Step[np.ndarray]:
    """Destroy the pages in `frames` and take them back; returns those that have to go one by one."""
    fold, level = _fold(host, frames), host.level_here
    if fold is None or level is None:
        return frames
    alike = runs.destroyable(level, frames)
    done = frames[alike]
    if done.size < FEWEST:
        return frames
    with fold.measured("page"):
        gone = yield from page.let_go(host, guest, int(done[0]))
    assert gone, "the level below would not release a page that it said it would"
    with fold.instead(("page", done.size - 1)):
        runs.destroy(level, done[1:])
    take_back(host, done)
    rest: np.ndarray = frames[~alike]
    return rest


# -- parts -----------------------------------------------------------------------------------------


def _fold(host: Host, pages: np.ndarray) -> Fold | None:
    """A fold, if these pages are enough and everything below is here."""
    level = host.level_here
    if level is None or pages.size < FEWEST or host.policy == MERGED_L0:
        return None
    return Fold(level.ledger)


def _fresh(host: Host, guest: Guest, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of `pages` that were never backed, each once, and the others; both in order."""
    fresh: np.ndarray = backed(host.level, guest.table, pages) < 0
    if guest.swapped:
        fresh &= ~np.isin(pages, np.fromiter(guest.swapped, np.int64))
    firsts = np.zeros(pages.size, bool)
    firsts[np.unique(pages, return_index=True)[1]] = True
    fresh &= firsts
    return pages[fresh], pages[~fresh]


def _first_touches(
    host: Host, guest: Guest, pages: np.ndarray, one: One, before: tuple[str, ...] | None = None
) -> Step[np.ndarray]:
    """Bring in pages that are not backed; returns those that did not go the long way.

    What is counted under `before` belongs to the page before.
    """
    fold, level = _fold(host, pages), host.level_here
    if fold is None or level is None:
        return pages[:0]
    kinds = _kinds(guest.table, pages)
    firsts = np.sort(np.unique(kinds, return_index=True)[1])
    for index in firsts.tolist():
        with fold.measured(int(kinds[index]), but=before):
            yield from one(int(pages[index]))
    rest, kinds = np.delete(pages, firsts), np.delete(kinds, firsts)
    counted = np.unique(kinds, return_counts=True)
    with fold.instead(*zip(counted[0].tolist(), counted[1].tolist(), strict=True)):
        frames = _back(host, guest, rest)
        assert runs.importable(level, guest.handle, rest, frames), "a page that was never backed is there"
        runs.bring_in(level, guest.handle, rest, frames)
    return rest


def _back(host: Host, guest: Guest, pages: np.ndarray) -> np.ndarray:
    """Map pages to fresh frames, in the order in which single faults would take them."""
    frames = host.backing.take(pages.size)
    order = np.argsort(pages, kind="stable")
    ascending = pages[order]
    cuts = np.flatnonzero(np.diff(ascending) != 1) + 1
    for part in np.split(np.arange(pages.size), cuts):
        if part.size:
            guest.table.map_run(int(ascending[part[0]]), frames[order[part]])
    host.keep("native_page", pages.size)
    return frames


def _kinds(table: GuestTable, pages: np.ndarray) -> np.ndarray:
    """The kind of each page, if they are mapped in this order.

    Two page tables share a frame, so that which of the two is new may matter to what traps.
    """
    kinds = np.full(pages.size, IN_OLD_SEGMENT)
    known = set(table.segments())
    regions = {segment // CRST_ENTRIES for segment in known}
    segments, firsts = np.unique(pages // SEGMENT_PAGES, return_index=True)
    order = np.argsort(firsts)
    made = 0
    for segment, first in zip(segments[order].tolist(), firsts[order].tolist(), strict=True):
        if segment in known:
            continue
        region = segment // CRST_ENTRIES
        kinds[first] = (IN_NEW_SEGMENT if region in regions else IN_NEW_REGION) + made % 2
        regions.add(region)
        made += 1
    return kinds


def _until_imported(host: Host, guest: Guest, vcpu: Vcpu, program: Program) -> Step[None]:
    """Enter until the step at the head has what it needs. The next entry completes it."""
    while True:
        result = yield from enter(host, guest, vcpu, program)
        yield from answer(host, guest, vcpu, result)
        if isinstance(result, Fault) and (result.code == NON_SECURE_ACCESS or host.policy == MERGED_L1):
            return
