"""Touching, loading, sharing and destroying in runs: the same counts and the same state, in one step.

One page of each kind goes the long way, call by call; the others follow at once (`protocol.fold`). Pages are
of one kind if the host's table is in the same state for them: what traps when a page is mapped depends on
which tables are there already, and on nothing else. Where nobody asked for runs, or a level below is
elsewhere, every page goes the long way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import guest as g
from protocol.arch.s390 import runs
from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.cpu import NON_SECURE_ACCESS
from protocol.arch.s390.guest import Program
from protocol.arch.s390.host import pages as page
from protocol.arch.s390.host.guests import Guest, Vcpu
from protocol.arch.s390.host.memory import backed
from protocol.arch.s390.host.pages import MERGED_L0, MERGED_L1
from protocol.arch.s390.host.programs import SHARE_CODE, sharing, touches
from protocol.arch.s390.host.run import Feed, answer, enter, run
from protocol.arch.s390.tables import CRST_ENTRIES, GuestTable
from protocol.effects import Fault, Step
from protocol.fold import Fold
from protocol.ledger import Key
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host
    from protocol.arch.s390.image import ImagePage

FEWEST = 8  # pages; for fewer the long way is as short
SHARED: Key = ("te_calls", "share", BY_NAME["share"].category.value, "native", "guest")
NO_NEW_TABLE, IN_NEW_SEGMENT, IN_NEW_REGION = 0, 1, 3  # kinds; the latter two: + 1 for every other table

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
    """The same for pages that the guest shares. The last one goes the long way: its block stays in memory."""
    fresh, others = _fresh(host, guest, pages[:-1])
    others = np.concatenate((others, pages[-1:]))
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
    if fold is None or level is None or not _ascends(pages) or guest.table.segments():
        yield from page.unpack(host, guest, image)
        return
    kinds = _kinds(guest.table, pages, np.arange(pages.size))
    starts = np.append(0, np.flatnonzero(np.diff(kinds.astype(int))) + 1)
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), pages.size], strict=True):
        kind, left = int(kinds[start]), stop - start
        if not fold.knows(kind):
            left -= 1
            with fold.measured(kind):
                yield from page.unpack_page(host, guest, image[start])
        todo = stop - left
        if left:
            yield from _unpack_alike(host, guest, fold, kind, image[todo:stop])


def _unpack_alike(host: Host, guest: Guest, fold: Fold, kind: int, image: Sequence[ImagePage]) -> Step[None]:
    """Unpack pages of one kind that is known."""
    level = host.level_here
    assert level is not None
    pages = np.array([each.gaddr >> PAGE_SHIFT for each in image], np.int64)
    frames = host.backing.take(pages.size)
    if runs.plain(level, frames).all() and runs.importable(level, guest.handle, pages):
        with fold.instead((kind, pages.size)):
            _back(host, guest, pages, frames)
            runs.unpack(level, guest.handle, frames, image)
        return
    host.backing.put_back(frames)
    yield from page.unpack(host, guest, image)


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
    page.take_back(host, done)
    rest: np.ndarray = frames[~alike]
    return rest


def _ascends(pages: np.ndarray) -> bool:
    return bool((np.diff(pages) > 0).all())


# -- parts -----------------------------------------------------------------------------------------


def _fold(host: Host, pages: np.ndarray) -> Fold | None:
    """A fold, if these pages are enough and everything below is here."""
    level = host.level_here
    if level is None or pages.size < FEWEST or host.policy == MERGED_L0:
        return None
    return Fold(level.ledger)


def _fresh(host: Host, guest: Guest, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of `pages` that were never backed, each once, and the others; both in order.

    Where nothing goes in one step they are all others.
    """
    if host.level_here is None:
        return pages[:0], pages
    order = np.argsort(pages)
    ascending = pages[order]
    fresh: np.ndarray = backed(host.level, guest.table, ascending) < 0
    if guest.swapped:
        fresh &= ~np.isin(ascending, np.fromiter(guest.swapped, np.int64))
    chosen = np.zeros(pages.size, bool)
    if (np.diff(ascending) == 0).any():  # of those that come more than once the first is fresh
        chosen[np.unique(pages, return_index=True)[1]] = True
        chosen &= np.isin(pages, ascending[fresh])
    else:
        chosen[order] = fresh
    return pages[chosen], pages[~chosen]


