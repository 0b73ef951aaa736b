"""What the Ultravisor knows about secure guests: configurations and CPUs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from protocol.arch.s390.image import Digests, ExportKey, Unsealed


class ConfigState(IntEnum):
    """Section 5.2. The names are ours, the transitions are sourced."""

    CREATED = 0
    PARAMS_SET = 1
    UNPACKING = 2
    VERIFIED = 3
    RUNNING = 4
    UNSHARED = 5
    RESET_PREPARED = 6


class CpuState(IntEnum):
    """Operand of CPU Set State, section 5.3. LOAD is operating, with the PSW to be loaded."""

    OPERATING = 1
    STOPPED = 2
    CHECK_STOP = 3
    LOAD = 5


class ResetDone(IntEnum):
    """What a CPU went through since its configuration's reset was prepared."""

    NONE = 0
    NORMAL = 1
    INITIAL_OR_CLEAR = 2


class PageState(IntEnum):
    """Section 5.5, as one column of the machine's page table. SECURE and above refuse the host."""

    NORMAL = 0
    SHARED = 1
    PINNED = 2
    SECURE = 3
    DONATED = 4


def counted(states: np.ndarray) -> np.ndarray:
    """How many of many frames have each state, but for NORMAL, which most have and nobody asks for."""
    return np.bincount(states[states != PageState.NORMAL], minlength=len(PageState))


CLEAR = (0,) * 16  # general registers: one tuple for all CPUs that have done nothing yet


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that its guest may list; a plaintext one it may retrieve, too."""

    kind: int
    id: bytes
    value: bytes


@dataclass(slots=True)
class SecretStore:
    """What owners gave to one configuration. `extension` came with the first request; all repeat it."""

    secrets: list[Secret] = field(default_factory=list)
    extension: bytes | None = None
    locked: bool = False


@dataclass(slots=True)
class Dump:
    """A dump in progress.

    `sealed` counts what was encrypted under its key: no initialisation vector comes twice.
    """

    seed: bytes
    key: bytes
    sealed: int = 0

    def next_iv(self) -> bytes:
        self.sealed += 1
        return self.sealed.to_bytes(12, "big")


@dataclass(slots=True)
class Config:
    """A configuration.

    `resident` maps a guest page to its frame + 1, as far up as the guest has had one; `exported` holds what
    proves a page outside.
    """

    serial: int
    handle: int
    mso: int
    length: int
    asce: int
    base: range
    variable: np.ndarray | range
    seed: int  # the machine's
    resident: np.ndarray
    issued_on: int  # number of the host's CPU that created it: the audit tells guest hosts apart by it
    state: ConfigState = ConfigState.CREATED
    reset_pending: bool = False
    cpus: tuple[SecureCpu, ...] = ()
    exported: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    shared: dict[int, None] = field(default_factory=dict)  # frames, pinned ones too
    generation: int = 0
    params: Unsealed | None = None
    digests: Digests | None = None
    made_store: SecretStore | None = None
    dump: Dump | None = None
    dumps: int = 0  # how many were begun
    dump_disabled: bool = False  # by an add-secret request, for as long as the configuration lives

    @property
    def pages(self) -> int:
        return self.length >> 12

    def is_resident(self, page: int) -> bool:
        return page < self.resident.size and bool(self.resident[page])

    def reach(self, page: int) -> None:
        """Have room in `resident` for a page of the guest."""
        size = self.resident.size
        if page >= size:
            grown = np.zeros(min(self.pages, max(2 * size, page + 1)), np.uint32)
            grown[:size] = self.resident
            self.resident = grown

    # Most guests never need these two.

    @property
    def store(self) -> SecretStore:
        """What owners gave, to look at."""
        return self.made_store or SecretStore()

    def own_store(self) -> SecretStore:
        """The same, to be changed."""
        if self.made_store is None:
            self.made_store = SecretStore()
        return self.made_store

    @property
    def key(self) -> ExportKey:
        from protocol.arch.s390.image import export_key

        return export_key(self.seed, self.handle)


@dataclass(slots=True)
class SecureCpu:
    """A secure CPU. `timer` is the CPU timer at the last exit (None: not looked at), `tod` the clock then."""

    handle: int
    config: Config
    number: int
    storage: range
    block: int
    state: CpuState = CpuState.STOPPED
    prefix: int = 0
    gprs: tuple[int, ...] = CLEAR
    timer: int | None = None
    guest_timer: int = 0
    tod: int = 0
    problem_state: bool = False
    psw: bytes = bytes(16)
    inside: bool = False
    reset_done: ResetDone = ResetDone.NONE  # since Prepare Reset
    completing: int | None = None  # the diagnose code of a 104 that the next entry finishes
    enabled: tuple[int, ...] = ()  # injections that what the guest left for has opened
    after_notice: bool = False

    def clear(self, registers: bool) -> None:
        """What a CPU reset does: initial reset keeps the general registers, clear reset does not."""
        self.prefix = 0
        self.psw = bytes(16)
        self.problem_state = False
        self.timer = None
        self.completing = None
        self.enabled, self.after_notice = (), False
        self.guest_timer = 0
        if registers:
            self.gprs = CLEAR

    def set_gpr(self, number: int, value: int) -> None:
        self.gprs = (*self.gprs[:number], value, *self.gprs[number + 1 :])
