"""Nested page tables: section 5.7 of the fact sheet. The long-mode format with four levels.

A nested walk is a user access: every level has to allow it. A leaf of 1 GiB counts as large; the RMP knows
2 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from protocol.arch.sev.rmp import NPF_PRESENT, NPF_USER, NPF_WRITE
from protocol.arch.sev.structs import U64

PRESENT, WRITABLE, USER, LARGE = 1, 2, 4, 0x80
ADDRESS = 0x7_FFFF_FFFF_F000  # bits 50 to 12: the C-bit is no part of it
GPA_BITS = 48
LEVELS = ((39, False), (30, True), (21, True), (12, False))


class Leaf(NamedTuple):
    """Where a guest address lies in its host: the address, and the bits of the mapping's size."""

    address: int
    shift: int

    @property
    def large(self) -> bool:
        return self.shift > 12


class Missing(NamedTuple):
    """No such mapping: the error code of the nested fault, without what the RMP adds."""

    error: int


def walk(read: Callable[[int], bytes | None], root: int, gpa: int, write: bool) -> Leaf | Missing:
    """`read` returns the 8 bytes at an address, or None where there is no memory."""
    access = NPF_USER | (NPF_WRITE if write else 0)
    if gpa >> GPA_BITS:
        return Missing(access)
    table = root & ADDRESS
    for shift, may_be_leaf in LEVELS:  # pragma: no branch - the last level is a leaf
        raw = read(table + 8 * (gpa >> shift & 0x1FF))
        entry = U64.unpack(raw)[0] if raw is not None else 0
        if not entry & PRESENT:
            return Missing(access)
        if not entry & USER or (write and not entry & WRITABLE):
            return Missing(access | NPF_PRESENT)
        table = entry & ADDRESS
        if shift == 12 or (may_be_leaf and entry & LARGE):
            size = 1 << shift
            return Leaf(table & ~(size - 1) | gpa & (size - 1), shift)
    raise AssertionError("the last level is a leaf")  # pragma: no cover - a mistake of ours
