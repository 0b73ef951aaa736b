"""What a firmware knows of its platform and its guests, but for their secrets:

sections 4.1 to 4.4 of the fact sheet.

The machine's firmware keeps these books, and every emulation keeps its own for its guest host: the checks
of all commands look at them and at nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from protocol.arch.sev.asids import Asids
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.profiles import TCB, Profile
from protocol.arch.sev.rmp import PageState, Rmp
from protocol.arch.sev.status import ES, ContextState, GuestState, SevState, SnpState
from protocol.memory.store import PAGE

MIB = 1 << 20
LOW_DRAM = 0xA0000  # end of conventional memory
HIGH_DRAM = MIB  # everything between is no DRAM; the first half of it is the SMM's


@dataclass(slots=True)
class Guest:
    """A legacy guest."""

    handle: int
    policy: int
    state: GuestState
    asid: int = 0

    @property
    def es(self) -> bool:
        return bool(self.policy & ES)


@dataclass(slots=True)
class Context:
    """An SNP guest; `frame` is its context page, which is its handle."""

    frame: int
    policy: int = 0
    state: ContextState = ContextState.INIT
    asid: int = 0
    imi: bool = False
    vcek_disabled: bool = False


G = TypeVar("G", bound=Guest)
C = TypeVar("C", bound=Context)


@dataclass(slots=True)
class Platform(Generic[G, C]):
    """Both state machines, and what belongs to one of them."""

    asids: Asids
    sev: SevState = SevState.UNINIT
    snp: SnpState = SnpState.UNINIT
    es: bool = False
    owned: bool = False  # externally
    tmr: range = range(0)
    nv: range = range(0)
    guests: dict[int, G] = field(default_factory=dict)
    contexts: dict[int, C] = field(default_factory=dict)
    rmp_valid: bool = False  # an initialisation need not build the RMP anew
    reported_tcb: bytes = TCB
    mask_chip_id: bool = False
    mask_chip_key: bool = False

    @property
    def snp_guests(self) -> int:
        """Counted from LAUNCH_START on, not from GCTX_CREATE."""
        return sum(context.state is not ContextState.INIT for context in self.contexts.values())

    def free_handle(self, handles: int) -> int:
        """The lowest free handle, or 0."""
        return next((n for n in range(1, handles + 1) if n not in self.guests), 0)


class View(Protocol):
    """One host's firmware as the checks look at it."""

    profile: Profile
    size: int
    rmp: Rmp

    @property
    def cpus(self) -> list[Cpu]: ...

    @property
    def platform(self) -> Platform[Any, Any]: ...

    def fetch(self, address: int, length: int) -> bytes:
        """Bytes as the firmware reads them."""
        ...


def fresh_platform(profile: Profile, cpus: Iterable[Cpu]) -> Platform[G, C]:
    cores = 0
    for cpu in cpus:
        cores |= 1 << cpu.core
    platform: Platform[G, C] = Platform(Asids(profile.asids, profile.min_sev_asid, cores))
    platform.owned = profile.owned
    return platform


def is_dram(size: int, address: int, length: int) -> bool:
    """Does [address, address + length) lie in one bank of memory? An empty range is judged by its address."""
    end = address + max(length, 1)
    return end <= LOW_DRAM if address < LOW_DRAM else address >= HIGH_DRAM and end <= size


def reachable(view: View, address: int, length: int) -> bool:
    """May a command name this range: DRAM, and neither the trusted region nor the RMP?"""
    if not is_dram(view.size, address, length):
        return False
    end = address + max(length, 1)
    tmr, rmp = view.platform.tmr, view.rmp
    if address < tmr.stop and tmr.start < end:
        return False
    return not (rmp.live and address < rmp.end and rmp.base < end)


def pages(address: int, length: int) -> range:
    """Numbers of the pages that a range touches; none if it is empty."""
    return range(address // PAGE, -(-(address + length) // PAGE)) if length else range(0)


def writable(view: View, address: int, length: int) -> bool:
    """May the firmware write these pages for the hypervisor? Without SNP it may write all."""
    if view.platform.snp is SnpState.UNINIT:
        return True
    return all(
        view.rmp.state(page) in (PageState.FIRMWARE, PageState.DEFAULT) for page in pages(address, length)
    )
