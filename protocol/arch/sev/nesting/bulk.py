"""Runs of equal page operations at one level: what its own books say afterwards.

See `machine.bulk`; `runs` brings the same about at the levels below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.nesting.guest_host import SECURE, TABLE

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested


def plain(n: Nested, frames: np.ndarray) -> bool:
    """Is nothing about these frames of any interest to this level, so that a store to them traps nowhere?"""
    return n.ram is None and not n.attention[frames].any()


def free(n: Nested, frames: np.ndarray) -> bool:
    """Could all of these be given to a guest, as far as this level knows?"""
    return plain(n, frames) and not n.real[frames].any() and n.rmp.free_each(frames)


def assign(n: Nested, frames: np.ndarray, asid: int, pages: np.ndarray) -> None:
    """They are a guest's from now on, below as well."""
    n.rmp.assign_each(frames, asid, pages)
    n.real[frames] = True
    n.attention[frames] |= SECURE
    for book, count in n.books_of(frames):
        book.add("secure_page", count)


def owned(n: Nested, frames: np.ndarray, asid: int) -> bool:
    """Are these small pages of a guest's, assigned below, with no mapping around them?"""
    if not n.rmp.owned_each(frames, asid) or n.ram is not None:
        return False
    return bool(n.real[frames].all()) and not n.shadows.near(frames).any()


def release(n: Nested, frames: np.ndarray, asid: int) -> None:
    """They are the guest host's again."""
    n.rmp.release_each(frames, asid)
    n.real[frames] = False
    n.attention[frames] &= TABLE
    for book, count in n.books_of(frames):
        book.drop("secure_page", count)
