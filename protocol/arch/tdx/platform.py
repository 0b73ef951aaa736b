"""What a TDX module knows about its machine: platform state, TDMRs, the PAMT, keys, caches.

Sections 4.1, 4.2 and 5.1 of the fact sheet. The real module has one of these, and so has every emulation
of it for a guest host, in that host's own addresses and KeyIDs: two books that are kept apart and can be
compared. Only the checks of operands that any call shares are here; what a call does is elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocol.arch.tdx.locks import Held, TryLocks
from protocol.arch.tdx.profiles import MAX_PA, Profile, Range
from protocol.arch.tdx.status import Refused, Status
from protocol.arch.tdx.tables import KeyState, PageType, SysState
from protocol.memory.columns import column
from protocol.nesting.locks import words

PAGE_SHIFT = 12
SIZES = (1 << 12, 1 << 21, 1 << 30)  # 4K, 2M, 1G: the sizes of section 5.1
FRAMES = (1, 1 << 9, 1 << 18)
GIB_SHIFT = 30
NOT_OURS = -1


@dataclass(slots=True)
class Tdmr:
    """A TD memory region, as configured. Its PAMT is initialised up to the address `ready`."""

    base: int
    size: int
    pamt: tuple[Range, Range, Range]  # 1G, 2M, 4K
    reserved: tuple[Range, ...]  # absolute addresses
    ready: int


@dataclass(slots=True)
class KeyOwner:
    """One entry of the key ownership table. `pending` has a bit for each package that may cache it."""

    state: KeyState = KeyState.FREE
    pending: int = 0


@dataclass(slots=True)
class CacheCycle:
    """One package's write-back: where it was interrupted (0: it was not), and which KeyIDs it covers."""

    point: int = 0
    covered: list[int] = field(default_factory=list)


