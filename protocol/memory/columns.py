"""A column of a table of frames: one entry for each, of which only those take memory that are not zero.

Machines and guest hosts have millions of frames and use few, scattered all over. numpy asks Linux for huge
pages where an array is large, and then the first entry that is written takes 2 MiB of memory, and as long to
clear as thousands of pages of 4 KiB do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from protocol.memory.store import anonymous

_SMALL = 1 << 22  # bytes; numpy asks for nothing below


def column(entries: int, dtype: DTypeLike, width: int = 1) -> np.ndarray:
    """Zeroes, `entries` of them; of `width` values each where it is more than one."""
    shape = entries if width == 1 else (entries, width)
    size = entries * width * np.dtype(dtype).itemsize
    if size < _SMALL:
        return np.zeros(shape, dtype)
    return np.frombuffer(anonymous(size), dtype).reshape(shape)
