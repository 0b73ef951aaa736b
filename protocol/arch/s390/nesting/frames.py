"""A guest host's memory with its secure pages: which guest owns a frame, what this level swapped out.

A page that this level exported on its own is *away*: it looks secure to the guest host, and it is brought
back before anything could tell the difference. A page that was secure before the guest host was reset is
*left over*: to the guest host it is plain and zero, and where it touches one it gets another frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.nesting.entities import TrackedConfig
from protocol.arch.s390.nesting.shadow import Shadows
from protocol.effects import Fault
from protocol.ledger import Ledger, Peaks
from protocol.memory.columns import column
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, LEFTOVER, SECURE, TABLE, GuestHost, Hypervisor
from protocol.tracking import Book


class Frames(GuestHost[Any]):
    """The page half of the books, keyed by the guest host's frames."""

    book: Book
    shadows: Shadows

    def __init__(self, below: Hypervisor[Any], frames: Sequence[int] | np.ndarray, ledger: Ledger) -> None:
        super().__init__(below, frames, ledger)
        count = self.attention.size
        self.page_owner = column(count, np.uint32)  # serial of the space whose guest owns the page
        self.page_number = column(count, np.uint32)
        self.owners = self.page_owner.data  # one of them, as a plain number
        self.away: dict[int, tuple[int, int]] = {}  # frame -> (serial, page); the guest host cannot know
        self.away_at: dict[tuple[int, int], int] = {}  # and the other way round
        self.leaving: int | None = None  # the frame whose private page this level is exporting just now
        self.pins: dict[int, int] = {}  # frame -> serial
        self.leftovers: dict[int, None] = {}  # frames to be destroyed, in order
        self.detached: list[int] = []  # frames below that were replaced, to be destroyed
        self.peaks = Peaks(ledger)

    # -- accesses to guarded frames ------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        return z.program(z.ADDRESSING, address, write)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        frame = address >> PAGE_SHIFT
        if self.attention_of(frame) & DONATED or self.is_outside(frame):
            return z.program(z.SECURE_ACCESS, address)
        if self.attention_of(frame) & LEFTOVER:
            self.replace_leftover(frame)
        data = self.below.memory.peek(self.address_below(address), length)
        return z.program(data.code, address) if isinstance(data, Fault) else data

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        frame = address >> PAGE_SHIFT
        if self.attention_of(frame) & DONATED or self.is_outside(frame):
            return z.program(z.SECURE_ACCESS, address, True)
        if self.attention_of(frame) & LEFTOVER:
            self.replace_leftover(frame)
        fault = self.below.memory.poke(self.address_below(address), data)
        return z.program(fault.code, address, True) if fault is not None else None

    def is_outside(self, frame: int) -> bool:
        """Does it hold ciphertext, or may it at any moment, that the guest host must not see or change?"""
        return frame in self.away or frame == self.leaving

    # -- whose page a frame is -----------------------------------------------------------------

    def track_page(self, config: TrackedConfig, page: int, frame: int) -> None:
        """The level below made the frame a page of this guest."""
        if self.attention_of(frame) & TABLE:
            self.shadows.forget_tables(frame)
        old = int(self.page_owner[frame])
        self.page_owner[frame] = config.space.serial
        self.page_number[frame] = page
        self.mark(frame, SECURE)
        (self.book.change if old else self.book.add)("secure_page")
        if self.leftovers or self.detached:
            self.note_peaks()

    def untrack_page(self, frame: int) -> None:
        """It is plain memory of the guest host again."""
        if not self.owners[frame]:
            return
        self.page_owner[frame] = 0
        self.came_back(frame)
        self.pins.pop(frame, None)
        self.unmark(frame, SECURE)
        self.book.drop("secure_page")

    def went_away(self, frame: int) -> None:
        """This level exported the page on its own."""
        whose = int(self.page_owner[frame]), int(self.page_number[frame])
        self.away[frame] = whose
        self.away_at[whose] = frame

    def came_back(self, frame: int) -> None:
        """It is not away any more, for whatever reason."""
        whose = self.away.pop(frame, None)
        if whose is not None:
            del self.away_at[whose]

    def unpin_all(self, serial: int) -> None:
        for frame in [frame for frame, owner in self.pins.items() if owner == serial]:
            del self.pins[frame]

    def shared_pages(self) -> int:
        """Pages of guests that the guest host can read. It takes a look at each of them."""
        pages = np.flatnonzero(self.page_owner != 0) << PAGE_SHIFT
        return sum(isinstance(self.guarded_peek(address, 1), bytes) for address in pages.tolist())

    # -- frames that change what they are --------------------------------------------------------

    def detach_mappings(self, frames: np.ndarray) -> None:
        """The guest host is about to lose these frames: no shadow maps or was read from one of them."""
        for frame in frames[self.shadows.mapper[frames] != 0].tolist():
            self.shadows.unmap_frame(frame)
        marks = self.attention[frames]
        for frame in frames[(marks & TABLE) != 0].tolist():
            self.shadows.forget_tables(frame)
        for frame in frames[(marks & LEFTOVER) != 0].tolist():
            self.replace_leftover(frame)

    def replace_leftover(self, frame: int) -> None:
        """The guest host touches a page that has still to be destroyed: it gets another frame at once."""
        new = self.below.pool.take()  # promised when the page was left over
        self.below.promised -= 1
        self.below.memory.clear([new])
        self.leftovers.pop(frame, None)
        self.unmark(frame, LEFTOVER)
        self.detached.append(self.put_under(frame, new))
        self.ledger.count(("pages", "replaced"))
        self.note_peaks()

    def note_peaks(self) -> None:
        """How much two lives of the guest host hold at once: pages of guests, and frames beside its own."""
        old = len(self.leftovers) + len(self.detached)
        if old:
            self.peaks.note("old_and_new_pages", old + self.book.live("secure_page"))
            self.peaks.note("pages_held_twice", len(self.detached))
