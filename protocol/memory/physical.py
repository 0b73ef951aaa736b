"""Physical memory of one machine: frames, and the one table that says where a frame's bytes live.

A frame number is a label. The bytes of a frame lie in one of the stores; what the Trusted Entity took away
lies in its vault, which nobody else maps, so that a racing load of a host may be stale but never sees a
secret. Who may touch a frame is not decided here: that is the machine's page table of states.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT, PrivateStore, Store

_STORE_SHIFT = 48  # a home is (store number << 48) | byte offset


class Physical:
    """`frames` pages of bytes, zero at first. Addresses are not checked."""

    __slots__ = ("_home", "_stores", "_vault", "_vaulted", "frames", "home")

    def __init__(self, frames: int, ram: Store | None = None) -> None:
        self.frames = frames
        self._stores: list[Store] = [ram or PrivateStore(frames << PAGE_SHIFT)]
        self._vault = PrivateStore(frames << PAGE_SHIFT)
        self._vaulted = np.zeros(frames, np.uint8)
        self.home = np.arange(0, frames << PAGE_SHIFT, PAGE, dtype=np.uint64)
        self._home = self.home.data

    # -- bytes that hosts can reach ------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        offset = address & OFFSET
        if offset + length <= PAGE:
            home: int = self._home[address >> PAGE_SHIFT]
            return self._stores[home >> _STORE_SHIFT].read((home & 0xFFFF_FFFF_FFFF) + offset, length)
        parts = [self.read(at, n) for at, n in chunks(address, length)]
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        offset = address & OFFSET
        if offset + len(data) <= PAGE:
            home: int = self._home[address >> PAGE_SHIFT]
            self._stores[home >> _STORE_SHIFT].write((home & 0xFFFF_FFFF_FFFF) + offset, data)
            return
        done = 0
        for at, n in chunks(address, len(data)):
            self.write(at, data[done : done + n])
            done += n

    def clear(self, frame: int) -> None:
        home: int = self._home[frame]
        self._stores[home >> _STORE_SHIFT].clear(home & 0xFFFF_FFFF_FFFF, PAGE)

    def clear_many(self, frames: Iterable[int]) -> None:
        """Zero many frames; neighbours whose bytes lie together go in one step."""
        homes = np.sort(self.home[np.fromiter(frames, np.int64)])
        if not homes.size:
            return
        breaks = np.flatnonzero(np.diff(homes) != PAGE) + 1
        for run in np.split(homes, breaks):
            first = int(run[0])
            self._stores[first >> _STORE_SHIFT].clear(first & 0xFFFF_FFFF_FFFF, PAGE * run.size)

    # -- places --------------------------------------------------------------------------

    def place(self, frames: Iterable[int], store: Store) -> None:
        """Let the bytes of `frames`, in order, live in `store` from its offset 0 on."""
        self._stores.append(store)
        first = (len(self._stores) - 1) << _STORE_SHIFT
        listed = np.fromiter(frames, np.int64)
        self.home[listed] = first + np.arange(0, listed.size << PAGE_SHIFT, PAGE, dtype=np.uint64)

    def swap_homes(self, one: int, other: int) -> None:
        """Move the contents of two frames into each other's place without touching a byte."""
        self._home[one], self._home[other] = self._home[other], self._home[one]

    # -- bytes that only the Trusted Entity reaches --------------------------------------

    def vault_read(self, frame: int, offset: int, length: int) -> bytes:
        return self._vault.read((frame << PAGE_SHIFT) + offset, length)

    def vault_write(self, frame: int, offset: int, data: bytes) -> None:
        self._vaulted[frame] = 1
        self._vault.write((frame << PAGE_SHIFT) + offset, data)

    def vault_clear(self, frame: int) -> None:
        if self._vaulted[frame]:
            self._vaulted[frame] = 0
            self._vault.clear(frame << PAGE_SHIFT, PAGE)

    def vault_clear_many(self, frames: np.ndarray) -> None:
        for frame in frames[self._vaulted[frames] != 0].tolist():
            self.vault_clear(frame)

    def vault_is_clear(self, frame: int) -> bool:
        """True if nothing but zeroes can lie there."""
        return not self._vaulted[frame]


def chunks(address: int, length: int) -> Iterable[tuple[int, int]]:
    """Split [address, address + length) at page borders into (address, length)."""
    while length > 0:
        n = min(length, PAGE - (address & OFFSET))
        yield address, n
        address += n
        length -= n
