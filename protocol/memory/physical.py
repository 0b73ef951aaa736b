"""Physical memory of one machine: frames, and the one table that says where a frame's bytes live.

A frame number is a label. The bytes of a frame lie in one of the stores; what the Trusted Entity took away
lies in its vault, which nobody else maps, so that a racing load of a host may be stale but never sees a
secret. Who may touch a frame is not decided here: that is the machine's page table of states.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from protocol.memory.columns import column
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT, PrivateStore, Store

_STORE_SHIFT = 48  # a home is (store number << 48) | byte offset
_IN_STORE = (1 << _STORE_SHIFT) - 1
_STORES = 1 << 15  # as many as the distance to a home has room for


class Physical:
    """`frames` pages of bytes, zero at first. Addresses are not checked."""

    __slots__ = (
        "_away",
        "_far",
        "_fill",
        "_filled",
        "_first",
        "_forgotten",
        "_shared",
        "_spare",
        "_stores",
        "_vault",
        "_vaulted",
        "frames",
    )

    def __init__(self, frames: int, ram: Store | None = None) -> None:
        self.frames = frames
        self._first = ram or PrivateStore(frames << PAGE_SHIFT)
        self._stores: list[Store] = [self._first]
        self._vault = PrivateStore(frames << PAGE_SHIFT)
        self._vaulted = column(frames, np.uint8)
        # Pages of the first store that are not known to be zero. In a further store others write, too.
        self._filled = column(frames, bool) if ram is None else np.ones(frames, bool)
        self._fill = self._filled.data
        self._shared = ram is not None
        # From a frame's own address to its home: a table of zeroes takes no memory before it is written.
        self._away = column(frames, np.int64)
        self._far = self._away.data
        self._spare: list[np.ndarray] = []  # homes whose frames live in a further store
        self._forgotten: list[int] = []  # stores that went away: their numbers are used again

    # -- bytes that hosts can reach ------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        offset = address & OFFSET
        if offset + length <= PAGE:
            at: int = address + self._far[address >> PAGE_SHIFT]
            if at <= _IN_STORE:
                return self._first.read(at, length)
            return self._stores[at >> _STORE_SHIFT].read(at & _IN_STORE, length)
        parts = [self.read(start, n) for start, n in chunks(address, length)]
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        offset = address & OFFSET
        if offset + len(data) <= PAGE:
            at: int = address + self._far[address >> PAGE_SHIFT]
            if at <= _IN_STORE:
                self._fill[at >> PAGE_SHIFT] = True
                self._first.write(at, data)
            else:
                self._stores[at >> _STORE_SHIFT].write(at & _IN_STORE, data)
            return
        done = 0
        for start, n in chunks(address, len(data)):
            self.write(start, data[done : done + n])
            done += n

    def clear(self, frame: int) -> None:
        home: int = (frame << PAGE_SHIFT) + self._far[frame]
        if home <= _IN_STORE:
            if not self._fill[home >> PAGE_SHIFT]:
                return
            self._fill[home >> PAGE_SHIFT] = self._shared
        self._stores[home >> _STORE_SHIFT].clear(home & _IN_STORE, PAGE)

    def clear_many(self, frames: Iterable[int] | np.ndarray) -> None:
        """Zero many frames; neighbours whose bytes lie together go in one step, what is zero in none."""
        homes = self.homes(_listed(frames))
        first = homes <= _IN_STORE
        pages = homes[first] >> PAGE_SHIFT
        filled = pages[self._filled[pages]]
        if not self._shared:
            self._filled[filled] = False
        for at, length in _together(filled << PAGE_SHIFT):
            self._stores[0].clear(at, length)
        for at, length in _together(homes[~first]):
            self._stores[at >> _STORE_SHIFT].clear(at & _IN_STORE, length)

    def exposed(self, needle: bytes) -> list[int]:
        """Frames outside of the vault in whose bytes `needle` lies: what a checker of secrecy looks for."""
        if len(self._stores) == 1:
            homes = self.homes(np.arange(self.frames))
            looked = np.flatnonzero(self._filled[homes >> PAGE_SHIFT]).tolist()
        else:
            looked = list(range(self.frames))
        return [frame for frame in looked if needle in self.read(frame << PAGE_SHIFT, PAGE)]

    # -- places --------------------------------------------------------------------------

    def homes(self, frames: np.ndarray) -> np.ndarray:
        """Where the bytes of these frames lie: the number of a store, shifted by 48, and the offset there."""
        own = frames.astype(np.int64, copy=False) << PAGE_SHIFT
        homes: np.ndarray = own + self._away[frames]
        return homes

    def _move_in(self, frames: np.ndarray, homes: np.ndarray) -> None:
        self._away[frames] = homes - (frames.astype(np.int64, copy=False) << PAGE_SHIFT)

    def place(self, frames: Iterable[int] | np.ndarray, store: Store) -> int:
        """Let the bytes of `frames`, in order, live in `store` from its offset 0 on: they are what is there.

        Returns the number of the store. Raises ValueError if it has no room for them, or there is no number.
        """
        listed = _listed(frames)
        if listed.size << PAGE_SHIFT > store.size:
            raise ValueError(f"{listed.size} frames do not fit into {store.size} bytes")
        if self._forgotten:
            number = self._forgotten.pop()
            self._stores[number] = store
        elif len(self._stores) < _STORES:
            number = len(self._stores)
            self._stores.append(store)
        else:
            raise ValueError(f"{_STORES} stores are there already")
        self.join(listed, number, np.arange(listed.size))
        return number

    def join(self, frames: np.ndarray, store: int, pages: np.ndarray) -> None:
        """Let the bytes of `frames` live in pages of a store that `place` made known."""
        self._spare.append(self.homes(frames))
        self._move_in(frames, (store << _STORE_SHIFT) + (pages.astype(np.int64, copy=False) << PAGE_SHIFT))

    def leave(self, frames: np.ndarray) -> None:
        """Take `frames` out of the store that they joined: it holds zeroes then, and they hold anything."""
        self.clear_many(frames)
        homes = np.concatenate(self._spare)
        self._move_in(frames, homes[homes.size - frames.size :])
        self._spare = [homes[: homes.size - frames.size]]

    def evict(self, store: int) -> None:
        """All frames leave that still live in this store: what was there is gone, and they hold zeroes."""
        held = np.flatnonzero(self._lives_in(store))
        self.leave(held)
        self.clear_many(held)

    def forget(self, store: int) -> None:
        """The store goes away: all frames have left it."""
        held = self._lives_in(store)
        assert not held.any(), f"{int(held.sum())} frames still live in store {store}"
        self._stores[store] = PrivateStore(0)
        self._forgotten.append(store)

    def _lives_in(self, store: int) -> np.ndarray:
        """Which frames do."""
        lives: np.ndarray = (self.homes(np.arange(self.frames)) >> _STORE_SHIFT) == store
        return lives

    def swap_homes(self, one: int, other: int) -> None:
        """Move the contents of two frames into each other's place without touching a byte."""
        apart = (other - one) << PAGE_SHIFT
        self._far[one], self._far[other] = self._far[other] + apart, self._far[one] - apart

    # -- bytes that only the Trusted Entity reaches --------------------------------------

    def vault_read(self, frame: int, offset: int, length: int) -> bytes:
        return self._vault.read((frame << PAGE_SHIFT) + offset, length)

    def vault_write(self, frame: int, offset: int, data: bytes) -> None:
        if not self._vaulted[frame]:
            if not data.strip(b"\0"):
                return  # it is zero, and takes no memory
            self._vaulted[frame] = 1
        self._vault.write((frame << PAGE_SHIFT) + offset, data)

    def vault_clear(self, frame: int) -> None:
        if self._vaulted[frame]:
            self._vaulted[frame] = 0
            self._vault.clear(frame << PAGE_SHIFT, PAGE)

    def vault_clear_many(self, frames: np.ndarray) -> None:
        filled = frames[self._vaulted[frames] != 0]
        self._vaulted[filled] = 0
        for offset, length in _together(filled << PAGE_SHIFT):
            self._vault.clear(offset, length)

    def vault_is_clear(self, frame: int) -> bool:
        """True if nothing but zeroes can lie there."""
        return not self._vaulted[frame]


def _listed(frames: Iterable[int] | np.ndarray) -> np.ndarray:
    if isinstance(frames, np.ndarray):
        return frames
    if isinstance(frames, range):
        return np.arange(frames.start, frames.stop, frames.step)
    return np.array(list(frames), np.int64)


def _together(offsets: np.ndarray) -> Iterable[tuple[int, int]]:
    """Yield (offset, length) of the runs that pages at `offsets` make, in any order."""
    if not offsets.size:
        return
    ordered = np.sort(offsets)
    ends = np.append(np.flatnonzero(np.diff(ordered) != PAGE), ordered.size - 1)
    starts = np.append(0, ends[:-1] + 1)
    yield from zip(ordered[starts].tolist(), ((ends - starts + 1) << PAGE_SHIFT).tolist(), strict=True)


def chunks(address: int, length: int) -> Iterable[tuple[int, int]]:
    """Split [address, address + length) at page borders into (address, length)."""
    while length > 0:
        n = min(length, PAGE - (address & OFFSET))
        yield address, n
        address += n
        length -= n
