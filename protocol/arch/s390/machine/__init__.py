"""The real thing: Ultravisor, SIE and storage of one emulated machine. Its host is L0.

Theory of operation. Bytes lie in `Physical`; the page table of states is three numpy columns (state, owner,
guest page) that only this package touches. A frame's bytes are in RAM while a host may reach them and in the
vault while the Ultravisor or a secure guest owns them. Every call goes through `Front.uvc` and lands in a
handler named by the call table; SIE is in `sie`. Handlers check first and change afterwards, so a call that
fails has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.front import Front
from protocol.arch.s390.guest import Program
from protocol.arch.s390.machine.entities import Config, PageState, SecureCpu, counted
from protocol.arch.s390.machine.pieces import Pieces
from protocol.arch.s390.machine.sie import Sie
from protocol.arch.s390.profiles import Profile
from protocol.arch.s390.structs import Outcome, SieExit
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.columns import column
from protocol.memory.physical import Physical
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT, Store
from protocol.nesting.locks import Locks

_REFUSES = int(PageState.SECURE)  # a plain number: every access of a host is compared with it


class Handles:
    """Opaque numbers, never zero and never used again, from the seed and how many were made.

    Siblings that have a machine each draw from one source: so they have handles of their own, and those that
    they would have on one machine.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._made = {"config": 0, "cpu": 0}

    def new(self, kind: str) -> int:
        self._made[kind] += 1
        text = f"{self._seed}:{kind}:{self._made[kind]}".encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") | 1


