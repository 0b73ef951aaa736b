"""ASIDs: for each of them four masks of core complexes. Section 4.4 of the fact sheet.

An ASID is dirty on a complex until that complex was flushed, then clean, then allocated (bound to a guest
that is still being launched) or in use (its guest may run). The firmware keeps such a table, and so does
every emulation of it.
"""

from __future__ import annotations

from protocol.arch.sev.status import Status


class Asids:
    """ASIDs 1 to `count`; those below `min_sev` are for guests with encrypted registers.

    `cores` is a mask.
    """

    __slots__ = ("_allocated", "_clean", "_dirty", "_used", "cores", "count", "flushed", "min_sev")

    def __init__(self, count: int, min_sev: int, cores: int) -> None:
        self.count = count
        self.min_sev = min_sev
        self.cores = cores
        self.flushed = 0  # cores that executed WBINVD since that was last looked for
        self._dirty = [0] * (count + 1)
        self._clean = [cores] * (count + 1)
        self._allocated = [0] * (count + 1)
        self._used = [0] * (count + 1)

    def all_dirty(self) -> None:
        """As after an initialisation of the platform: nothing is bound, everything has to be flushed."""
        n = self.count + 1
        self._dirty = [self.cores] * n
        self._clean, self._allocated, self._used = [0] * n, [0] * n, [0] * n
        self.flushed = 0

    def wbinvd(self, core: int) -> None:
        self.flushed |= 1 << core

    def flush(self) -> Status:
        """DF_FLUSH: complexes whose cores all wrote back become clean, even where others are missing."""
        for asid in range(1, self.count + 1):
            done = self._dirty[asid] & self.flushed
            if done:
                self._dirty[asid] ^= done
                self._clean[asid] |= done
        return Status.SUCCESS if self.flushed == self.cores else Status.WBINVD_REQUIRED

    def refusal(self, asid: int) -> Status:
        """What ACTIVATE says about an ASID that is out of range or bound."""
        if not 1 <= asid <= self.count:
            return Status.INVALID_ASID.because("ASID 0 or out of range")
        if self._allocated[asid] | self._used[asid]:
            return Status.ASID_OWNED.because("ASID is bound")
        return Status.SUCCESS

    def unready(self, asid: int, cores: int, encrypted_registers: bool) -> Status:
        """What it says about a free one that cannot be taken just now, or not by this kind of guest."""
        if self._dirty[asid] & cores:
            return Status.DFFLUSH_REQUIRED
        if self._clean[asid] & cores != cores:  # pragma: no cover - sheet's order; neither bound nor dirty
            return Status.ASID_OWNED.because("ASID is not clean everywhere")
        if encrypted_registers is not (asid < self.min_sev):
            return Status.INVALID_ASID.because("wrong range for this kind of guest")
        return Status.SUCCESS

    def bind(self, asid: int, cores: int, running: bool) -> None:
        self._clean[asid] &= ~cores
        (self._used if running else self._allocated)[asid] |= cores

    def finish(self, asid: int) -> None:
        """The launch is done: the guest may run."""
        self._used[asid] |= self._allocated[asid]
        self._allocated[asid] = 0

    def release(self, asid: int) -> None:
        """DEACTIVATE: where the guest may have run, caches have to be written back and flushed again."""
        self._clean[asid] |= self._allocated[asid]
        self._dirty[asid] |= self._used[asid]
        self.flushed &= ~self._used[asid]
        self._allocated[asid] = self._used[asid] = 0

    def all_clean(self) -> bool:
        return all(clean == self.cores for clean in self._clean[1:])

    def may_run(self, asid: int, core: int) -> bool:
        return 1 <= asid <= self.count and bool(self._used[asid] >> core & 1)

    def in_use(self, asid: int) -> bool:
        """May its guest have run?"""
        return bool(self._used[asid])

    def is_bound(self, asid: int) -> bool:
        return bool(self._allocated[asid] | self._used[asid])

    def bound(self) -> int:
        """How many are bound to a guest."""
        return sum(bool(a | u) for a, u in zip(self._allocated, self._used, strict=True))
