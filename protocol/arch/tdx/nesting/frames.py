"""A guest host's memory: whole GiBs of the level below, in any order.

What the guest host gives to a TD is given below as the very same frame, so the level below answers its
loads and stores with the pattern, the poison and the machine checks of section 5.2; such an access traps
here on its way. GiBs stay whole, so that large pages and the PAMT's locks are the same at every depth. The
PAMT of the guest host's own module takes memory that is needed nowhere below: its lines are played here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.machine import ALL_LINES, LINE, NOTHING, PATTERN, lines
from protocol.arch.tdx.profiles import Range
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.memory.columns import column
from protocol.memory.physical import chunks
from protocol.memory.pool import Pool
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT
from protocol.nesting import guest_host
from protocol.nesting.guest_host import DONATED, TABLE, GuestHost

GIB_SHIFT = 18  # of a frame number
FOREIGN = 32  # of attention: some lines of the frame are somebody else's, until a direct store
GIB_FRAMES = 1 << GIB_SHIFT


@dataclass(slots=True)
class Hypervisor(guest_host.Hypervisor[Any]):
    """`gibs` are numbers of whole GiBs for guest hosts, `hkids` the KeyIDs for their TDs, of
    which there are `key_share` while none has any.

    `own` and `own_keys` are the same for TDs of its own; `pools` what emulation has for each guest host,
    where they have not one pool together.
    """

    gibs: Pool = field(default_factory=lambda: Pool(0, 0))
    hkids: list[int] = field(default_factory=list)
    key_share: int = 0
    own: Pool = field(default_factory=lambda: Pool(0, 0))
    own_keys: list[int] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)


class Frames(GuestHost[Any]):
    """`gibs` are those below, in the guest host's order."""

    below: Hypervisor

    def __init__(
        self, below: Hypervisor, gibs: Sequence[int], size: int, seamrr: Range, ledger: Ledger
    ) -> None:
        firsts = np.array(gibs, np.int64) << GIB_SHIFT
        frames = (firsts[:, None] + np.arange(GIB_FRAMES)).reshape(-1)[: size >> PAGE_SHIFT]
        super().__init__(below, frames, ledger)
        self.gibs = list(gibs)
        self._own_gib = {gib: own for own, gib in enumerate(gibs)}
        self.seamrr = seamrr
        self.lines = column(len(frames), np.uint64)  # of the own module's PAMT: 64 owner bits for a page
        self.spoilt = column(len(frames), np.uint64)
        self._lines, self._spoilt = self.lines.data, self.spoilt.data
        self._guard_module()

    def _guard_module(self) -> None:
        self.attention[self.seamrr.base >> PAGE_SHIFT : self.seamrr.end >> PAGE_SHIFT] = DONATED

    # -- addresses below ---------------------------------------------------------------------------

    def own_frame(self, below: int) -> int:
        """The guest host's number of a frame below that is its own."""
        return self._own_gib[below >> GIB_SHIFT] << GIB_SHIFT | below & (GIB_FRAMES - 1)

    def own_address(self, below: int) -> int:
        return self.own_frame(below >> PAGE_SHIFT) << PAGE_SHIFT | below & OFFSET

    def holds(self, below: int) -> bool:
        """Is this address below one of the guest host's?"""
        return below >> PAGE_SHIFT >> GIB_SHIFT in self._own_gib

    # -- accesses of the guest host's CPUs ---------------------------------------------------------

    def read(self, address: int, length: int) -> bytes | Fault:
        if self._leaves(address, length):
            return self.outside(address, write=False)
        self._note(address, length, 0)
        data = self.peek(address, length)
        return self.injected(data) if isinstance(data, Fault) else data

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if self._leaves(address, len(data)):
            return self.outside(address, write=True)
        self._note(address, len(data), stores)
        return self.poke(address, data)

    def direct_store(self, address: int, data: bytes) -> Fault | None:
        """MOVDIR64B: a whole line, plain afterwards."""
        if self._leaves(address, len(data)):
            return self.outside(address, write=True)
        if self._module(address):
            return None
        self._note(address, len(data), 1)
        frame, keep = address >> PAGE_SHIFT, ALL_LINES ^ 1 << ((address & OFFSET) // LINE)
        self._lines[frame] &= keep
        self._spoilt[frame] &= keep
        fault: Fault | None = self.below.memory.direct_store(self.address_below(address), data)
        self._changed(address, len(data))
        return fault

    def _leaves(self, address: int, length: int) -> bool:
        return self._first_outside(address, length) is not None

    def _note(self, address: int, length: int, stores: int) -> None:
        """Count what traps: any access to a guarded frame, a store to one with a shadowed table."""
        for at, n in chunks(address, length):
            attention = self._attention[at >> PAGE_SHIFT]
            if attention & DONATED:
                self._trapped("ept_violation", 1)
            elif attention & TABLE and stores:
                self._trapped("table_write", max(1, stores * n // length))

    def _trapped(self, reason: str, n: int) -> None:
        self.ledger.trap(self.level, reason, n=n)
        self.ledger.reenter(self.below.level, n)

    def injected(self, fault: Fault) -> Fault:
        self.ledger.count(("injections", fault.name))
        return fault

    # -- by the module or the level below ----------------------------------------------------------

    def peek(self, address: int, length: int) -> bytes | Fault:
        if length > PAGE and self._leaves(address, length):  # the module loads no more at a time
            return self.outside(address, write=False)
        parts = []
        for at, n in chunks(address, length):
            part = self._peek(at, n)
            if isinstance(part, Fault):
                return part
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _peek(self, at: int, n: int) -> bytes | Fault:
        if not 0 <= at < self.size or self._module(at):
            return NOTHING * n
        frame = at >> PAGE_SHIFT
        if not (self._lines[frame] or self._spoilt[frame]):
            data: bytes | Fault = self.below.memory.peek(self.address_below(at), n)
            return self._as_own(data, at) if isinstance(data, Fault) else data
        parts = []
        for line, length in lines(at, n):
            bit = 1 << ((line & OFFSET) // LINE)
            if self._spoilt[frame] & bit:
                return x86.exception(x86.MC, line)
            mine = self._lines[frame] & bit
            part = PATTERN * length if mine else self.below.memory.peek(self.address_below(line), length)
            assert isinstance(part, bytes), "the own module's PAMT is plain memory below"
            parts.append(part)
        return b"".join(parts)

    def poke(self, address: int, data: bytes) -> Fault | None:
        """A store. It succeeds always, as on the machine."""
        done = 0
        for at, n in chunks(address, len(data)):
            self._poke(at, data[done : done + n])
            done += n
        return None

    def _poke(self, at: int, data: bytes) -> None:
        if not 0 <= at < self.size or self._module(at):
            return
        frame, done = at >> PAGE_SHIFT, 0
        parts = lines(at, len(data)) if self._lines[frame] else [(at, len(data))]
        for line, n in parts:
            bit = 1 << ((line & OFFSET) // LINE)
            if self._lines[frame] & bit:
                self._spoilt[frame] |= bit
            else:
                self.below.memory.poke(self.address_below(line), data[done : done + n])
            done += n
        self._changed(at, len(data))

    def _as_own(self, fault: Fault, at: int) -> Fault:
        return replace(fault, address=at & ~OFFSET | fault.address & OFFSET)

    def _changed(self, address: int, length: int) -> None:
        if self._attention[address >> PAGE_SHIFT] & TABLE:
            self.table_written(address, length)

    def _module(self, address: int) -> bool:
        return self.seamrr.base <= address < self.seamrr.end

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero frames with direct stores: they are plain memory afterwards."""
        listed = np.asarray(frames, np.int64)
        self.lines[listed] = 0
        self.spoilt[listed] = 0
        self.attention[listed] &= 0xFF ^ FOREIGN
        super().clear(listed)

    def may_clear(self, frame: int) -> bool:
        return not self.attention_of(frame) & ~(TABLE | FOREIGN)

    def plain(self, frames: np.ndarray) -> bool:
        """Can they be zeroed at one go without anybody noticing?"""
        if self.lines[frames].any() or (self.attention[frames] & TABLE).any():
            return False
        return bool(self.below.memory.plain(self.slots[frames]))

    # -- whose a frame is --------------------------------------------------------------------------

    def donate(self, first: int, count: int = 1) -> None:
        """Frames are a TD's from now on; a table that was in one is none any more."""
        run = slice(first, first + count)
        for frame in (first + np.flatnonzero(self.attention[run] & TABLE)).tolist():
            self.table_written(frame << PAGE_SHIFT, PAGE)
        self.attention[run] |= DONATED | FOREIGN

    def returned(self, first: int, count: int = 1) -> None:
        self.attention[first : first + count] &= 0xFF ^ DONATED

    def own_module_takes(self, area: Range) -> None:
        """A part of the PAMT is written."""
        first, last = area.base >> PAGE_SHIFT, min(area.end, self.size) >> PAGE_SHIFT
        self.donate(first, last - first)
        self.lines[first:last] = ALL_LINES
        self.spoilt[first:last] = 0

    def power_on(self, lost: Sequence[int]) -> None:
        """Zero everything; nothing belongs to anybody, but `lost` frames, which nobody gets back yet."""
        self.attention[:] = 0
        self._guard_module()
        self.clear(np.delete(np.arange(self.size >> PAGE_SHIFT), lost))
        self.attention[lost] |= DONATED | FOREIGN

    def leave(self, lost: Sequence[int]) -> None:
        """The guest host is gone: its GiBs go back to the level below, but for those with a frame in `lost`.

        May be said again, when less is lost.
        """
        kept = {int(self.slots[frame]) >> GIB_SHIFT for frame in lost}
        free = [gib for gib in self.gibs if gib not in kept]
        for gib in free:
            first = self._own_gib[gib] << GIB_SHIFT
            slots = self.slots[first : first + GIB_FRAMES]
            self.below.memory.clear(slots)
            if self.ram is not None:
                self.ram.left(slots)
        self.below.gibs.give(free)
        self.gibs = [gib for gib in self.gibs if gib in kept]

    # -- what is answered above --------------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        """Its own map refuses that, so nothing arrives at the level below."""
        return x86.not_present(address, self.size, write)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:  # pragma: no cover - likewise
        return self._peek(address, length)

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:  # pragma: no cover - likewise
        return self.poke(address, data)

    def table_written(self, address: int, length: int) -> None:
        raise NotImplementedError
