"""Runs of equal page operations on any level that is in this process, the levels below it included.

What a run leaves behind is brought about at every level; what it costs is the business of `protocol.fold`.
"""

from __future__ import annotations

import numpy as np

from protocol.arch.tdx.linked import LinkedTdx
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.machine import bulk as machine
from protocol.arch.tdx.nesting import Nested
from protocol.arch.tdx.nesting import bulk as nesting
from protocol.keyboard.recorded import RecordedLevel

Level = Machine | Nested


def here(level: object) -> Level | None:
    """The level itself, if it and all below it are in this process, and nobody writes down what is asked."""
    if isinstance(level, RecordedLevel):
        return None
    if isinstance(level, LinkedTdx):
        level = level.memory
    if isinstance(level, Machine):
        return level
    if isinstance(level, Nested) and here(level.below.memory) is not None:
        return level
    return None


def _below(level: Nested, tdr: int, frames: np.ndarray) -> tuple[Level, int, np.ndarray]:
    """The level below, and what it knows the TD and the frames by."""
    found = here(level.below.memory)
    assert found is not None
    return found, level.frame_below(tdr), level.slots[frames]


def addable(level: Level, tdr: int, pages: np.ndarray, frames: np.ndarray) -> bool:
    """Could these guest pages, which ascend, be added and accepted at every level in the same way?"""
    while isinstance(level, Nested):
        if not nesting.free(level, frames):
            return False
        level, tdr, frames = _below(level, tdr, frames)
    return machine.free(level, frames) and machine.addable(level, tdr, pages)


def bring_in(level: Level, tdr: int, pages: np.ndarray, frames: np.ndarray) -> None:
    """The host has added `frames` under `pages`, and the guest has accepted them."""
    while isinstance(level, Nested):
        nesting.bring_in(level, tdr, frames)
        level, tdr, frames = _below(level, tdr, frames)
    machine.bring_in(level, tdr, pages, frames)


def reclaimable(level: Level, tdr: int, frames: np.ndarray) -> bool:
    """Would PAGE.RECLAIM free these pages of a TD, at every level in the same way?"""
    while isinstance(level, Nested):
        if not nesting.reclaimable(level, tdr, frames):
            return False
        level, tdr, frames = _below(level, tdr, frames)
    return machine.reclaimable(level, tdr, frames)


def reclaim(level: Level, tdr: int, frames: np.ndarray) -> None:
    """The host has reclaimed these pages."""
    while isinstance(level, Nested):
        nesting.reclaim(level, frames)
        level, tdr, frames = _below(level, tdr, frames)
    machine.reclaim(level, tdr, frames)
