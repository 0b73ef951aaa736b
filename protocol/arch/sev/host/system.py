"""A secure host's software in a plan: what Linux, KVM and QEMU do, in their order. Section 6 of the sheet.

A `Host` stands on any level: the machine, or an emulation that is asked by message. Its guests are SNP
guests. It owns its memory through a pool of its own frames: the RMP first, then the trusted region, then
everything else. Guest memory comes as guest_memfd gives it: private pages and shared ones are different
frames, and a change of a page drops one of them.

Left out: 2 MiB pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.cpu import MFDM, RMP_BASE, RMP_END, SME, SNP_EN, SYSCFG, VM_HSAVE_PA, VMPL_EN, Cpu
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.asids import AsidPool, FlushLock
from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.host.kinds import KINDS, Kind
from protocol.arch.sev.host.perform import ACTS
from protocol.arch.sev.host.vm import GuestFailed, Vm
from protocol.arch.sev.runs import Level, here
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import PAGE, RMP_HEAD, TWO_MIB
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.memory.pool import Pool
from protocol.nesting.composition import Seat
from protocol.plan import operations as op
from protocol.plan.acting import Acting, act_of
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.sev.host.migrate import Luggage, Packet
    from protocol.arch.sev.runs import Level

RMP_AT = TWO_MIB
ENTRY = 16
MIB = 1 << 20
SNP_SHUTDOWN_LEN = 8
IOMMU_SHUTDOWN = 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """A hypervisor's kernel that is up: frames, ASIDs of the lower range, the lock around all ASIDs."""

    pool: Pool
    asids: range
    lock: FlushLock


