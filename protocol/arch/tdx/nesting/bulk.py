"""Runs of equal page operations at one level: what its own book says afterwards.

See `machine.bulk`; `runs` brings the same about at the levels below. The book has no entries of tables, so
whether they map something is asked of the machine alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.tdx.nesting.frames import FOREIGN
from protocol.arch.tdx.platform import GIB_SHIFT, PAGE_SHIFT
from protocol.arch.tdx.tables import PageType
from protocol.nesting.guest_host import DONATED, TABLE

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested


def free(n: Nested, frames: np.ndarray) -> bool:
    """Could all of these be given to a TD, as far as this level knows, with nothing that traps?"""
    gibs = np.unique(frames >> (GIB_SHIFT - PAGE_SHIFT)).tolist()
    covered = all(n.platform.covered(gib << GIB_SHIFT) for gib in gibs)
    marked = (n.attention[frames] & (DONATED | TABLE)).any()
    return covered and not marked and not n.platform.locks and not n.platform.kind[frames].any()


def bring_in(n: Nested, tdr: int, frames: np.ndarray) -> None:
    """Free frames are a TD's from now on."""
    n.platform.kind[frames] = PageType.REG
    n.platform.owner[frames] = tdr
    n.attention[frames] |= DONATED | FOREIGN
    for first, count in _by_gib(frames):
        n.book_of(first).add("secure_page", count)


def reclaimable(n: Nested, tdr: int, frames: np.ndarray) -> bool:
    """Are these pages of that TD, as far as this level knows?"""
    mine = (n.platform.kind[frames] == PageType.REG) & (n.platform.owner[frames] == tdr)
    return bool(mine.all()) and not n.platform.locks


def reclaim(n: Nested, frames: np.ndarray) -> None:
    """They are free again."""
    n.platform.kind[frames] = PageType.NDA
    n.platform.owner[frames] = 0
    n.attention[frames] &= 0xFF ^ DONATED
    for first, count in _by_gib(frames):
        n.book_of(first).drop("secure_page", count)


def _by_gib(frames: np.ndarray) -> list[tuple[int, int]]:
    """A frame of each GiB, and how many there are in it: a level may keep a book for each."""
    gibs = frames >> (GIB_SHIFT - PAGE_SHIFT)
    _, firsts, counts = np.unique(gibs, return_index=True, return_counts=True)
    return list(zip(frames[firsts].tolist(), counts.tolist(), strict=True))
