"""Runs of equal page operations in the books, shadows and memory of an emulation, in one step each.

The state that they leave here and below is that of the single calls in `memory` and `entry`; nothing that is
counted on the way matters. The callers know that the calls would succeed: `importable` and `destroyable` say
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import runs
from protocol.arch.s390.nesting.entities import TrackedConfig
from protocol.arch.s390.tables import SEGMENT_PAGES
from protocol.effects import Fault
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import CLAIMED, LEFTOVER, SECURE

if TYPE_CHECKING:
    from protocol.arch.s390.image import ImagePage
    from protocol.arch.s390.nesting import Nested


def importable(nested: Nested, handle: int, pages: np.ndarray, frames: np.ndarray) -> bool:
    """The frames are plain memory that nothing maps, and no shadow has an entry for the pages."""
    config = nested.configs[handle]
    space = config.space
    if pages.size and (int(pages.max()) + 1) << PAGE_SHIFT > space.length:
        return False
    if nested.attention[frames].any() or nested.shadows.mapper[frames].any():
        return False
    away = [page for serial, page in nested.away_at if serial == space.serial]
    if away and np.isin(pages, away).any():
        return False
    at = pages + space.first
    for number, start, stop in runs.by_segment(at):
        segment = space.segments.get(number)
        if segment is not None and np.array(segment)[at[start:stop] % SEGMENT_PAGES].any():
            return False
    return runs.importable(_below(nested), config.real, pages, nested.slots[frames])


def bring_in(nested: Nested, handle: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """The guest host has mapped `pages` to `frames`, and they have become its guest's."""
    config = nested.configs[handle]
    _shadow(nested, config, pages, frames)
    runs.bring_in(_below(nested), config.real, pages, nested.slots[frames])


def unpack(nested: Nested, handle: int, frames: np.ndarray, encrypted: Sequence[ImagePage]) -> None:
    config = nested.configs[handle]
    _shadow(nested, config, np.array([page.gaddr >> PAGE_SHIFT for page in encrypted], np.int64), frames)
    runs.unpack(_below(nested), config.real, nested.slots[frames], encrypted)


def share(nested: Nested, handle: int, pages: np.ndarray) -> None:
    """What a guest shares is known below only."""
    runs.share(_below(nested), nested.configs[handle].real, pages)


def destroyable(nested: Nested, frames: np.ndarray) -> np.ndarray:
    """Pages of guests that are in place and that no other call names."""
    alike: np.ndarray = (nested.page_owner[frames] != 0) & (
        (nested.attention[frames] & (CLAIMED | LEFTOVER)) == 0
    )
    if nested.away:
        alike &= ~np.isin(frames, np.fromiter(nested.away, np.int64))
    alike[alike] = runs.destroyable(_below(nested), nested.slots[frames[alike]])
    return alike


def destroy(nested: Nested, frames: np.ndarray) -> None:
    """The pages in `frames` are destroyed, and tracked no more."""
    runs.destroy(_below(nested), nested.slots[frames])
    nested.page_owner[frames] = 0
    nested.attention[frames] &= 0xFF ^ SECURE
    if nested.pins:
        for frame in frames.tolist():
            nested.pins.pop(frame, None)
    nested.book.drop("secure_page", frames.size)


# -- parts -------------------------------------------------------------------------------------------


def _below(nested: Nested) -> runs.Level:
    level = runs.here(nested.below.memory)
    assert level is not None, "a level that is elsewhere"
    return level


def _shadow(nested: Nested, config: TrackedConfig, pages: np.ndarray, frames: np.ndarray) -> None:
    """Fill the shadow, as one walk for each page would, and track the pages."""
    space, shadows = config.space, nested.shadows
    at = pages + space.first
    below = nested.slots[frames]
    for number, start, stop in runs.by_segment(at):
        walked = shadows.walk(space, int(at[start]) << PAGE_SHIFT, write=True)
        assert not isinstance(walked, Fault), f"the guest host does not map what it was asked to: {walked}"
        segment = space.segments.setdefault(number, [0] * SEGMENT_PAGES)
        for first, end in runs.stretches(at[start:stop]):
            place = int(at[start + first]) % SEGMENT_PAGES
            segment[place : place + end - first] = (frames[start + first : start + end] + 1).tolist()
    for start, stop in runs.stretches(at):
        space.table.map_run(int(at[start]), below[start:stop])
    shadows.mapper[frames] = space.serial
    shadows.mapped_at[frames] = at
    nested.page_owner[frames] = space.serial
    nested.page_number[frames] = pages
    nested.attention[frames] |= SECURE
    nested.book.add("secure_page", frames.size)