class Machine(Front):
    """Level 0. `size` is the end of storage in bytes; `seed` makes keys, `handles` is shared by siblings."""

    def __init__(
        self,
        profile: Profile,
        memory_bytes: int,
        cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        ledger: Ledger,
        seed: int = 0,
        ram: Store | None = None,
        handles: Handles | None = None,
    ) -> None:
        self.profile = profile
        self.size = memory_bytes
        self.cpus = list(cpus)
        self.ledger = ledger
        self.seed = seed
        self.handles = handles or Handles(seed)
        self.tod = 0
        self.locks = Locks()
        installed = profile.installed(calls)
        self.calls = {code: spec for code, spec in installed.items() if spec.for_host()}
        self.guest_calls = {code: spec for code, spec in installed.items() if spec.for_guest()}
        self.storage = Physical(memory_bytes >> PAGE_SHIFT, ram)
        self.state = column(self.storage.frames, np.uint8)
        self.owner = column(self.storage.frames, np.uint32)
        self.guest_page = column(self.storage.frames, np.uint32)
        self.states = self.state.data
        self.sie = Sie(self)
        self.pieces = Pieces(profile.pages_per_piece)
        self._serial = 0
        self._forget()

    def _forget(self) -> None:
        self.ready = False
        self.base = range(0)
        self.configs: dict[int, Config] = {}
        self.secure_cpus: dict[int, SecureCpu] = {}
        self.by_serial: dict[int, Config] = {}
        self.asces: set[int] = set()  # of all configurations
        self.locks.clear()
        self.pieces.clear()

    # -- the level -------------------------------------------------------------------------------------------

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        """The instruction UVC."""
        return self.uvc(cpu, r2, m3, m4, park)

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        """The instruction SIE.

        `program` is what the guest's memory says it does, `level` the guest's level.
        """
        return self.sie.enter(cpu, block, program, stay, level)

    def read(self, address: int, length: int) -> bytes | Fault:
        if address < 0 or address + length > self.size:
            return z.program(z.ADDRESSING, max(address, self.size))
        if (address & OFFSET) + length <= PAGE:
            if self.states[address >> PAGE_SHIFT] >= _REFUSES:
                return z.program(z.SECURE_ACCESS, address)
        elif (fault := self._refused(address, length, write=False)) is not None:
            return fault
        return self.storage.read(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        length = len(data)
        if address < 0 or address + length > self.size:
            return z.program(z.ADDRESSING, max(address, self.size), True)
        if (address & OFFSET) + length <= PAGE:
            if self.states[address >> PAGE_SHIFT] >= _REFUSES:
                return z.program(z.SECURE_ACCESS, address, True)
        elif (fault := self._refused(address, length, write=True)) is not None:
            return fault
        self.storage.write(address, data)
        return None

    peek = read
    poke = write

    def refusal(self, address: int, length: int) -> Fault | None:
        """What a store to this range would answer."""
        if address < 0 or address + length > self.size:
            return z.program(z.ADDRESSING, max(address, self.size), True)
        return self._refused(address, max(length, 1), True)

    def _refused(self, address: int, length: int, write: bool) -> Fault | None:
        first, last = address >> PAGE_SHIFT, (address + length - 1) >> PAGE_SHIFT
        if first == last:
            return z.program(z.SECURE_ACCESS, address, write) if self.states[first] >= _REFUSES else None
        bad = np.flatnonzero(self.state[first : last + 1] >= PageState.SECURE)
        if not bad.size:
            return None
        return z.program(z.SECURE_ACCESS, max(address, (first + int(bad[0])) << PAGE_SHIFT), write)

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero frames that the host owns."""
        self.storage.clear_many(np.asarray(frames, np.int64))

    def move(self, old: int, new: int) -> None:
        """Put the contents of one frame of the host's into another."""
        self.storage.swap_homes(old, new)

    # -- what the checks look at -----------------------------------------------------------------------------

    def usable(self, first: int, count: int) -> bool:
        if first < 0 or first + count > self.storage.frames:
            return False
        return not self.state[first : first + count].any()

    def accessible(self, address: int) -> bool:
        return 0 <= address < self.size and self.states[address >> PAGE_SHIFT] < PageState.SECURE

    def configs_in_use(self) -> int:
        return len(self.configs)

    def asce_in_use(self, asce: int) -> bool:
        return asce in self.asces

    def numbers_in_use(self, config: int) -> Iterable[int]:
        return [secure.number for secure in self.configs[config].cpus]

    def known(self, kind: str, handle: int) -> bool:
        return handle in (self.configs if kind == "config" else self.secure_cpus)

    def perform(self, spec: CallSpec, cpu: Cpu, block: bytes) -> Outcome:
        if not cpu.origin:
            self.ledger.count(("te_calls", spec.name, spec.category, "own", "0"))
        self.ledger.count(("te_issued", spec.name, str(cpu.origin)))
        assert spec.handler is not None
        outcome: Outcome = spec.handler(self, cpu, block)
        return outcome

    # -- what handlers share ---------------------------------------------------------------------------------

    def new_serial(self) -> int:
        self._serial += 1
        return self._serial

    def donate(self, frames: np.ndarray | range) -> None:
        """The Ultravisor takes frames: no host reaches them until `release`."""
        listed = np.asarray(frames)
        self.state[listed] = PageState.DONATED

    def release(self, frames: np.ndarray | range) -> None:
        """Donated frames become the host's again, readable and zero."""
        listed = np.asarray(frames)
        self.state[listed] = PageState.NORMAL
        self.storage.vault_clear_many(listed)
        self.storage.clear_many(listed)

    def statistics(self) -> dict[str, Any]:
        """What there is, for the audit: looking changes nothing."""
        pages = counted(self.state)
        pinned = int(pages[PageState.PINNED])
        return {
            "te": {
                "configs": len(self.configs),
                "cpus": len(self.secure_cpus),
                "pins": pinned,
                "shared_pages": int(pages[PageState.SHARED]) + pinned,
            },
            "donated_pages": int(pages[PageState.DONATED]),
            "secure_pages": int(pages[PageState.SECURE]),
        }

    # -- the host is reset -----------------------------------------------------------------------------------

    def reset(self, clear_memory: bool) -> None:
        """A reset of the host (diag 308):

        every secure entity ends; what was donated or secure is zero (5.1).
        """
        for config in self.configs.values():
            config.cpus = ()
        taken = np.flatnonzero(self.state != PageState.NORMAL)
        self.release(taken)
        self.owner[taken] = 0
        self._forget()
        for cpu in self.cpus:
            cpu.reset()
        if clear_memory:
            self.storage.clear_many(range(self.storage.frames))
