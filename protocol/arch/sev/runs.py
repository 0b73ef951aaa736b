"""Runs of equal page operations on any level that is in this process, the levels below it included.

What a run leaves behind is brought about at every level; what it costs is the business of `protocol.fold`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from protocol.arch.sev.linked import LinkedSev
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.machine import bulk as machine
from protocol.arch.sev.nesting import Nested
from protocol.arch.sev.nesting import bulk as nesting
from protocol.keyboard.recorded import RecordedLevel

Level = Machine | Nested


def here(level: object) -> Level | None:
    """The level itself, if it and all below it are in this process, and nobody writes down what is asked."""
    if isinstance(level, RecordedLevel):
        return None
    if isinstance(level, LinkedSev):
        level = level.memory
    if isinstance(level, Machine):
        return level
    if isinstance(level, Nested) and here(level.below.memory) is not None:
        return level
    return None


def _below(level: Nested) -> Level:
    found = here(level.below.memory)
    assert found is not None
    return found


def _down(level: Level, frames: np.ndarray) -> Iterator[tuple[Level, np.ndarray]]:
    """Yield the level and its frames, then what they are at the level below, down to the machine."""
    while isinstance(level, Nested):
        yield level, frames
        frames, level = level.slots[frames], _below(level)
    yield level, frames


def _asids(level: Level, asid: int) -> Iterator[int]:
    """Yield what the guest's ASID is called at each of these levels."""
    while isinstance(level, Nested):
        yield asid
        asid, level = level.real_asid(asid), _below(level)
    yield asid


def free(level: Level, frames: np.ndarray) -> bool:
    """Would RMPUPDATE give each of these frames to a guest, at every level in the same way?"""
    return all(
        machine.free(at, here) if isinstance(at, Machine) else nesting.free(at, here)
        for at, here in _down(level, frames)
    )


def plain(level: Level, frames: np.ndarray) -> bool:
    """Are these the host's own, so that nothing traps when they are used?"""
    return all(
        machine.plain(at, here) if isinstance(at, Machine) else nesting.plain(at, here)
        for at, here in _down(level, frames)
    )


def blocks(level: Level, frames: np.ndarray) -> list[np.ndarray]:
    """At each level that keeps shadows, the 2 MiB blocks of the frames: what one RMPUPDATE looks around."""
    return [here // 512 for at, here in _down(level, frames) if isinstance(at, Nested)]


def near(level: Level, frames: np.ndarray) -> np.ndarray:
    """Which frames have a mapping around them at any level: a change of the RMP there drops it."""
    found = np.zeros(frames.size, bool)
    for at, here in _down(level, frames):
        if isinstance(at, Nested):
            found |= at.shadows.near(here)
    return found


def assign(level: Level, frames: np.ndarray, asid: int, pages: np.ndarray) -> None:
    """The host has given `frames` to its guest, as guest `pages`."""
    for (at, here), name in zip(_down(level, frames), _asids(level, asid), strict=True):
        if isinstance(at, Machine):
            machine.assign(at, here, name, pages)
        else:
            nesting.assign(at, here, name, pages)


def validate(level: Level, frames: np.ndarray, valid: bool = True) -> None:
    """The guest has validated pages in `frames`, or undone it.

    It does so by itself, so no book but the machine's says so.
    """
    at, here = list(_down(level, frames))[-1]
    assert isinstance(at, Machine)
    machine.validate(at, here, valid)


def untouched(level: Level, frames: np.ndarray) -> bool:
    """Do these hold zeroes, as their host left them?"""
    at, here = list(_down(level, frames))[-1]
    return isinstance(at, Machine) and machine.untouched(at, here)


def touch(level: Level, frames: np.ndarray, asid: int) -> None:
    """The guest has stored a zero byte to each of these pages for the first time."""
    at, here = list(_down(level, frames))[-1]
    assert isinstance(at, Machine)
    machine.touch(at, here, list(_asids(level, asid))[-1])


def owned(level: Level, frames: np.ndarray, asid: int) -> bool:
    """Would RMPUPDATE take each of these frames from the guest, at every level in the same way?"""
    return all(
        machine.owned(at, here, name) if isinstance(at, Machine) else nesting.owned(at, here, name)
        for (at, here), name in zip(_down(level, frames), _asids(level, asid), strict=True)
    )


def release(level: Level, frames: np.ndarray, asid: int) -> None:
    """The host has taken these frames from its guest."""
    for (at, here), name in zip(_down(level, frames), _asids(level, asid), strict=True):
        if isinstance(at, Machine):
            machine.release(at, here, name)
        else:
            nesting.release(at, here, name)
