"""Calls that give the CPU back before they are done: condition code 3 (fact sheet, sections 2.1 and 7.7).

That such calls exist, and that the same block is then issued again, is sourced. Which they are and when is
not: here, those whose work grows with a guest's memory, after so many pages as the profile says (guess). Work
that was done is remembered for the CPU and its block. What a host sees changes with the last piece alone.
"""

from __future__ import annotations

from protocol.arch.s390.cpu import Cpu

REMEMBERED = 64  # calls that are done in part; the oldest begins anew if there are more


class Pieces:
    """How far each call is. `pages` is the work of one piece, 0: every call is done at once."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._done: dict[tuple[int, bytes], int] = {}

    def left(self, cpu: Cpu, block: bytes, work: int) -> bool:
        """Do one more piece of a call that takes `work` pages; True if it is to be issued again."""
        if not self.pages:
            return False
        key = (cpu.number, block)
        done = self._done.pop(key, 0) + self.pages
        if done >= work:
            return False
        while len(self._done) >= REMEMBERED:
            del self._done[next(iter(self._done))]
        self._done[key] = done
        return True

    def clear(self) -> None:
        """The machine was reset: nothing is done in part."""
        self._done.clear()
