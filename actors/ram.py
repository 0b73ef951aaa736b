"""The RAM of a guest host in a process of its own: one file, mapped by it and by its hypervisor only.

A memfd: RAM from 0 on, behind it one byte of attention for each frame. It is sealed in size when it is
made, so neither side can take it away from under the other. Holes are read with pread: a read through the
mapping would allocate them. Secure and donated bytes never lie here; whoever writes beside the rules
changes its own plain memory and nothing else.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np

from protocol.memory.physical import Physical
from protocol.memory.store import PAGE, PAGE_SHIFT

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class RamFile:
    """A `Store` in a memfd. `fd` may be passed to the process that is to map it."""

    def __init__(self, fd: int, frames: int) -> None:
        self.fd = fd
        self.frames = frames
        self.size = frames << PAGE_SHIFT
        self._map = mmap.mmap(fd, _length(frames), mmap.MAP_SHARED)
        self.attention = np.frombuffer(self._map, np.uint8, frames, self.size)

    @classmethod
    def create(cls, frames: int) -> RamFile:
        """A new one of `frames` pages, all zero."""
        fd = os.memfd_create("nestbed-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _length(frames))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd, frames)

    @classmethod
    def attach(cls, fd: int, frames: int) -> RamFile:
        """The file behind `fd`. Raises ValueError if it cannot be one of `frames` pages."""
        if os.fstat(fd).st_size != _length(frames):
            raise ValueError(f"a RAM file of {frames} frames has {_length(frames)} bytes")
        return cls(fd, frames)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        self._map[offset : offset + len(data)] = data

    def clear(self, offset: int, length: int) -> None:
        """Zero whole pages and give their memory back."""
        if length:
            self._map.madvise(mmap.MADV_REMOVE, offset, length)

    def close(self) -> None:
        """Give the file back; nobody may use this object any more."""
        del self.attention
        self._map.close()
        os.close(self.fd)


class MachineRam:
    """The hypervisor's side: which frames of the machine live in the file."""

    def __init__(self, storage: Physical, file: RamFile, frames: np.ndarray) -> None:
        self._storage = storage
        self._file = file
        self._number = storage.place(frames, file)

    def close(self) -> None:
        """The guest host is gone; nothing lives in its file any more."""
        self._storage.forget(self._number)
        self._file.close()

    def evict(self) -> None:
        """The guest host's place is kept for the next one, its memory is not."""
        self._storage.evict(self._number)

    def left(self, below: np.ndarray) -> None:
        self._storage.leave(below)

    def hide(self, below: np.ndarray) -> None:
        """The same frames, their bytes in memory that only this process maps."""
        kept = self._bytes(below)
        self._storage.leave(below)
        self._put(below, kept)

    def show(self, frames: np.ndarray, below: np.ndarray) -> None:
        kept = self._bytes(below)
        self._storage.join(below, self._number, frames)
        self._put(below, kept)

    def _bytes(self, below: np.ndarray) -> list[bytes]:
        return [self._storage.read(frame << PAGE_SHIFT, PAGE) for frame in below.tolist()]

    def _put(self, below: np.ndarray, kept: list[bytes]) -> None:
        """What lies at a place that was left or joined is anybody's."""
        self._storage.clear_many(below)
        for frame, data in zip(below.tolist(), kept, strict=True):
            if data.strip(b"\0"):
                self._storage.write(frame << PAGE_SHIFT, data)

    def joined(self, frames: np.ndarray, below: np.ndarray) -> None:
        self._storage.join(below, self._number, frames)


def _length(frames: int) -> int:
    return (frames << PAGE_SHIFT) + (frames + PAGE - 1 & ~(PAGE - 1))
