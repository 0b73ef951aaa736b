"""Memory of a guest host and its soft RMP: which pages are whose by its own books, and what lies below them.

Every change of the soft RMP goes through here, so that the marks on frames, the shadows of nested tables and
the RMP of the level below follow it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.sev.books import HIGH_DRAM, LOW_DRAM, Context, Platform, is_dram
from protocol.arch.sev.cpu import X86Fault, not_present, rmp_violation
from protocol.arch.sev.nesting.entities import TrackedGuest
from protocol.arch.sev.rmp import ASSIGNED, OK, SUBPAGES, VALIDATED, VMSA, PageState, Rmp
from protocol.arch.sev.status import SnpState
from protocol.arch.sev.structs import PAGE, RMP_HEAD, SHARED, NewState
from protocol.effects import Fault, Step
from protocol.memory.columns import column
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, SECURE, TABLE, GuestHost, GuestRam
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.sev.nesting.port import Port
    from protocol.arch.sev.nesting.shadow import Shadows
    from protocol.arch.sev.profiles import Profile

_OWN = 16
HOLE = slice(LOW_DRAM >> PAGE_SHIFT, HIGH_DRAM >> PAGE_SHIFT)


class SoftMemory(GuestHost[Any]):
    """The half of an emulation that keeps pages. `real` are the frames that are assigned below, too."""

    platform: Platform[TrackedGuest, Context]
    profile: Profile
    rmp: Rmp
    real: np.ndarray
    port: Port
    shadows: Shadows
    book: Book
    page_books: list[Book]
    _whose: np.ndarray | None  # frame -> which of them
    _below_entries: int
    _first_asids: tuple[int, int]
    _hidden: np.ndarray  # frames whose bytes the guest host does not map, if it maps any

    # -- names below ------------------------------------------------------------------------------------

    def operand_below(self, address: int) -> int:
        """The address below of an operand of the guest host's."""
        self.ledger.count(("translations", "host_page"))
        return self.address_below(address)

    def handle_below(self, guest: TrackedGuest) -> int:
        """The real handle of the guest host's legacy guest."""
        self.ledger.count(("translations", "handle"))
        return guest.real

    def asid_below(self, asid: int) -> int:
        """The real ASID in place of the one that the guest host named."""
        self.ledger.count(("translations", "handle"))
        return self.real_asid(asid)

    def real_asid(self, asid: int) -> int:
        """Each guest host has a share of its own, so that its numbers are the same at every depth."""
        lower, upper = self._first_asids
        low = asid < self.profile.min_sev_asid
        return lower + asid - 1 if low else upper + asid - self.profile.min_sev_asid

    def released(self, asid: int) -> None:
        """A guest leaves its ASID.

        Where it may have run, this level flushes before it lends that one again.
        """
        self.used(asid)
        self.platform.asids.release(asid)

    def used(self, asid: int) -> None:
        if self.platform.asids.in_use(asid):
            self.port.dirty.add(self.real_asid(asid))

    # -- the RMP ----------------------------------------------------------------------------------------

    def update(self, frame: int, new: NewState) -> Step[int]:
        """RMPUPDATE that the soft RMP allows: what belongs to a guest changes below first."""
        self.shadows.forget_around(frame)
        secure = self._is_secure(new)
        if secure and new.large and not self.contiguous(frame):
            for n in range(SUBPAGES):  # shown as what it is: 512 small entries
                yield from self.update(frame + n, new._replace(large=False, gpa=new.gpa + n * PAGE))
            return OK
        code = yield from self._update_below(frame, new, secure)
        if code == OK:
            count = SUBPAGES if new.large or self.rmp.large(frame) else 1
            self.rmp.apply(frame, new)
            self.shadows.forget_around(frame)  # what was filled while the level below was asked
            self._now_real(slice(frame, frame + count), secure)
            self.sync(frame, count)
        return code

    def _is_secure(self, new: NewState) -> bool:
        """Does the page become a guest's?"""
        return new.assigned and 0 < new.asid <= self.profile.asids

    def _update_below(self, frame: int, new: NewState, secure: bool) -> Step[int]:
        if not (secure or self.real[frame]):
            return OK
        address = self.operand_below(frame << PAGE_SHIFT)
        if secure:
            return (yield from self.port.rmpupdate(address, new._replace(asid=self.asid_below(new.asid))))
        return (yield from self.port.rmpupdate(address, SHARED._replace(large=self.rmp.large(frame))))

    def _now_real(self, here: slice, real: bool) -> None:
        before = int(np.count_nonzero(self.real[here]))
        self.real[here] = real
        after = int(np.count_nonzero(self.real[here]))
        book = self.page_books[self.share_of(here.start)] if self.page_books else self.book
        (book.add if after >= before else book.drop)("secure_page", abs(after - before))

    def books_of(self, frames: np.ndarray) -> list[tuple[Book, int]]:
        """The books that pages in these frames stand in, and how many in each."""
        if self._whose is None:
            return [(self.book, frames.size)]
        numbers, counts = np.unique(self._whose[frames], return_counts=True)
        return [(self.page_books[n], int(count)) for n, count in zip(numbers, counts, strict=True)]

    def keep_apart(self, shares: Sequence[np.ndarray]) -> None:
        """Keep a book for the pages in each of these shares of the guest host's frames, and the rest."""
        self._whose = np.full(self.size >> PAGE_SHIFT, len(shares))
        for number, frames in enumerate(shares):
            self._whose[frames] = number
        self.page_books = [Book(self.ledger, self.book.holder) for _ in range(len(shares) + 1)]

    @property
    def shares(self) -> int:
        """For how many hosts at the top books are kept apart."""
        return max(1, len(self.page_books) - 1)

    def share_of_asid(self, asid: int) -> int:
        """Which host at the top an ASID of this guest host belongs to: each has its part of both ranges."""
        low = self.profile.min_sev_asid - 1
        high = self.profile.asids - low
        at, size = (asid - 1, low) if asid <= low else (asid - low - 1, high)
        return at // max(1, size // self.shares)

    def share_of(self, frame: int) -> int:
        """In which share of `keep_apart` a frame is; all are in one where there are none."""
        return 0 if self._whose is None else int(self._whose[frame])

    def contiguous(self, frame: int) -> bool:
        """Does one 2 MiB page of the level below lie under these 512?"""
        below = self.slots[frame : frame + SUBPAGES]
        return bool(below[0] % SUBPAGES == 0 and self.in_one_piece(frame))

    def in_one_piece(self, frame: int) -> bool:
        """Do these 512 follow one another below?"""
        return bool((np.diff(self.slots[frame : frame + SUBPAGES]) == 1).all())

    def donate(self, frame: int) -> Step[None]:
        """A page of the firmware's becomes one below: the firmware below is going to work in it.

        Of a 2 MiB page that is what its one entry speaks for, if there is such a page below (`contiguous`).
        """
        if not self.real[frame]:
            large = self.rmp.large(frame)
            yield from self.port.lend(self.frame_below(frame) << PAGE_SHIFT, large)
            self._now_real(slice(frame, frame + (SUBPAGES if large else 1)), True)

    def take_back(self, frame: int) -> Step[None]:
        """It is the firmware's in the soft RMP alone from now on: this level is going to store to it."""
        if self.real[frame]:
            large = self.rmp.large(frame)
            code = yield from self.port.take_back(self.frame_below(frame) << PAGE_SHIFT, large)
            assert not code, f"a page that was lent does not come back: {code}"
            self._now_real(slice(frame, frame + (SUBPAGES if large else 1)), False)

    def make_way(self, address: int, length: int) -> Step[None]:
        """This level is going to store there: pages that are assigned below come back first.

        Without SNP the firmware writes any page, also one that a guest had before SNP was shut down.
        """
        for frame in range(address >> PAGE_SHIFT, (address + length - 1 >> PAGE_SHIFT) + 1):
            if not self.real[frame]:
                continue
            if self.rmp.state(frame) is PageState.FIRMWARE:
                yield from self.take_back(frame)
            elif self.platform.snp is SnpState.UNINIT:
                yield from self.give_up(frame)

    @abstractmethod
    def give_up(self, frame: int) -> Step[None]:
        """A page of a guest's, or of the firmware's, is unassigned below, whatever it is there."""

    def refresh(self, frame: int) -> None:
        """Read what a guest may have changed by itself from the RMP below, which is memory of that level."""
        if frame >= len(self.rmp.flags) or not self.real[frame] or not self.rmp.asid_of(frame):
            return
        raw = self.entry_below(frame)
        bits = raw[7] >> 5 & 3  # VMSA and validated
        flags = (VMSA if bits & 1 else 0) | (VALIDATED if bits & 2 else 0)
        self.rmp.change(frame, flags, VMSA | VALIDATED)
        self.rmp.set_perms(frame, int.from_bytes(raw[8:12], "little"))

    def entry_below(self, frame: int) -> bytes:
        raw = self.below.memory.peek(self._below_entries + _OWN * self.frame_below(frame), _OWN)
        assert isinstance(raw, bytes)
        return raw

    def not_real(self, frame: int, count: int) -> None:
        """These pages are unassigned below."""
        self._now_real(slice(frame, frame + count), False)

    def refresh_range(self, first: int, count: int) -> None:
        for frame in (first + np.flatnonzero(self.real[first : first + count])).tolist():
            if self.rmp.head(frame) == frame:
                self.refresh(frame)

    def sync(self, first: int, count: int) -> None:
        """Let the marks of these frames say what the soft RMP and the trusted region say."""
        here = slice(first, first + count)
        marks = np.zeros(count, np.uint8)
        flags = self.rmp.flags[here]
        marks[: len(flags)][flags & ASSIGNED != 0] = DONATED
        marks[: len(flags)][self.rmp.asid[here] != 0] = SECURE
        tmr = self.platform.tmr
        low, high = max(first, tmr.start >> PAGE_SHIFT), min(first + count, tmr.stop >> PAGE_SHIFT)
        if low < high:
            marks[low - first : high - first] |= DONATED
        low, high = max(first, HOLE.start), min(first + count, HOLE.stop)
        if low < high:
            marks[low - first : high - first] |= DONATED
        self.attention[here] = self.attention[here] & TABLE | marks
        self.keep_bytes(first, count)

    def sync_all(self) -> None:
        self.sync(0, self.size >> PAGE_SHIFT)

    # -- bytes that the guest host maps -----------------------------------------------------------------

    def live_in(self, ram: GuestRam, attention: np.ndarray) -> None:
        super().live_in(ram, attention)
        self._hidden = column(self.size >> PAGE_SHIFT, bool)
        self.keep_bytes(0, len(self._hidden))

    def keep_bytes(self, first: int, count: int) -> None:
        """Bytes of a page that somebody else has lie where the guest host maps nothing.

        On hardware the RMP stops its stores; a host in a process of its own maps its RAM as it likes.
        """
        if self.ram is None:
            return
        here = slice(first, first + count)
        guarded = self.attention[here] & (DONATED | SECURE) != 0
        hidden = self._hidden[here]
        if (away := first + np.flatnonzero(guarded & ~hidden)).size:
            self.ram.hide(self.slots[away])
        if (back := first + np.flatnonzero(~guarded & hidden)).size:
            self.ram.show(back, self.slots[back])
        self._hidden[here] = guarded

    # -- memory -----------------------------------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        return not_present(address, write)

    def refusal(self, address: int, length: int) -> X86Fault | None:
        """As on the machine: what is no memory first, then what is assigned."""
        if address < 0 or address + length > self.size or not is_dram(self.size, address, length):
            inside = address >= 0 and is_dram(self.size, address, 1)
            first = (LOW_DRAM if address < LOW_DRAM else self.size) if inside else address
            return not_present(first, write=True)
        if not self.rmp.live or not length:
            return None
        first = address >> PAGE_SHIFT
        bad = self.rmp.any_assigned(first, (address + length - 1 >> PAGE_SHIFT) - first + 1)
        return None if bad is None else self._violation(max(address, bad << PAGE_SHIFT))

    def _violation(self, address: int) -> X86Fault:
        """The level below sees a nested fault, and the CPU need not say at which linear address."""
        return rmp_violation(0 if self.profile.hole else address)

    def peek(self, address: int, length: int) -> bytes | Fault:
        """An empty access is judged by its address, as on the machine."""
        if length:
            return super().peek(address, length)
        return b"" if is_dram(self.size, address, 0) else not_present(address, write=False)

    def poke(self, address: int, data: bytes) -> Fault | None:
        return super().poke(address, data) if data else self.refusal(address, 0)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        """Reads are never refused; the RMP is rendered from this level's books."""
        rmp = self.rmp
        if LOW_DRAM <= address < HIGH_DRAM:
            return not_present(address, write=False)
        if rmp.live and rmp.base <= address < rmp.end:
            offset = address - rmp.base - RMP_HEAD
            if offset + length > 0:
                self.refresh_range(max(offset, 0) // _OWN, length // _OWN + 2)
            return rmp.rendered(address, length)
        data: bytes | Fault = self.below.memory.peek(self.address_below(address), length)
        return data

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        if LOW_DRAM <= address < HIGH_DRAM:
            return not_present(address, write=True)
        if self.rmp.assigned(address >> PAGE_SHIFT):
            return self._violation(address)
        return None  # the trusted region without SNP: the store is lost

    def table_written(self, address: int, length: int) -> None:
        self.shadows.written(address >> PAGE_SHIFT)

    def stored_below(self, frames: Iterable[int]) -> None:
        """The firmware below has stored to these, which traps nowhere: some may be tables of guests."""
        for frame in frames:
            if self.attention_of(frame) & TABLE:
                self.shadows.written(frame)

    def fetch(self, address: int, length: int) -> bytes:
        data = self.peek(address, length)
        assert isinstance(data, bytes), f"the firmware reads where it may not: {data}"
        return data

    def deposit(self, address: int, data: bytes) -> None:
        """This level stores for the firmware: to frames of its own, whatever the soft RMP says."""
        done_ = 0
        while done_ < len(data):
            at = address + done_
            n = min(len(data) - done_, PAGE - at % PAGE)
            fault = self.below.memory.write(self.address_below(at), data[done_ : done_ + n])
            # A page that the level below did not give back loses what is stored (guess).
            lost = self.platform.snp is SnpState.UNINIT and self.real[at >> PAGE_SHIFT]
            assert fault is None or lost, f"a page at {at:#x} is not this level's to write: {fault}"
            if self.attention_of(at >> PAGE_SHIFT) & TABLE:
                self.table_written(at, n)
            done_ += n