def _first_touches(
    host: Host, guest: Guest, pages: np.ndarray, one: One, before: Key | None = None
) -> Step[np.ndarray]:
    """Bring in pages that are not backed; returns those that did not go the long way.

    What is counted under `before` belongs to the page before.
    """
    fold = _fold(host, pages)
    if fold is None:
        return pages[:0]
    batch = _Batch(host, guest, pages, fold, one, before)
    try:
        yield from batch.bring_in()
    finally:
        host.backing.put_back(batch.frames[~batch.used])
    return pages[batch.short]


class _Batch:
    """Pages that are brought in for the first time, each with the frame that single faults would give it."""

    def __init__(
        self, host: Host, guest: Guest, pages: np.ndarray, fold: Fold, one: One, before: Key | None
    ) -> None:
        self._host, self._guest, self._fold, self._one, self._before = host, guest, fold, one, before
        self._pages = pages
        self._kinds = _kinds(guest.table, pages, np.argsort(pages))
        self.frames = host.backing.take(pages.size)
        self.used = np.zeros(pages.size, bool)
        self.short = np.zeros(pages.size, bool)

    def bring_in(self) -> Step[None]:
        """Those that need a new table first, in their order: each finds what it would have found."""
        special, start = np.flatnonzero(self._kinds), 0
        for stop, index in enumerate(special.tolist()):
            if not self._fold.knows(int(self._kinds[index])):
                yield from self._at_once(special[start:stop])
                yield from self._measured(index)
                start = stop + 1
        yield from self._at_once(special[start:])
        plain = np.flatnonzero(self._kinds == NO_NEW_TABLE)
        if plain.size:
            yield from self._measured(int(plain[0]))
            yield from self._at_once(plain[1:])

    def _measured(self, index: int) -> Step[None]:
        with self._fold.measured(int(self._kinds[index]), but=self._before):
            yield from self._long_way(index)

    def _long_way(self, index: int) -> Step[None]:
        self._host.backing.put_back(self.frames[index : index + 1])
        self.used[index] = True
        yield from self._one(int(self._pages[index]))

    def _at_once(self, index: np.ndarray) -> Step[None]:
        """Pages of kinds that are known; one by one if anything about them is out of the ordinary."""
        host, guest, level = self._host, self._guest, self._host.level_here
        assert level is not None
        index = index[np.argsort(self._pages[index])]
        pages, frames = self._pages[index], self.frames[index]
        if not (runs.plain(level, frames).all() and runs.importable(level, guest.handle, pages)):
            for each in np.sort(index).tolist():
                yield from self._long_way(each)
            return
        with self._fold.instead(*Counter(self._kinds[index].tolist()).items()):
            self.used[index] = self.short[index] = True
            _back(host, guest, pages, frames)
            runs.bring_in(level, guest.handle, pages, frames)


def _back(host: Host, guest: Guest, pages: np.ndarray, frames: np.ndarray) -> None:
    """Map ascending pages to frames."""
    for start, stop in runs.stretches(pages):
        guest.table.map_run(int(pages[start]), frames[start:stop])
    host.keep("native_page", pages.size)


def _kinds(table: GuestTable, pages: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The kind of each page, if they are mapped one after the other; `order` sorts them.

    Two page tables share a frame, so that which of the two is new may matter to what traps.
    """
    kinds = np.full(pages.size, NO_NEW_TABLE, np.uint8)
    known = set(table.segments())
    regions = {segment // CRST_ENTRIES for segment in known}
    found = [
        (int(order[start:stop].min()), segment)
        for segment, start, stop in runs.by_segment(pages[order])
        if segment not in known
    ]
    for made, (first, segment) in enumerate(sorted(found)):
        region = segment // CRST_ENTRIES
        kinds[first] = (IN_NEW_SEGMENT if region in regions else IN_NEW_REGION) + made % 2
        regions.add(region)
    return kinds


def _until_imported(host: Host, guest: Guest, vcpu: Vcpu, program: Program) -> Step[None]:
    """Enter until the step at the head has what it needs. The next entry completes it."""
    while True:
        result = yield from enter(host, guest, vcpu, program)
        yield from answer(host, guest, vcpu, result)
        if isinstance(result, Fault) and (result.code == NON_SECURE_ACCESS or host.policy == MERGED_L1):
            return
