"""Runs of equal page operations on any level that is in this process, the levels below it included.

What a run leaves behind is brought about at every level; what it costs is the business of `protocol.fold`.
The pages of a run ascend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from protocol.arch.s390.linked import LinkedUltravisor, Server
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine import bulk as machine
from protocol.arch.s390.tables import SEGMENT_PAGES
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import GuestHost

if TYPE_CHECKING:
    from protocol.arch.s390.image import ImagePage
    from protocol.arch.s390.nesting import Nested

Level: TypeAlias = "Machine | Nested"


def here(level: object) -> Level | None:
    """The level itself, if it and all below it are in this process."""
    if isinstance(level, LinkedUltravisor):
        level = level.memory
    if isinstance(level, Machine):
        return level
    if isinstance(level, GuestHost) and here(level.below.memory) is not None:
        return cast("Nested", level)  # whatever stands on a level of this architecture
    return None


def way_down(level: object) -> list[Server]:
    """Who serves what the host on `level` asks by message, and so on down; nobody where there is no link."""
    servers = []
    while (found := here(level)) is not None:
        if isinstance(level, LinkedUltravisor):
            servers.append(Server(found))
        level = None if isinstance(found, Machine) else found.below.memory
    return servers


def by_segment(pages: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield each segment that ascending pages lie in, and from where to where in `pages` it reaches."""
    numbers = pages // SEGMENT_PAGES
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    stops = np.append(starts, pages.size)[1:]
    yield from zip(numbers[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)


def stretches(pages: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield from where to where ascending pages follow one another."""
    starts = np.flatnonzero(np.diff(pages, prepend=-2) != 1)
    yield from zip(starts.tolist(), np.append(starts, pages.size)[1:].tolist(), strict=True)


def quiet(level: object) -> bool:
    """No call is under way at any level from `level` down, so none of ours can be told to wait for it.

    Where no link lies between, nothing parks, and it is always so.
    """
    while (found := here(level)) is not None:
        if isinstance(level, LinkedUltravisor) and len(found.locks):
            return False
        level = None if isinstance(found, Machine) else found.below.memory
    return True


def fold_on(level: object) -> None:
    """Let the emulations from `level` down do their own work on pages in runs, too."""
    while (found := here(level)) is not None and not isinstance(found, Machine):
        found.folds = True
        level = found.below.memory


def plain(level: Level, frames: np.ndarray) -> np.ndarray:
    """Which of the host's frames are plain memory, at every level: nothing happens if they are used."""
    if isinstance(level, Machine):
        return machine.plain(level, frames)
    own = level.plain(frames)
    own[own] = plain(_below(level), level.slots[frames[own]])
    return own


def importable(level: Level, handle: int, pages: np.ndarray) -> bool:
    """Whether the guest could touch all of these pages for the first time, in plain frames."""
    while not isinstance(level, Machine):
        config = level.configs[handle]
        if not level.untouched(config, pages):
            return False
        handle, level = config.real, _below(level)
    return machine.importable(level, handle, pages)


def bring_in(level: Level, handle: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """The guest has touched `pages`, its host has backed them with `frames` and had them made secure."""
    while not isinstance(level, Machine):
        config = level.configs[handle]
        level.bring_in(config, pages, frames)
        handle, frames, level = config.real, level.slots[frames], _below(level)
    machine.bring_in(level, handle, pages, frames)


def unpack(level: Level, handle: int, frames: np.ndarray, encrypted: Sequence[ImagePage]) -> None:
    """The host has backed the image's pages with `frames` and had them unpacked in the order given."""
    pages = np.array([page.gaddr >> PAGE_SHIFT for page in encrypted], np.int64)
    while not isinstance(level, Machine):
        config = level.configs[handle]
        level.bring_in(config, pages, frames)
        handle, frames, level = config.real, level.slots[frames], _below(level)
    machine.unpack(level, handle, frames, encrypted)


def share(level: Level, handle: int, pages: np.ndarray) -> None:
    """The guest has shared pages that are resident and private. No book but the machine's says so."""
    while not isinstance(level, Machine):
        handle, level = level.configs[handle].real, _below(level)
    machine.share(level, handle, pages)


def destroyable(level: Level, frames: np.ndarray) -> np.ndarray:
    """Which of the host's frames Destroy Secure Storage would free, at every level in the same way."""
    if isinstance(level, Machine):
        return machine.destroyable(level, frames)
    alike = level.destroyable(frames)
    alike[alike] = destroyable(_below(level), level.slots[frames[alike]])
    return alike


def destroy(level: Level, frames: np.ndarray) -> None:
    """The host has destroyed the pages in `frames`."""
    while not isinstance(level, Machine):
        level.destroyed(frames)
        frames, level = level.slots[frames], _below(level)
    machine.destroy(level, frames)


def _below(level: Nested) -> Level:
    found = here(level.below.memory)
    assert found is not None, "a level that is elsewhere"
    return found