class Host(Acting[Vm]):
    """One secure host. `depth` is its own level, 0 for L0; `image` is what its guests are loaded with.

    With `kernel` it is the software of a hypervisor: the platform is up, and it has what is named there.
    """

    def __init__(
        self,
        level: Any,
        cpus: Sequence[Cpu],
        random: Random,
        *,
        depth: int,
        image: bytes | None = None,
        book: Book | None = None,
        kernel: Kernel | None = None,
        kind: Kind = KINDS["snp"],
        pages: str = "two_fault",
        bulk: bool = False,
    ) -> None:
        """A host that is off. All its guests are of one kind.

        A page comes in with the guest's first access, with its request for a private page (`merged_l1`: what
        QEMU does since 4cdc489eb9c2), or before the guest runs (`prefault`). `bulk`: runs of equal page
        operations go in one step, with exact counts.
        """
        self._bulk = bulk
        self.kind = kind
        self.pages = pages
        self._kernel = kernel
        self.level = level
        super().__init__(depth, book)
        self.image = image
        self.leaving: dict[int, Luggage] = {}  # guests that are packed, until they are destroyed
        self.arriving: dict[int, list[Packet]] = {}
        self.heard = b""  # what the last load of a guest found that was to be shown
        self._random = random
        self._driver: Driver | None = None
        self._hands = Hands(Seat(0, level, list(cpus), level.size), depth + 1)
        self._tmr = 0

    @property
    def driver(self) -> Driver:
        """The ccp driver. Raises ValueError as long as the host has not booted."""
        if self._driver is None:
            raise ValueError(f"the host at level {self.depth} has not booted")
        return self._driver

    @property
    def hands(self) -> Hands:
        return self._hands

    @property
    def level_here(self) -> Level | None:
        """The level below, if runs on it go in one step."""
        return here(self.level) if self._bulk else None

    def cpu_of(self, vm: Vm, vcpu: int) -> int:
        """The number of the CPU on which a VCPU runs."""
        return (vm.number + vcpu) % len(self._hands.seat.cpus)

    def perform(self, operation: op.Operation) -> Step[Any]:
        """Do one operation of a plan.

        Raises OperationFailed; ValueError for an operation that does not fit the state of host or guest.
        """
        act = act_of(ACTS, operation, "an AMD host")
        try:
            return (yield from act(self, operation))
        except Failed as refused:
            raise OperationFailed(str(refused)) from None

    # -- memory -----------------------------------------------------------------------------------------

    def page(self) -> int:
        """The address of a page of the host's own, zeroed."""
        return self._allocate(PAGE, PAGE)

    def run_of_pages(self, count: int) -> int:
        """The address of so many pages in one piece, zeroed."""
        return self._allocate(count * PAGE, PAGE)

    def give(self, pages: Sequence[int]) -> None:
        """These pages are free again: unassigned, and nobody's."""
        self.pool.give([page // PAGE for page in pages])

    def _allocate(self, length: int, align: int) -> int:
        """Zeroed memory. What wants more than page alignment is the trusted region, whose place is fixed."""
        if align > PAGE:
            at, self._tmr = self._tmr, 0
            assert at, "one trusted region was asked for"
            return at
        count = -(-length // PAGE)
        first = self.pool.take() if count == 1 else self.pool.take_run(count)
        self.level.clear(list(range(first, first + count)))
        return first * PAGE

    # -- the host comes up, and goes --------------------------------------------------------------------

    def boot(self) -> Step[None]:
        """The RMP is laid out (which the platform's boot code does), SNP switched on everywhere; then the
        driver's probe; then KVM's save area on every CPU. Without SNP the first two are left out. A
        hypervisor has done all that for its own.
        """
        if self._kernel is not None:
            self.pool = self._kernel.pool
            self._driver = Driver(self._hands, self._allocate)
            self._driver.snp = True
            self._driver.turns = self._kernel.lock.mailbox
            self.asids = AsidPool(self._kernel.asids, self._kernel.lock)
            return
        size = self.level.size
        rmp_len = -(-(RMP_HEAD + ENTRY * (size // PAGE)) // MIB) * MIB
        self._tmr = -(-(RMP_AT + rmp_len) // TWO_MIB) * TWO_MIB  # without SNP it is smaller
        free = self._tmr // PAGE + TWO_MIB // PAGE
        self.pool = Pool(free, size // PAGE - free)
        driver = Driver(self._hands, self._allocate)
        for number in range(len(self._hands.seat.cpus) if self.kind.snp else 0):
            for msr, value in (
                (RMP_BASE, RMP_AT),
                (RMP_END, RMP_AT + rmp_len - 1),
                (SYSCFG, SME | SNP_EN | VMPL_EN | MFDM),
            ):
                yield from driver.write_msr(number, msr, value)
        yield from driver.probe()
        for number in range(len(self._hands.seat.cpus)):
            yield from driver.write_msr(number, VM_HSAVE_PA, self.page())
        profile = self.level.profile
        lower, upper = range(1, profile.min_sev_asid), range(profile.min_sev_asid, profile.asids + 1)
        self.asids = AsidPool(lower if self.kind.encrypted_state else upper)
        self._driver = driver

    def shut_down(self) -> Step[None]:
        """The legacy platform first, then SNP; the RMP has to be built anew by whoever comes next.

        Whether a flush is due is found out by asking, as Linux does.
        """
        if self.guests:
            raise ValueError(f"{len(self.guests)} guests are still there")
        driver = self.driver
        if self._kernel is not None:
            self.give(driver.pages)
            self._driver = None
            return
        yield from driver.command("SHUTDOWN")
        yield from driver.wbinvd_everywhere()
        if not self.kind.snp:
            self._driver = None
            return
        down = {"length": SNP_SHUTDOWN_LEN, "flags": IOMMU_SHUTDOWN}
        if (yield from driver.command("SNP_SHUTDOWN_EX", (0, Status.DFFLUSH_REQUIRED), False, **down)):
            yield from driver.command("SNP_DF_FLUSH")
            yield from driver.command("SNP_SHUTDOWN_EX", (0,), False, **down)
        self._driver = None


__all__ = ["GuestFailed", "Host", "Vm"]
