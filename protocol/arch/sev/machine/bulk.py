"""Runs of equal page operations on the machine, in one step each: columns of the RMP, bytes that are owed.

The state that they leave is that of the single instructions in `rmp` and `steps`; nothing is counted here.
The callers know that the instructions would succeed: `free`, `untouched` and `owned` say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.sev.crypto.keys import BLOCK, MemoryKey
from protocol.arch.sev.rmp import VALIDATED

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine


def free(m: Machine, frames: np.ndarray) -> bool:
    """Would RMPUPDATE give each of these to a guest?"""
    return m.rmp.free_each(frames)


def plain(m: Machine, frames: np.ndarray) -> bool:
    """Do these belong to no guest by the RMP, if there is one?"""
    return not m.rmp.live or free(m, frames)


def assign(m: Machine, frames: np.ndarray, asid: int, pages: np.ndarray) -> None:
    """The host has assigned them."""
    m.rmp.assign_each(frames, asid, pages)


def validate(m: Machine, frames: np.ndarray, valid: bool) -> None:
    """The guest has validated pages that were not, or has taken that back."""
    if valid:
        m.rmp.flags[frames] |= VALIDATED
    else:
        m.rmp.flags[frames] &= 0xFF ^ VALIDATED


def untouched(m: Machine, frames: np.ndarray) -> bool:
    """Do these hold zeroes, as the host left them?"""
    return m.storage.zero(frames)


def touch(m: Machine, frames: np.ndarray, asid: int) -> None:
    """The guest has stored a zero byte to the first place of each of these pages, which it had never used."""
    m.storage.owe(frames, FirstBlock(m.key_of(asid)))


@dataclass(frozen=True, slots=True)
class FirstBlock:
    """What such a store leaves: the host's zeroes are no zeroes to the guest."""

    key: MemoryKey

    def __call__(self, address: int) -> bytes:
        return self.key.encrypt(address, b"\0" + self.key.decrypt(address, bytes(BLOCK))[1:])


def owned(m: Machine, frames: np.ndarray, asid: int) -> bool:
    return m.rmp.owned_each(frames, asid)


def release(m: Machine, frames: np.ndarray, asid: int) -> None:
    """The host has taken a guest's small pages back."""
    m.rmp.release_each(frames, asid)
