"""Physical addresses as a host's LP uses them, with a KeyID in their upper bits.

Memory encryption with shared KeyIDs is not modelled: a shared KeyID reaches the same bytes as none. A
private one is
#GP outside SEAM mode. Behind the end of memory there is nothing to read or write, so that is a mistake of
# the request.
"""

from __future__ import annotations

import numpy as np

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.keyboard.port import Level
from protocol.effects import Fault
from protocol.keyboard import Complaint
from protocol.memory.store import OFFSET, PAGE_SHIFT

STORE_BYTES = 8  # what one store of a host writes
FILL_BYTES = 1 << 16
SPARSE_BYTES = 1 << 16  # zeroes from this length on leave holes, where the memory is plain


class Physical:
    """All of a host's memory."""

    __slots__ = ("_level",)

    def __init__(self, level: Level) -> None:
        self._level = level

    def read(self, address: int, length: int) -> bytes | Fault:
        plain = self._plain(address, length, write=False)
        return plain if isinstance(plain, Fault) else self._level.read(plain, length)

    def write(self, address: int, data: bytes) -> Fault | None:
        plain = self._plain(address, len(data), write=True)
        return plain if isinstance(plain, Fault) else self._level.write(plain, data, stores(len(data)))

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        plain = self._plain(address, length, write=True)
        if isinstance(plain, Fault):
            return plain
        level = self._level
        first, end = -(-plain >> PAGE_SHIFT), (plain + length) >> PAGE_SHIFT
        if byte == 0 and length >= SPARSE_BYTES and level.plain(np.arange(first, end)):
            level.clear(np.arange(first, end))
            self._fill(plain, (first << PAGE_SHIFT) - plain, byte)
            self._fill(end << PAGE_SHIFT, plain + length & OFFSET, byte)
        else:
            self._fill(plain, length, byte)
        return None

    def _fill(self, address: int, length: int, byte: int) -> None:
        for at in range(address, address + length, FILL_BYTES):
            n = min(FILL_BYTES, address + length - at)
            self._level.write(at, bytes((byte,)) * n, stores(n))

    def line(self, address: int, data: bytes) -> Fault | None:
        """MOVDIR64B."""
        plain = self._plain(address, len(data), write=True)
        return plain if isinstance(plain, Fault) else self._level.direct_store(plain, data)

    def _plain(self, address: int, length: int, write: bool) -> int | Fault:
        """The address without its KeyID."""
        profile = self._level.profile
        plain = profile.without_hkid(address)
        if profile.hkid_of(address) >= profile.first_private:
            return x86.exception(x86.GP, address, write)
        if plain + length > self._level.size:
            raise Complaint(
                "bad_value",
                f"addr: {address:#x}; allowed: below {self._level.size:#x}, the memory's end",
                "addr",
            )
        return plain


def stores(length: int) -> int:
    """By how many stores a host writes `length` bytes."""
    return max(1, -(-length // STORE_BYTES))
