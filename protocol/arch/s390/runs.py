"""Runs of equal page operations on any level that is in this process, the levels below it included.

What a run leaves behind is brought about at every level; what it costs is the business of `protocol.fold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.linked import LinkedUltravisor
from protocol.arch.s390.machine import Machine, bulk

if TYPE_CHECKING:
    from protocol.arch.s390.image import ImagePage

Level = Machine


def here(level: object) -> Level | None:
    """The level itself, if it and all below it are in this process."""
    if isinstance(level, LinkedUltravisor):
        level = level.memory
    if isinstance(level, Machine):
        return level
    return None


def importable(level: Level, handle: int, pages: np.ndarray, frames: np.ndarray) -> bool:
    """Whether the guest could touch all of these pages for the first time, backed by these frames."""
    return bulk.importable(level, handle, pages, frames)


def bring_in(level: Level, handle: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """The guest has touched `pages`, its host has backed them with `frames` and had them made secure."""
    bulk.bring_in(level, handle, pages, frames)


def unpack(level: Level, handle: int, frames: np.ndarray, encrypted: Sequence[ImagePage]) -> None:
    """The host has backed the image's pages with `frames` and had them unpacked in the order given."""
    bulk.unpack(level, handle, frames, encrypted)


def share(level: Level, handle: int, pages: np.ndarray) -> None:
    """The guest has shared pages that are resident and private."""
    bulk.share(level, handle, pages)


def destroyable(level: Level, frames: np.ndarray) -> np.ndarray:
    """Which of the host's frames Destroy Secure Storage would free, at every level in the same way."""
    return bulk.destroyable(level, frames)


def destroy(level: Level, frames: np.ndarray) -> None:
    """The host has destroyed the pages in `frames`."""
    bulk.destroy(level, frames)