class Platform:
    """The module's tables. Addresses and KeyIDs are those of the host that it serves."""

    def __init__(
        self, profile: Profile, cmrs: Sequence[Range], seamrr: Range, frames: int, cpus: int
    ) -> None:
        self.profile = profile
        self.cmrs = tuple(cmrs)
        self.seamrr = seamrr
        self.frames = frames
        self.cpus = cpus
        self.locks = TryLocks(lock_name)
        self.handoff_valid = False
        self.in_seam = 0  # LPs inside a call or a guest
        self.reload()

    def reload(self) -> None:
        """A fresh module: nothing is initialised, nothing belongs to anybody."""
        self.state = SysState.INIT_PENDING
        self.lps: set[int] = set()
        self.tdmrs: list[Tdmr] = []
        self.global_hkid = 0
        self.packages = 0  # a bit for each one whose global key is configured
        profile = self.profile
        private = range(profile.first_private, profile.first_private + profile.tdx_keyids)
        self.kot = {hkid: KeyOwner() for hkid in private}
        self.caches = [CacheCycle() for _ in range(profile.packages)]
        self.kind = column(self.frames, np.uint8)
        self.size = column(self.frames, np.uint8)
        self.owner = column(self.frames, np.uint32)
        self.bepoch = column(self.frames, np.uint64)
        self.kinds = _view(self.kind)
        self.sizes = _view(self.size)
        self.owners = _view(self.owner)
        self.bepochs = _view(self.bepoch)
        self._covered: set[int] = set()
        self.locks.clear()

    @property
    def all_packages(self) -> int:
        return (1 << self.profile.packages) - 1

    # -- the PAMT
    # ------------------------------------------------------------------------------------------------

    def cover(self, tdmr: Tdmr) -> None:
        """Initialise the PAMT of the next GiB of `tdmr`: every page is free, but reserved areas."""
        first = tdmr.ready >> PAGE_SHIFT
        last = min(first + FRAMES[2], self.frames)
        self.kind[first:last] = PageType.NDA
        for area in tdmr.reserved:
            start = max(area.base >> PAGE_SHIFT, first)
            end = min(area.end >> PAGE_SHIFT, last)
            if start < end:
                self.kind[start:end] = PageType.RSVD
        self._covered.add(tdmr.ready >> GIB_SHIFT)
        tdmr.ready += SIZES[2]

    def covered(self, address: int) -> bool:
        """Is it in a GiB of a TDMR that is initialised?"""
        return address >> GIB_SHIFT in self._covered

    def kind_of(self, frame: int) -> int:
        """Page type; what lies behind the end of memory can only be a reserved area."""
        return self.kinds[frame] if frame < self.frames else PageType.RSVD

    def leaf(self, frame: int) -> tuple[int, int]:
        """The first frame and the size of the page that `frame` is part of."""
        size = self.sizes[frame] if frame < self.frames else 0
        return frame & ~(FRAMES[size] - 1), size

    def assign(self, frame: int, kind: PageType, owner: int, size: int = 0) -> None:
        """Give a free page, or a large one, to the TD whose TDR is frame `owner`."""
        if size == 0:
            self.kinds[frame] = kind
            self.owners[frame] = owner
            self.bepochs[frame] = 0
            return
        run = slice(frame, frame + FRAMES[size])
        self.kind[run] = kind
        self.owner[run] = owner
        self.bepoch[run] = 0
        self.size[run] = size

    def free(self, frame: int, size: int = 0) -> None:
        self.assign(frame, PageType.NDA, 0, size)
        if size:
            self.size[frame : frame + FRAMES[size]] = 0

    def in_use(self, address: int, length: int) -> int | None:
        """An address in the range that belongs to a TD, None if none does."""
        first, last = address >> PAGE_SHIFT, (address + length - 1) >> PAGE_SHIFT
        taken = np.flatnonzero(self.kind[first : last + 1] > PageType.RSVD)
        return None if not taken.size else (first + int(taken[0])) << PAGE_SHIFT

    def is_vcpu(self, address: int) -> bool:
        frame = address >> PAGE_SHIFT
        return frame < self.frames and self.kinds[frame] == PageType.TDVPR

    def pages(self) -> dict[str, int]:
        """How many 4K pages there are of each type that belongs to a TD."""
        counts = np.bincount(self.kind[self.kind > PageType.RSVD], minlength=9)
        return {kind.name.lower(): int(counts[kind]) for kind in PageType if kind > PageType.RSVD}

    def key_states(self) -> dict[str, int]:
        states = [key.state for key in self.kot.values()]
        return {
            "hkid_assigned": states.count(KeyState.ASSIGNED),
            "hkid_flushed": states.count(KeyState.FLUSHED),
        }

    # -- operands, section 3.3
    # --------------------------------------------------------------------------------

    def form(self, address: int, operand: int, size: int = 0) -> None:
        """The form of a private page's address: aligned, no KeyID, below the limit. Raises Refused."""
        if address & (SIZES[size] - 1) or self.profile.hkid_of(address) or address >> MAX_PA:
            raise Refused(Status.OPERAND_INVALID | operand)

    def private(
        self, held: Held, address: int, operand: int, kind: PageType, exclusive: bool, size: int = 0
    ) -> int:
        """Check and lock a private page that an operand names; its first frame. Raises Refused."""
        self.form(address, operand, size)
        frame = address >> PAGE_SHIFT
        leaf = self.walk(held, frame, operand, exclusive, size)
        if leaf != size or self.kind_of(frame) != kind:
            raise Refused(Status.PAGE_METADATA_INCORRECT | operand)
        if size and (frame + FRAMES[size] > self.frames or self.kind[frame : frame + FRAMES[size]].any()):
            raise Refused(Status.PAGE_METADATA_INCORRECT | operand)
        return frame

    def walk(self, held: Held, frame: int, operand: int, exclusive: bool, target: int = 0) -> int:
        """Lock the way to a page in the PAMT: 1G and 2M shared, the leaf as asked; the leaf's size."""
        if not self.covered(frame << PAGE_SHIFT):
            raise Refused(Status.OPERAND_ADDR_RANGE_ERROR | operand)
        present = self.sizes[frame] if frame < self.frames else 0
        stop = max(present, target)
        ok = held.share(page_lock(frame, 2)) and (stop == 2 or held.share(page_lock(frame, 1)))
        if not ok:
            raise Refused(Status.OPERAND_BUSY | operand)
        if stop == 0:
            key = page_lock(frame, 0)
            ok = held.own(key) if exclusive else held.share(key)
        elif exclusive:
            ok = held.promote(page_lock(frame, stop))
        if not ok:
            raise Refused(Status.OPERAND_BUSY | operand)
        return stop

    def implicit(self, held: Held, frame: int, operand: int, exclusive: bool, size: int = 0) -> None:
        """Lock a page that a structure names, not an operand: its own entry only. Raises Refused."""
        key = page_lock(frame, size)
        if not (held.own(key) if exclusive else held.share(key)):
            raise Refused(Status.OPERAND_BUSY | operand)

    def shared(self, address: int, operand: int, align: int, size: int = 0) -> int:
        """Check a buffer of the host's: aligned, below the limit, outside SEAMRR, no private KeyID.

        Returns the address without its KeyID. Raises Refused.
        """
        plain = self.shared_form(address, align, size or align)
        if plain == NOT_OURS:
            raise Refused(Status.OPERAND_INVALID | operand)
        return plain

    def shared_form(self, address: int, align: int, size: int) -> int:
        """The same as a value: NOT_OURS where the check fails."""
        plain = self.profile.without_hkid(address)
        if address & (align - 1) or address >> MAX_PA:
            return NOT_OURS
        if plain < self.seamrr.end and self.seamrr.base < plain + size:
            return NOT_OURS
        return NOT_OURS if self.profile.hkid_of(address) >= self.profile.first_private else plain


def _view(column: np.ndarray) -> memoryview:
    """The same column, fast for single pages."""
    return column.data


def page_lock(frame: int, size: int) -> int:
    """The key of the lock in the PAMT entry of that size that covers `frame`."""
    return (frame & ~(FRAMES[size] - 1)) << 2 | size


def lock_name(lock: Hashable) -> str:
    """A lock in words: of a page, its address and size."""
    if isinstance(lock, int):
        return f"page {lock >> 2 << PAGE_SHIFT:#x} of {('4K', '2M', '1G')[lock & 3]}"
    return words(lock)
