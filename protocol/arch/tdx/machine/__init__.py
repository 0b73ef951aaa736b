"""The real thing: TDX module, keys and memory of one emulated machine. Its host is L0.

Theory of operation. Bytes lie in `Physical`. The PAMT is the machine's page table of states, numpy columns
of `Platform`; beside it stand, for each frame, the TD-owner bits of its 64 lines and which of them are
poisoned. What a TD owns lies in the vault, so that a host reads a fixed pattern and never a secret. Every
call goes through `Front.seamcall` and lands in a generator named by the call table; a VCPU runs in `enter`.

Memory here follows section 5.2: a host's load of a line with the owner bit gives a pattern, its store
poisons the line, and whoever uses a poisoned line next takes a machine check. MOVDIR64B makes a line plain
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.front import Call, Front
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.machine.entities import Td, Vcpu
from protocol.arch.tdx.platform import FRAMES, PAGE_SHIFT, Platform
from protocol.arch.tdx.profiles import Profile, Range, cmrs_of, seamrr_of
from protocol.arch.tdx.tables import OpState, PageType
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.columns import column
from protocol.memory.physical import Physical
from protocol.memory.store import OFFSET, PAGE, Store

LINE = 64
ALL_LINES = (1 << 64) - 1
PATTERN = b"\0"  # what a load of somebody else's line gives; which pattern it is, is a guess
NOTHING = b"\xff"  # what a load of an address gives behind which there is no memory


class Machine(Front):
    """Level 0. `size` is the end of memory in bytes; `seed` makes keys, identities and what is random."""

    def __init__(
        self,
        profile: Profile,
        memory_bytes: int,
        lps: Sequence[Lp],
        calls: Mapping[int, CallSpec],
        ledger: Ledger,
        seed: int = 0,
        ram: Store | None = None,
    ) -> None:
        self.profile = profile
        self.size = memory_bytes
        self.lps = list(lps)
        self.ledger = ledger
        self.seed = seed
        self.offer(calls)
        frames = memory_bytes >> PAGE_SHIFT
        self.storage = Physical(frames, ram)
        self.owned = column(frames, np.uint64)
        self.poison = column(frames, np.uint64)
        self._owned, self._poison = self.owned.data, self.poison.data
        self.platform = Platform(
            profile, cmrs_of(memory_bytes), seamrr_of(memory_bytes), frames, len(self.lps)
        )
        self.tds: dict[int, Td] = {}
        self.vcpus: dict[int, Vcpu] = {}
        self.spoiled = False  # somebody stored to what is not his: from then on owners have to look
        self._made = 0

    def offer(self, calls: Mapping[int, CallSpec]) -> None:
        """Take the rows that this profile's module has: host leaves by number, guest leaves by theirs."""
        self.calls = self.profile.offered(calls)
        self.guest_calls = self.profile.offered_to_guests(calls)

    # -- the level ---------------------------------------------------------------------------------

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]:
        """The instruction SEAMCALL."""
        return self.seamcall(lp, r, park)

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]:
        """SEAMCALL with leaf TDH.VP.ENTER. `program` is what the guest's memory says it does."""
        return self.seamcall(lp, r, park, program, stay)

    def perform(self, spec: CallSpec, call: Call) -> Step[int]:
        origin = call.lp.origin
        if not origin:
            self.ledger.count(("te_calls", spec.name, spec.category, "own", "0"))
        self.ledger.count(("te_issued", spec.name, str(origin)))
        assert spec.handler is not None
        step: Step[int] = spec.handler(self, call)
        return step

    # -- accesses of the host's CPUs ---------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes | Fault:
        if self._leaves(address, length):
            return x86.not_present(address, self.size, write=False)
        return self._load(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if self._leaves(address, len(data)):
            return x86.not_present(address, self.size, write=True)
        self._store(address, data)
        return None

    def _leaves(self, address: int, length: int) -> bool:
        return address < 0 or address + length > self.size

    def _load(self, address: int, length: int) -> bytes | Fault:
        """Behind the end of memory, and in SEAMRR, all ones."""
        if address >= 0 and address + length <= self.size and (address & OFFSET) + length <= PAGE:
            frame = address >> PAGE_SHIFT
            if not self._owned[frame] and not self._poison[frame] and not self._module(address, length):
                return self.storage.read(address, length)
        parts = []
        for at, n in lines(address, length):
            part = self._load_line(at, n)
            if isinstance(part, Fault):
                return part
            parts.append(part)
        return b"".join(parts)

    def _load_line(self, at: int, n: int) -> bytes | Fault:
        if not 0 <= at < self.size or self._module(at, n):
            return NOTHING * n
        frame, bit = at >> PAGE_SHIFT, 1 << ((at & OFFSET) // LINE)
        if self._poison[frame] & bit:
            return x86.exception(x86.MC, at)
        return PATTERN * n if self._owned[frame] & bit else self.storage.read(at, n)

    def _store(self, address: int, data: bytes) -> None:
        """It succeeds always; a line that is somebody else's is poisoned by it."""
        inside = address >= 0 and address + len(data) <= self.size and (address & OFFSET) + len(data) <= PAGE
        if inside and not self._owned[address >> PAGE_SHIFT] and not self._module(address, len(data)):
            self.storage.write(address, data)
            return
        done = 0
        for at, n in lines(address, len(data)):
            if 0 <= at < self.size and not self._module(at, n):
                frame, bit = at >> PAGE_SHIFT, 1 << ((at & OFFSET) // LINE)
                if self._owned[frame] & bit:
                    self._poison[frame] |= bit
                    self.spoiled = True
                else:
                    self.storage.write(at, data[done : done + n])
            done += n

    def direct_store(self, address: int, data: bytes) -> Fault | None:
        """MOVDIR64B: a whole line at once. It is plain memory afterwards, whoever it belonged to."""
        if self._leaves(address, LINE):
            return x86.not_present(address, self.size, write=True)
        if not self._module(address, LINE):
            frame, keep = address >> PAGE_SHIFT, ALL_LINES ^ 1 << ((address & OFFSET) // LINE)
            self.spoiled = self.spoiled or bool(self._owned[frame])
            self._owned[frame] &= keep
            self._poison[frame] &= keep
            self.storage.write(address, data)
        return None

    # The module has addresses, and no map that would refuse one.

    def peek(self, address: int, length: int) -> bytes | Fault:
        if length > PAGE and self._leaves(address, length):  # it loads no more at a time: somebody else does
            return x86.not_present(address, self.size, write=False)
        return self._load(address, length)

    def poke(self, address: int, data: bytes) -> Fault | None:
        self._store(address, data)
        return None

    def _module(self, address: int, length: int) -> bool:
        """Does the range lie in SEAMRR?"""
        seamrr = self.platform.seamrr
        return address < seamrr.end and seamrr.base < address + length

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero frames with direct stores: they are plain memory afterwards."""
        listed = np.asarray(frames, np.int64)
        self.owned[listed] = 0
        self.poison[listed] = 0
        self.storage.clear_many(listed)

    def plain(self, frames: np.ndarray) -> bool:
        """Is there no line of somebody else in these frames?"""
        return not self.owned[frames].any()

    # -- memory of the module and of TDs -----------------------------------------------------------

    def seize(self, frame: int, size: int = 0) -> None:
        """The module writes a page, or a large one, for a TD or for itself: all of its lines are owned."""
        if size:
            run = slice(frame, frame + FRAMES[size])
            self.owned[run] = ALL_LINES
            self.poison[run] = 0
        else:
            self._owned[frame] = ALL_LINES
            self._poison[frame] = 0

    def give(self, td: Td, frame: int, kind: PageType, size: int = 0) -> None:
        """A free page, or a large one, becomes the TD's."""
        self.platform.assign(frame, kind, td.frame, size)
        td.children += FRAMES[size]
        self.seize(frame, size)

    def take_back(self, td: Td, frame: int, size: int = 0) -> None:
        """A page of the TD's is free again."""
        self.platform.free(frame, size)
        td.children -= FRAMES[size]
        self.forget(frame, size)

    def broken(self, frame: int, offset: int = 0, length: int = PAGE) -> bool:
        """Would its owner take a machine check on these bytes? Poison, or a line that is not its own."""
        if not self.spoiled or (self._owned[frame] == ALL_LINES and not self._poison[frame]):
            return False
        first, last = offset // LINE, (offset + length - 1) // LINE
        lines = (1 << (last + 1)) - (1 << first)
        return bool(self._poison[frame] & lines) or self._owned[frame] & lines != lines

    def pamt_written(self, area: Range) -> None:
        first, last = area.base >> PAGE_SHIFT, min(area.end >> PAGE_SHIFT, self.storage.frames)
        self.owned[first:last] = ALL_LINES
        self.poison[first:last] = 0

    def forget(self, frame: int, size: int = 0) -> None:
        """A page is nobody's any more: its secrets go; its owner bits stay until the host writes it anew."""
        for each in range(frame, frame + FRAMES[size]):
            self.storage.vault_clear(each)

    def new_secret(self, purpose: str, length: int) -> bytes:
        """Bytes that depend on the seed and on how many were asked for: what the machine draws at random."""
        self._made += 1
        return blake2b(f"{self.seed}:{purpose}:{self._made}".encode(), digest_size=length).digest()

    def stage(self, tdr: int, state: OpState) -> str:
        """Put a TD into an op state, as if calls of section 2.6 had led there with an empty image."""
        td = self.tds.get(tdr >> PAGE_SHIFT) if not tdr & OFFSET else None
        if td is None or td.op_state is OpState.UNINITIALIZED:
            return "the TDR of a TD that is initialised"
        if td.op_state is OpState.INITIALIZED and state > OpState.INITIALIZED and td.hashing is not None:
            td.mrtd = td.hashing.digest()
        td.op_state = state
        return ""

    # -- the machine restarts ----------------------------------------------------------------------

    def reset(self) -> None:
        """Power on: every TD is gone and all keys with them, memory is zero, the module is freshly loaded."""
        self.tds.clear()
        self.vcpus.clear()
        self.platform.handoff_valid = False
        self.platform.reload()
        self.owned[:] = 0
        self.poison[:] = 0
        self.spoiled = False
        self.storage.vault_clear_many(np.arange(self.storage.frames))
        self.storage.clear_many(np.arange(self.storage.frames))
        for lp in self.lps:
            lp.reset()


def lines(address: int, length: int) -> list[tuple[int, int]]:
    """Split [address, address + length) at the borders of lines."""
    parts = []
    while length > 0:
        n = min(length, LINE - address % LINE)
        parts.append((address, n))
        address, length = address + n, length - n
    return parts
