"""Runs of equal page operations on the module's tables in one step each: columns of the PAMT, rows of tables.

The state that they leave is that of the single calls in `memory`, `guest` and `phymem`; nothing is counted
here. The callers know that the calls would succeed: `addable` and `reclaimable` say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.tdx.machine.sept import ENTRIES, FREE, SecureEpt, leaf
from protocol.arch.tdx.platform import GIB_SHIFT, PAGE_SHIFT
from protocol.arch.tdx.tables import STATE, Lifecycle, PageType

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine
    from protocol.arch.tdx.machine.entities import Td

MAPPED = leaf(0, STATE["MAPPED"])
ALL_LINES = np.uint64((1 << 64) - 1)


def free(m: Machine, frames: np.ndarray) -> bool:
    """Could all of these be given to a TD, and is nobody at them?"""
    platform = m.platform
    gibs = np.unique(frames >> (GIB_SHIFT - PAGE_SHIFT)).tolist()
    covered = all(platform.covered(gib << GIB_SHIFT) for gib in gibs)
    return covered and not platform.locks and not platform.kind[_run(frames)].any()


def addable(m: Machine, tdr: int, pages: np.ndarray) -> bool:
    """Are there tables for these guest pages, which ascend, and do they map nothing?"""
    sept = m.tds[tdr].sept
    if sept is None:
        return False
    return all(rows is not None and bool((rows[slots] == FREE).all()) for rows, slots in _rows(sept, pages))


def bring_in(m: Machine, tdr: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """PAGE.AUG, and the guest's ACCEPT: guest pages, which ascend, become mapped, each with its frame."""
    td = m.tds[tdr]
    assert td.sept is not None
    entries = frames.astype(np.uint64) << np.uint64(PAGE_SHIFT) | np.uint64(MAPPED)
    done = 0
    for rows, slots in _rows(td.sept, pages):
        assert rows is not None
        count = slots.stop - slots.start if isinstance(slots, slice) else slots.size
        rows[slots] = entries[done : done + count]
        done += count
    _own(m, td, frames)


def _own(m: Machine, td: Td, frames: np.ndarray) -> None:
    """Free frames become the TD's, and hold zeroes."""
    platform, run = m.platform, _run(frames)
    platform.kind[run] = PageType.REG
    platform.owner[run] = td.frame
    platform.bepoch[run] = 0
    m.owned[run] = ALL_LINES
    m.poison[run] = 0
    m.storage.vault_clear_many(frames)
    td.children += frames.size


def reclaimable(m: Machine, tdr: int, frames: np.ndarray) -> bool:
    """Are these small pages of a TD in TEARDOWN, and is nobody at them?"""
    platform, td = m.platform, m.tds.get(tdr)
    if td is None or td.lifecycle is not Lifecycle.TEARDOWN or platform.locks:
        return False
    mine = (platform.kind[frames] == PageType.REG) & (platform.owner[frames] == tdr)
    return bool(mine.all()) and not platform.size[frames].any()


def reclaim(m: Machine, tdr: int, frames: np.ndarray) -> None:
    """PAGE.RECLAIM of each."""
    platform, run = m.platform, _run(frames)
    platform.kind[run] = PageType.NDA
    platform.owner[run] = 0
    platform.bepoch[run] = 0
    m.storage.vault_clear_many(frames)
    m.tds[tdr].children -= frames.size


# -- rows and columns -----------------------------------------------------------------------------


def _run(frames: np.ndarray) -> slice | np.ndarray:
    """The same frames, as a slice where they follow one another."""
    first = int(frames[0]) if frames.size else 0
    if frames.size and int(frames[-1]) - first + 1 == frames.size and bool((np.diff(frames) == 1).all()):
        return slice(first, first + frames.size)
    return frames


def _rows(sept: SecureEpt, pages: np.ndarray) -> Iterator[tuple[np.ndarray | None, slice | np.ndarray]]:
    """Yield the table of each 2 MiB that ascending pages lie in, None where there is none, and its slots."""
    tables = pages // ENTRIES
    starts = np.flatnonzero(np.diff(tables, prepend=-1))
    stops = np.append(starts, pages.size)[1:]
    for number, start, stop in zip(tables[starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
        place = sept.walk(number * ENTRIES << PAGE_SHIFT, 0)
        rows = None if place.level else np.frombuffer(sept.tables[place.table], np.uint64)
        yield rows, _run(pages[start:stop] - number * ENTRIES)
