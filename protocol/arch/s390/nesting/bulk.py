"""Runs of equal page operations in the books and shadows of an emulation, in one step each.

`BulkFrames` is what one level's own books say of many frames at once; `runs` asks it, and goes on to the
levels below. The state that is left is that of the single calls in `memory` and `entry`; nothing that is
counted on the way matters. The callers know that the calls would succeed: `plain`, `untouched` and
`destroyable` say so. The second half is the level's own work on pages, folded (`protocol.fold`) where a run
asked for it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import dat, runs
from protocol.arch.s390.nesting.entities import TrackedConfig
from protocol.arch.s390.nesting.frames import Frames
from protocol.arch.s390.nesting.shadow import reach, whole
from protocol.arch.s390.tables import SEGMENT_PAGES
from protocol.crossing import inline
from protocol.effects import Fault, Step
from protocol.fold import Fold
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import CLAIMED, LEFTOVER, SECURE

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested
    from protocol.arch.s390.nesting.shadow import Space

FEWEST = 8  # pages; for fewer the long way is as short
One = Callable[[int], Step[None]]


class BulkFrames(Frames):
    """Frames, and what is said and done of many at once."""

    def plain(self, frames: np.ndarray) -> np.ndarray:
        """Which frames are in place, unmarked and mapped by no shadow."""
        own: np.ndarray = (
            (self.attention[frames] == 0) & (self.shadows.mapper[frames] == 0) & (self.slots[frames] >= 0)
        )
        return own

    def untouched(self, config: TrackedConfig, pages: np.ndarray) -> bool:
        """No shadow has an entry for the pages, and none is away."""
        space = config.space
        if pages.size and (int(pages.max()) + 1) << PAGE_SHIFT > space.length:
            return False
        away = [page for serial, page in self.away_at if serial == space.serial]
        if away and np.isin(pages, away).any():
            return False
        at = pages + space.first
        for number, start, stop in runs.by_segment(at):
            segment = space.segments.get(number)
            if segment is not None and whole(segment)[at[start:stop] % SEGMENT_PAGES].any():
                return False
        return True

    def bring_in(self, config: TrackedConfig, pages: np.ndarray, frames: np.ndarray) -> None:
        """The guest host has mapped `pages` to `frames`, and they have become its guest's.

        The shadow is filled as one walk for each page would, and the pages are tracked.
        """
        space, shadows = config.space, self.shadows
        at = pages + space.first
        below = self.slots[frames]
        for number, start, stop in runs.by_segment(at):
            walked = shadows.walk(space, int(at[start]) << PAGE_SHIFT, write=True)
            assert not isinstance(walked, Fault), f"a page that the guest host does not map: {walked}"
            segment = space.segments.setdefault(number, array("I"))
            reach(segment, int((at[start:stop] % SEGMENT_PAGES).max()) + 1)
            for first, end in runs.stretches(at[start:stop]):
                place = int(at[start + first]) % SEGMENT_PAGES
                held = (frames[start + first : start + end] + 1).astype(np.uint32)
                segment[place : place + end - first] = array("I", held.tobytes())
        for start, stop in runs.stretches(at):
            space.table.map_run(int(at[start]), below[start:stop])
        shadows.mapper[frames] = space.serial
        shadows.mapped_at[frames] = at
        self.page_owner[frames] = space.serial
        self.page_number[frames] = pages
        self.attention[frames] |= SECURE
        self.book.add("secure_page", frames.size)
        self.note_peaks()

    def destroyable(self, frames: np.ndarray) -> np.ndarray:
        """Pages of guests that are in place and that no other call names."""
        alike: np.ndarray = (self.page_owner[frames] != 0) & (
            (self.attention[frames] & (CLAIMED | LEFTOVER)) == 0
        )
        if self.away:
            alike &= ~np.isin(frames, np.fromiter(self.away, np.int64))
        return alike

    def destroyed(self, frames: np.ndarray) -> None:
        """The pages in `frames` are tracked no more."""
        self.page_owner[frames] = 0
        self.attention[frames] &= 0xFF ^ SECURE
        if self.pins:
            for frame in frames.tolist():
                self.pins.pop(frame, None)
        self.book.drop("secure_page", frames.size)


# -- the level's own work ----------------------------------------------------------------------------


def tear_down(nested: Nested, frames: np.ndarray, one: One) -> np.ndarray:
    """Destroy pages that a guest host left behind, as `one` does; returns those that are still there."""
    if _level_for_a_run(nested, frames.size) is None:
        return frames
    alike = runs.destroyable(nested, frames)
    done = frames[alike]
    if done.size < FEWEST:
        return frames
    fold = Fold(nested.ledger)
    with fold.measured("page"):
        inline(one(int(done[0])), runs.way_down(nested.below.memory))
    with fold.instead(("page", done.size - 1)):
        runs.destroy(nested, done[1:])
    rest: np.ndarray = frames[~alike]
    return rest


def end_leftovers(nested: Nested, count: int, one: Callable[[], Step[None]]) -> int:
    """Destroy at most `count` pages that are left over, as `one` does for the first; returns how many."""
    frames = np.fromiter(islice(nested.leftovers, count), np.int64)
    lower = _level_for_a_run(nested, frames.size)
    if nested.detached or lower is None:
        return 0
    below = nested.slots[frames]
    if not runs.destroyable(lower, below).all():
        return 0
    fold = Fold(nested.ledger)
    with fold.measured("page"):
        inline(one(), runs.way_down(nested.below.memory))
    with fold.instead(("page", frames.size - 1)):
        runs.destroy(lower, below[1:])
        nested.attention[frames[1:]] &= 0xFF ^ LEFTOVER
        for frame in frames[1:].tolist():
            del nested.leftovers[frame]
        nested.below.promised -= frames.size - 1
        nested.book.drop("pending_teardown", frames.size - 1)
    return int(frames.size)


def import_all(nested: Nested, config: TrackedConfig, one: One) -> bool:
    """Go through all pages of a guest and make secure what can be, as `one` does; False if not in runs."""
    space = config.space
    last = space.length >> PAGE_SHIFT
    if space.first or _level_for_a_run(nested, last) is None:
        return False
    fold = Fold(nested.ledger)
    down = runs.way_down(nested.below.memory)
    for number in range(-(-last // SEGMENT_PAGES)):
        pages = np.arange(number * SEGMENT_PAGES, min((number + 1) * SEGMENT_PAGES, last))
        frames = _backed(nested, space, pages)
        there = np.flatnonzero(frames >= 0)
        if there.size and number not in space.segments:  # the first walk of a table watches it
            inline(one(int(pages[there[0]])), down)
            pages, frames = np.delete(pages, there[0]), np.delete(frames, there[0])
        shadowed = whole(space.segments.get(number))[pages % SEGMENT_PAGES] - 1
        fresh = (frames >= 0) & (shadowed < 0)
        fresh[fresh] = runs.plain(nested, frames[fresh])
        owned = (frames >= 0) & (shadowed == frames) & (nested.page_owner[frames] == space.serial)
        for kind, which in (("missing", frames < 0), ("owned", owned), ("fresh", fresh)):
            todo = pages[which]
            if todo.size and not fold.knows(kind):
                with fold.measured(kind):
                    inline(one(int(todo[0])), down)
                todo = todo[1:]
            with fold.instead(*(((kind, todo.size),) if todo.size else ())):
                if kind == "fresh" and todo.size:
                    runs.bring_in(nested, config.handle, todo, frames[which][-todo.size :])
        for page in pages[(frames >= 0) & ~owned & ~fresh].tolist():
            inline(one(page), down)
    return True


def _backed(nested: Nested, space: Space, pages: np.ndarray) -> np.ndarray:
    """The guest host's frames for the pages of one segment, as its own table has them; -1 for none."""
    trail: list[dat.Step] = []
    dat.walk(nested.peek, space.asce, int(pages[0]) << PAGE_SHIFT, write=True, trail=trail)
    raw = nested.peek(trail[-1].origin, 8 * SEGMENT_PAGES) if trail[-1].level < 0 else None
    if not isinstance(raw, bytes):
        return np.full(pages.size, -1)
    entries = np.frombuffer(raw, ">u8").astype(np.int64)[pages % SEGMENT_PAGES]
    frames = entries >> PAGE_SHIFT
    usable = (entries & (dat.PAGE_INVALID | dat.PROTECT) == 0) & (frames < nested.attention.size)
    return np.where(usable, frames, -1)


# -- parts -------------------------------------------------------------------------------------------


def _level_for_a_run(nested: Nested, pages: int) -> runs.Level | None:
    """The level below, if a run was asked for and is long enough, and all below has nothing else to do."""
    below = nested.below.memory
    if not nested.folds or pages < FEWEST or not runs.quiet(below):
        return None
    return runs.here(below)
