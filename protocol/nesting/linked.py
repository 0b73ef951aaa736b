"""A level that lives elsewhere: operations go by message, memory by a port.

What an architecture adds is the form of its operations. The memory is the same bytes that the level below
sees: in one process the very object, in another one a mapping of the guest host's RAM with its bytes of
attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.nesting.guest_host import OwnMemory


class LinkedLevel:
    """The memory half of a level that lives elsewhere."""

    def __init__(self, memory: OwnMemory) -> None:
        self._memory = memory
        self.size = memory.size
        self.enlightenments: tuple[str, ...] = getattr(memory, "enlightenments", ())
        # Bound once: these are the hot paths of every host.
        self.read = memory.read
        self.write = memory.write
        self.peek = memory.peek
        self.poke = memory.poke

    @property
    def memory(self) -> OwnMemory:
        """What is reached without a message."""
        return self._memory

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        self._memory.clear(frames)

    def move(self, old: int, new: int) -> None:
        self._memory.move(old, new)
