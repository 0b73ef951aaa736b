"""A TDX host's software in a plan: what Linux, KVM and QEMU do, in their order. Section 6 of the sheet.

A `Host` stands on any level: the machine, or an emulation that is asked by message. It owns its memory
through a pool of its own frames: behind the PAMT.

Pages have 4 KiB, as Linux adds no larger ones (6.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from protocol.arch.tdx.cpu import Lp
from protocol.arch.tdx.host.attest import answer
from protocol.arch.tdx.host.module import Failed, Module, tdmr
from protocol.arch.tdx.host.perform import ACTS
from protocol.arch.tdx.host.vm import GuestFailed, Vm
from protocol.arch.tdx.machine.report import report_key
from protocol.arch.tdx.runs import Level, here
from protocol.effects import Fault, Step
from protocol.errors import OperationFailed
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.plan import operations as op
from protocol.plan.acting import Acting, act_of
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.tdx.quote import QuotingEnclave


class Kernel(NamedTuple):
    """A kernel that is up already, and has a hypervisor beside: the frames and the KeyIDs of its own TDs."""

    pool: Pool
    keys: list[int]


class Host(Acting[Vm]):
    """One secure host. `depth` is its own level, 0 for L0; `image` is what its guests are loaded with."""

    def __init__(
        self,
        level: Any,
        lps: Sequence[Lp],
        *,
        depth: int,
        image: bytes | None = None,
        book: Book | None = None,
        bulk: bool = False,
        prefault: bool = False,
        machine_seed: int = 0,
        kernel: Kernel | None = None,
    ) -> None:
        """A host that is off. `bulk`: runs of equal page operations go in one step, with exact counts.

        With `prefault` all memory of a TD is added before it runs, and not when it touches a page.

        `machine_seed` is that of the machine, on which the quoting enclave is that it asks.
        """
        self.level = level
        super().__init__(depth, book)
        self.image = image
        self.prefault = prefault
        self.heard: list[bytes] = []  # what loads of a guest found that were to be shown, in its last run
        self.keys: list[int] = []
        self.pool = Pool(0, 0)
        self._lps = list(lps)
        self._bulk = bulk
        self._machine_seed = machine_seed
        self._kernel = kernel
        self._module: Module | None = None

    @property
    def module(self) -> Module:
        """Raises ValueError as long as the host has not booted."""
        if self._module is None:
            raise ValueError(f"the host at level {self.depth} has not booted")
        return self._module

    @property
    def level_here(self) -> Level | None:
        """The level below, if runs on it go in one step."""
        return here(self.level) if self._bulk else None

    def lp_of(self, guest: int, vcpu: int) -> int:
        """Where a VCPU runs: it stays there, so that it is associated once."""
        return (guest + vcpu) % len(self._lps)

    def perform(self, operation: op.Operation) -> Step[Any]:
        """Do one operation of a plan.

        Raises OperationFailed; ValueError for an operation that does not fit the state of host or guest.
        """
        act = act_of(ACTS, operation, "a TDX host")
        try:
            return (yield from act(self, operation))
        except Failed as refused:
            raise OperationFailed(str(refused)) from None

    def give_quote(self, vm: Vm, gpa: int, size: int) -> None:
        """Answer GetQuote in the guest's buffer."""
        answer(self, vm, gpa, size)

    @cached_property
    def quoting(self) -> QuotingEnclave:
        """The quoting enclave of the machine."""
        from protocol.arch.tdx.quote import QuotingEnclave  # certificates take a while to import

        return QuotingEnclave(self._machine_seed, report_key(self._machine_seed))

    def load(self, address: int, length: int) -> bytes:
        """Read memory of the host's own."""
        data: bytes | Fault = self.level.read(address, length)
        if isinstance(data, Fault):
            raise OperationFailed(f"a load at {address:#x} raises {data.name}")
        return data

    # -- memory ------------------------------------------------------------------------------------

    def page(self) -> int:
        """The address of a page of the host's own."""
        return self.pool.take() << PAGE_SHIFT

    def give(self, pages: Sequence[int]) -> None:
        """These pages are free again, and plain memory."""
        self.pool.give([page >> PAGE_SHIFT for page in pages])

    def flush(self, page: int, hkid: int) -> Step[None]:
        """PAGE.WBINVD: the address bears the KeyID."""
        address = page | hkid << self.level.profile.hkid_shift
        yield from self.module.call("phymem_page_wbinvd", rcx=address)

    def take_back(self, page: int) -> Step[None]:
        """RECLAIM, then 64 direct stores."""
        yield from self.module.call("phymem_page_reclaim", rcx=page)
        self.level.clear([page >> PAGE_SHIFT])
        self.give([page])

    # -- the host comes up, and goes ---------------------------------------------------------------

    def boot(self) -> Step[None]:
        if self._kernel is not None:
            self._module = Module(self.level, self._lps)
            self.pool, self.keys = self._kernel
            return
        info = tdmr(self.level.size)
        free = info.pamt[2].end
        module = Module(self.level, self._lps)
        yield from module.bring_up(free)
        first = (free >> PAGE_SHIFT) + 2
        self.pool = Pool(first, (self.level.size >> PAGE_SHIFT) - first)
        self.keys = list(range(module.global_key - 1, self.level.profile.first_private - 1, -1))
        self._module = module

    def shut_down(self) -> Step[None]:
        """Linux leaves the module as it is when the machine goes off: no call tells it."""
        if self.guests:
            raise ValueError(f"{len(self.guests)} guests are still there")
        yield from ()
        self._module = None


__all__ = ["GuestFailed", "Host", "Vm"]
