"""The reverse map table: its entries, and what instructions make of them. Section 5 of the fact sheet.

One `Rmp` is one table. The machine has the real one; an emulation keeps a soft one of its own for each
guest host, in that host's frames. Entries are numpy columns, and `rendered` gives them in the layout that
the table has in memory.

A 2 MiB entry is that of its first page; the other 511 are assigned and otherwise empty, so that they look
like Reclaim.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from protocol.arch.sev.structs import PAGE, RMP_COUNTERS, RMP_HEAD, TWO_MIB, NewState
from protocol.memory.columns import column

ASSIGNED, LARGE, IMMUTABLE, VMSA, VALIDATED = 1, 2, 4, 8, 16
SUBPAGES = 512
TAG_SHIFT = 36
METADATA_TAG, IOMMU_TAG = 1, 2

OK = 0
FAIL_INPUT = 1
FAIL_PERMISSION = 2
FAIL_INUSE = 3
FAIL_OVERLAP = 4
FAIL_SIZEMISMATCH = 6

NPF_PRESENT, NPF_WRITE, NPF_USER = 1, 2, 4
NPF_RMP = 1 << 31
NPF_ENC = 1 << 34
NPF_SIZEM = 1 << 35
NPF_VMPL = 1 << 36
READ, WRITE = 1, 2  # of a VMPL's permissions
NOT_VALIDATED = -1  # #VC in the guest, where an error code would be an exit


class PageState(IntEnum):
    """Section 5.2."""

    DEFAULT = 0
    HYPERVISOR = 1
    HV_FIXED = 2
    RECLAIM = 3
    FIRMWARE = 4
    FIRMWARE_IOMMU = 5
    CONTEXT = 6
    METADATA = 7
    PRE_GUEST = 8
    PRE_SWAP = 9
    GUEST_INVALID = 10
    GUEST_VALID = 11


class Rmp:
    """The table of a machine, or of a guest host, with `frames` pages of memory. Empty until `build`."""

    def __init__(self, frames: int, asid_limit: int) -> None:
        self.frames = frames
        self.asid_limit = asid_limit
        self.covered = 0  # pages from address 0 on that have an entry; beyond is Default
        self.base = self.end = 0  # where the table lies: [base, end)
        self.busy: set[int] = set()  # a command of the firmware works on them
        self.running: set[int] = set()  # VMSAs of VCPUs that run just now
        self.flags = np.zeros(0, np.uint8)
        self._allocate(0)

    def _allocate(self, frames: int) -> None:
        self.flags = column(frames, np.uint8)
        self.asid = column(frames, np.uint32)
        self.gpa = column(frames, np.uint64)  # page number, or a tag of the firmware's and a value
        self.perms = column(frames, np.uint32)
        self._flags, self._asid = _view(self.flags), _view(self.asid)
        self._gpa, self._perms = _view(self.gpa), _view(self.perms)
        self.counters = np.zeros(self.asid_limit, np.int64)  # pages of 4 KiB of each ASID
        self._counters = _view(self.counters)

    # -- the table as a whole ---------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        return self.covered > 0

    def build(self, base: int, end: int, usable: np.ndarray) -> None:
        """SNP_INIT: `usable` says of each page of memory whether it is DRAM that the hypervisor may use."""
        self.base, self.end = base, end
        self.covered = (end - base - RMP_HEAD) // 16
        self._allocate(min(self.covered, self.frames))
        self.flags[~usable[: len(self.flags)]] = IMMUTABLE
        self.flags[base // PAGE : end // PAGE] = ASSIGNED | IMMUTABLE
        self.busy.clear()
        self.running.clear()

    def drop(self) -> None:
        """As after a reset: no table."""
        self.covered = self.base = self.end = 0
        self._allocate(0)
        self.busy.clear()
        self.running.clear()

    def covers_itself(self, base: int, end: int) -> bool:
        return base + RMP_HEAD < end <= self.frames * PAGE and end // PAGE <= (end - base - RMP_HEAD) // 16

    # -- looking ----------------------------------------------------------------------------------------

    def state(self, frame: int) -> PageState:
        if frame >= self.covered:
            return PageState.DEFAULT
        if frame >= len(self._flags):
            return PageState.HV_FIXED
        flags = self._flags[frame]
        if not flags & ASSIGNED:
            return PageState.HV_FIXED if flags & IMMUTABLE else PageState.HYPERVISOR
        if self._asid[frame]:
            if flags & IMMUTABLE:
                return PageState.PRE_SWAP if flags & VALIDATED else PageState.PRE_GUEST
            return PageState.GUEST_VALID if flags & VALIDATED else PageState.GUEST_INVALID
        if not flags & IMMUTABLE:
            return PageState.RECLAIM
        if flags & VMSA:
            return PageState.CONTEXT
        return _TAGGED.get(self._gpa[frame] >> TAG_SHIFT, PageState.FIRMWARE)

    def head(self, frame: int) -> int:
        """The page whose entry speaks for `frame`."""
        first = frame & ~(SUBPAGES - 1)
        if first < len(self._flags) and self._flags[first] & LARGE:
            return first
        return frame

    def large(self, frame: int) -> bool:
        return frame < len(self._flags) and bool(self._flags[frame] & LARGE)

    def assigned(self, frame: int) -> bool:
        return frame < len(self._flags) and bool(self._flags[frame] & ASSIGNED)

    def any_assigned(self, first: int, count: int) -> int | None:
        """The first assigned page of a range, or None."""
        found = np.flatnonzero(self.flags[first : first + count] & ASSIGNED)
        return first + int(found[0]) if found.size else None

    def immutable(self, frame: int) -> bool:
        return self.state(frame) is PageState.HV_FIXED or (
            frame < len(self._flags) and bool(self._flags[frame] & IMMUTABLE)
        )

    def asid_of(self, frame: int) -> int:
        return self._asid[frame]

    def gpa_of(self, frame: int) -> int:
        return self._gpa[frame] << 12

    def perms_of(self, frame: int) -> int:
        return self._perms[frame]

    def flags_of(self, frame: int) -> int:
        return self._flags[frame]

    def metadata_owner(self, frame: int) -> int:
        """The frame of the context that a metadata page belongs to."""
        return self._gpa[frame] & (1 << TAG_SHIFT) - 1

    def pages_of(self, asid: int) -> int:
        return self._counters[asid] if asid < len(self.counters) else 0

    def assigned_pages(self) -> int:
        """All assigned entries but those of the table's own pages."""
        own = (self.end - self.base) // PAGE
        return int(np.count_nonzero(self.flags & ASSIGNED)) - own if self.live else 0

    # -- the table as memory ----------------------------------------------------------------------------

    def rendered(self, address: int, length: int) -> bytes:
        """Bytes of [address, address + length), which lies inside the table."""
        offset = address - self.base
        head = b""
        if offset < RMP_HEAD:
            counters = self.counters[:RMP_COUNTERS].astype("<u8").tobytes().ljust(RMP_HEAD, b"\0")
            head = counters[offset : min(offset + length, RMP_HEAD)]
            offset, length = offset + len(head), length - len(head)
        if not length:
            return head
        first, last = (offset - RMP_HEAD) // 16, (offset + length - 1 - RMP_HEAD) // 16
        entries = self.entries(first, last - first + 1)
        skip = (offset - RMP_HEAD) % 16
        return head + entries[skip : skip + length]

    def entries(self, first: int, count: int) -> bytes:
        """`count` entries in the layout of section 5.1. The count of sub-pages is always zero."""
        here = slice(first, first + count)
        flags = self.flags[here].astype(np.uint64)
        raw = np.zeros((count, 2), "<u8")
        n = len(flags)
        raw[:n, 0] = (
            flags & 7 | self.gpa[here] << 12 | self.asid[here].astype(np.uint64) << 51 | (flags >> 3) << 61
        )
        raw[:n, 1] = self.perms[here]
        raw[n:, 0] = IMMUTABLE  # no memory is there
        return raw.tobytes()

    # -- writing one entry ------------------------------------------------------------------------------

    def put(self, frame: int, flags: int, asid: int = 0, gpa: int = 0, perms: int = 0) -> None:
        """Store an entry; `gpa` is a page number or a tag and a value. A 2 MiB entry has its followers."""
        old = self._flags[frame]
        if old & LARGE and not flags & LARGE:
            self.flags[frame + 1 : frame + SUBPAGES] = 0
        self._count(frame, -1)
        self._flags[frame], self._asid[frame] = flags, asid
        self._gpa[frame], self._perms[frame] = gpa, perms
        self._count(frame, 1)
        if flags & LARGE and not old & LARGE:
            self._only_assigned(frame + 1, SUBPAGES - 1)

    def change(self, frame: int, set_: int = 0, clear: int = 0) -> None:
        """Set and clear flags of an entry, all but its size."""
        self._flags[frame] = self._flags[frame] & ~clear | set_

    def set_perms(self, frame: int, perms: int) -> None:
        self._perms[frame] = perms

    def _only_assigned(self, first: int, count: int) -> None:
        here = slice(first, first + count)
        self.flags[here] = ASSIGNED
        self.asid[here] = self.gpa[here] = self.perms[here] = 0

    def _count(self, frame: int, sign: int) -> None:
        asid = self._asid[frame]
        if asid:
            self._counters[asid] += sign * (SUBPAGES if self._flags[frame] & LARGE else 1)

    # -- the hypervisor's instructions ------------------------------------------------------------------

    def update(self, address: int, new: NewState) -> int:
        """RMPUPDATE: the code in RAX."""
        code = self.update_refusal(address, new)
        if code == OK:
            self.apply(address >> 12, new)
        return code

    def update_refusal(self, address: int, new: NewState) -> int:
        """The order of codes is a guess (input, in use, permission, overlap); the sheet gives the codes."""
        frame, count = address >> 12, SUBPAGES if new.large else 1
        if address % (TWO_MIB if new.large else PAGE) or frame + count > self.covered:
            return FAIL_INPUT
        if new.gpa % (TWO_MIB if new.large else PAGE) or new.gpa >> 51 or new.asid >= self.asid_limit:
            return FAIL_INPUT
        if frame + count > len(self._flags):
            return FAIL_PERMISSION  # no memory: fixed
        if self.is_busy(frame, count):
            return FAIL_INUSE
        if not new.assigned and (new.asid or new.immutable):
            return FAIL_PERMISSION
        if new.assigned and not new.asid and new.gpa:
            return FAIL_PERMISSION  # such entries mean something to the firmware
        here = self.flags[frame : frame + count]
        if (here & (ASSIGNED | IMMUTABLE) == IMMUTABLE).any() or self._flags[frame] & IMMUTABLE:
            return FAIL_PERMISSION
        head = self.head(frame)
        if self._flags[head] & LARGE:
            return OK if new.large and head == frame else FAIL_OVERLAP
        return FAIL_OVERLAP if new.large and (here[1:] & ASSIGNED).any() else OK

    def apply(self, frame: int, new: NewState) -> None:
        """What RMPUPDATE does: a change of ASID, GPA, size or assignment makes the page invalid."""
        if not new.assigned:
            self.put(frame, 0)
            return
        flags = ASSIGNED | (LARGE if new.large else 0) | (IMMUTABLE if new.immutable else 0)
        old = self._flags[frame]
        same = (
            old & (ASSIGNED | LARGE) == flags & (ASSIGNED | LARGE)
            and self._asid[frame] == new.asid
            and self._gpa[frame] == new.gpa >> 12
        )
        if same:
            self.put(frame, flags | old & (VALIDATED | VMSA), new.asid, new.gpa >> 12, self._perms[frame])
        else:
            self.put(frame, flags, new.asid, new.gpa >> 12)

    def assign_each(self, frames: np.ndarray, asid: int, pages: np.ndarray) -> None:
        """RMPUPDATE of unassigned frames of 4 KiB, in one step: each becomes Guest-Invalid at its page."""
        self.flags[frames] = ASSIGNED
        self.asid[frames], self.gpa[frames], self.perms[frames] = asid, pages, 0
        self.counters[asid] += frames.size

    def release_each(self, frames: np.ndarray, asid: int) -> None:
        """RMPUPDATE of small pages of a guest's, in one step: they are the hypervisor's again."""
        self.flags[frames] = 0
        self.asid[frames] = self.gpa[frames] = self.perms[frames] = 0
        self.counters[asid] -= frames.size

    def free_each(self, frames: np.ndarray) -> bool:
        """Would RMPUPDATE give each of these frames to a guest?"""
        if self.busy or self.running or not frames.size or int(frames.max()) >= len(self.flags):
            return False
        return not self.flags[frames].any()

    def owned_each(self, frames: np.ndarray, asid: int) -> bool:
        """Are these small pages of the guest with this ASID, which RMPUPDATE would take from it?"""
        if self.busy or self.running or not frames.size or int(frames.max()) >= len(self.flags):
            return False
        alike = self.flags[frames] & (ASSIGNED | LARGE | IMMUTABLE) == ASSIGNED
        return bool(alike.all() and (self.asid[frames] == asid).all())

    def smash(self, address: int) -> int:
        """PSMASH: the code in RAX. What is no 2 MiB entry is FAIL_INPUT (guess: the sheet says "nonzero")."""
        code = self.smash_refusal(address)
        if code == OK:
            self.split(address >> 12)
        return code

    def smash_refusal(self, address: int) -> int:
        frame = address >> 12
        if address % TWO_MIB or frame + SUBPAGES > len(self._flags):
            return FAIL_INPUT
        if self.is_busy(frame, SUBPAGES):
            return FAIL_INUSE
        return OK if self._flags[frame] & LARGE else FAIL_INPUT

    def split(self, frame: int) -> None:
        here = slice(frame, frame + SUBPAGES)
        self.flags[here] = self._flags[frame] & ~LARGE
        self.asid[here] = self._asid[frame]
        self.perms[here] = self._perms[frame]
        self.gpa[here] = self._gpa[frame] + np.arange(SUBPAGES, dtype=np.uint64)

    def join(self, frame: int) -> None:
        """PAGE_UNSMASH: 512 entries become one; whether they may was looked at before."""
        flags, asid = self._flags[frame], self._asid[frame]
        gpa, perms = self._gpa[frame], self._perms[frame]
        self._only_assigned(frame + 1, SUBPAGES - 1)
        self._flags[frame] = flags | LARGE
        self._asid[frame], self._gpa[frame], self._perms[frame] = asid, gpa, perms

    def is_busy(self, frame: int, count: int = 1) -> bool:
        if not self.busy and not self.running:
            return False
        head = self.head(frame)
        return any(one == head or frame <= one < frame + count for one in self.busy | self.running)

    # -- what a guest meets -----------------------------------------------------------------------------

    def private_fault(
        self, frame: int, leaf_large: bool, asid: int, page: int, vmpl: int, write: bool
    ) -> int:
        """Of a private access to guest page `page`:

        0, NOT_VALIDATED, or bits of the nested fault's error code.
        """
        wrong, head = self._mismatch(frame, leaf_large, asid, page)
        if wrong:
            return wrong
        if not self._flags[head] & VALIDATED:
            return NOT_VALIDATED
        if vmpl and not self._perms[head] >> 8 * vmpl & (WRITE if write else READ):
            return NPF_RMP | NPF_ENC | NPF_VMPL
        return 0

    def unprotected_fault(self, frame: int, leaf_large: bool, private: bool, write: bool) -> int:
        """Of an access by a guest that is not SNP: to the RMP it is what the hypervisor is."""
        if not write:
            return 0
        inside = frame & ~(SUBPAGES - 1)
        taken = self.any_assigned(inside, SUBPAGES) is not None if leaf_large else self.assigned(frame)
        return NPF_RMP | (NPF_ENC if private else 0) if taken else 0

    def _mismatch(self, frame: int, leaf_large: bool, asid: int, page: int) -> tuple[int, int]:
        """Is the entry behind a private page not this guest's, or immutable, or smaller than its mapping?"""
        head = self.head(frame)
        flags = self._flags[head]
        if flags & (ASSIGNED | IMMUTABLE) != ASSIGNED or self._asid[head] != asid:
            return NPF_RMP | NPF_ENC, head
        if self._gpa[head] + (frame - head) != page or (leaf_large and not flags & LARGE):
            return NPF_RMP | NPF_ENC, head
        return 0, head

    def pvalidate(
        self, frame: int, leaf_large: bool, asid: int, page: int, large: bool, validate: bool
    ) -> tuple[int, int, bool]:
        """(bits of a nested fault or 0, RAX, carry: nothing changed)."""
        if large and not leaf_large and not self.large(self.head(frame)):
            wrong, _ = self._mismatch(frame, False, asid, page)
            return (wrong, 0, False) if wrong else (0, FAIL_SIZEMISMATCH, False)
        wrong, head = self._mismatch(frame, leaf_large, asid, page)
        if wrong:
            return wrong, 0, False
        if self._flags[head] & LARGE and not large:
            return NPF_RMP | NPF_ENC | NPF_SIZEM, 0, False
        if bool(self._flags[head] & VALIDATED) is validate:
            return 0, OK, True
        self.change(head, VALIDATED if validate else 0, 0 if validate else VALIDATED)
        return 0, OK, False

    def rmpadjust(
        self, frame: int, leaf_large: bool, asid: int, page: int, large: bool, vmpl: int, rdx: int
    ) -> tuple[int, int]:
        """(NOT_VALIDATED, bits of a nested fault or 0; RAX).

        Operands that need no entry were looked at before.
        """
        wrong, head = self._mismatch(frame, leaf_large, asid, page)
        if wrong:
            return wrong, 0
        flags = self._flags[head]
        if flags & LARGE and not large:
            return NPF_RMP | NPF_ENC | NPF_SIZEM, 0
        if large and not flags & LARGE:
            return 0, FAIL_SIZEMISMATCH
        if not flags & VALIDATED:
            return NOT_VALIDATED, 0
        target, perms = rdx & 0xFF, rdx >> 8 & 0xFF
        if vmpl and perms & ~(self._perms[head] >> 8 * vmpl & 0xFF):
            return 0, FAIL_PERMISSION
        shift = 8 * target
        self._perms[head] = self._perms[head] & ~(0xFF << shift) | perms << shift
        if not vmpl:
            self.change(head, VMSA if rdx >> 16 & 1 else 0, VMSA)
        return 0, OK


def _view(column: np.ndarray) -> memoryview:
    """Single elements of a column, faster than numpy gives them."""
    return memoryview(column)  # type: ignore[arg-type]


_TAGGED = {METADATA_TAG: PageState.METADATA, IOMMU_TAG: PageState.FIRMWARE_IOMMU}
