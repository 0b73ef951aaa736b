"""Where bytes live: a sparse mapping behind a port.

A page that nobody wrote takes no memory. `Store` is all that memory asks of such a mapping; `PrivateStore` is
the body for one process. A body that is shared between processes has to read holes without allocating them
(`pread`).
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Protocol

PAGE = 4096
PAGE_SHIFT = 12
OFFSET = PAGE - 1
_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux: address space, not memory


class Store(Protocol):
    """Bytes from 0 to `size`, zero until written. Nobody checks bounds below this line."""

    size: int

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def clear(self, offset: int, length: int) -> None: ...


def anonymous(size: int) -> mmap.mmap:
    """A private mapping of zeroes; memory is taken page by page as it is written, never in huge pages."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    made = mmap.mmap(-1, max(size, PAGE), flags=flags)
    with suppress(OSError):  # a kernel without huge pages
        made.madvise(mmap.MADV_NOHUGEPAGE)
    return made


class PrivateStore:
    """A private anonymous mapping: a read of a hole maps the one zero page and takes no memory."""

    __slots__ = ("_map", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = anonymous(size)

    def read(self, offset: int, length: int) -> bytes:
        return self._map[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        self._map[offset : offset + len(data)] = data

    def clear(self, offset: int, length: int) -> None:
        """Zero whole pages and give their memory back; `offset` and `length` are multiples of a page."""
        if length:
            self._map.madvise(mmap.MADV_DONTNEED, offset, length)
