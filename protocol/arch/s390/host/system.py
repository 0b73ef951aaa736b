"""A secure host: its memory, its guests, the Ultravisor below it, and how it issues a call.

A `Host` stands on any level: the machine (its guests are then L0's own), an emulation in the same process, or
one that lives elsewhere. All that it does are steps. It owns its memory through a pool of its own frames,
builds its guests' tables with plain stores, and answers each exit and each fault as Linux does.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from protocol.arch.s390 import runs
from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.host.guests import Guest
from protocol.arch.s390.host.memory import Backing, HomeSpace, LowEnd
from protocol.arch.s390.host.pages import MERGED_L0, MERGED_L1, POLICIES, TWO_FAULT
from protocol.arch.s390.host.perform import perform
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.linked import LinkedUltravisor
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.structs import ANSWER_AT, EXECUTED, Outcome, Query, SieExit, block
from protocol.crossing import Serve, inline
from protocol.effects import Fault, Step
from protocol.errors import TeRefused
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import OwnMemory
from protocol.plan.acting import Acting
from protocol.plan.operations import Operation
from protocol.tracking import Book

if TYPE_CHECKING:
    from struct import Struct

    from protocol.arch.s390.host.destroy import SetAside
    from protocol.arch.s390.image import Image

FIRST_FREE = 256  # frames: the first MiB is the kernel's own
BOOT_BLOCK = 0x10000  # where the first CPU builds control blocks before there is a pool


class Level(OwnMemory, Protocol):
    """What a host needs of the level below it."""

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]: ...

    def enter(
        self, cpu: Cpu, block: int, program: Program, stay: bool, level: int
    ) -> Step[SieExit | Fault]: ...


class Host(Acting[Guest]):
    """One secure host. `depth` is its own level, 0 for L0; `level` is what it stands on."""

    def __init__(
        self,
        level: Level,
        cpus: Sequence[Cpu],
        random: Random,
        *,
        depth: int,
        image: Image | None = None,
        pages: str = TWO_FAULT,
        bulk: bool = False,
        pool: Pool | None = None,
        book: Book | None = None,
        below: Sequence[Serve] | None = None,
        offers: Sequence[str] | None = None,
        machine_seed: int = 0,
    ) -> None:
        """A host that is off.

        With `pool` the Ultravisor is up already and these frames are all that this host has: it shares its
        kernel with the hypervisor that owns the pool. `below` has who serves the messages of this host and
        of the levels below, if all are in this process: runs need that. `offers` are the enlightenments that
        the level below told of; where it is in this process it is asked. `machine_seed` is that of the
        machine whose public key the owner of the guests knows. Raises ValueError for a way to bring in pages
        that it has not.
        """
        if pages not in POLICIES:
            raise ValueError(f"pages = {pages!r}: allowed: {', '.join(POLICIES)}")
        self.offers = _enlightenments(level) if offers is None else tuple(offers)
        if pages == MERGED_L0 and depth == 0:
            pages = MERGED_L1  # this host's kernel is L0's: whoever of the two merges, it is the same
        if pages == MERGED_L0 and MERGED_L0 not in self.offers:
            raise ValueError(
                f"pages = {MERGED_L0!r}: what is below L{depth} does not import pages for its guest host"
            )
        super().__init__(depth, book)
        self.level = level
        self.cpus = list(cpus)
        self.image = image
        self.machine_seed = machine_seed
        self.policy = pages
        self.bulk = bulk
        self.query: Query | None = None
        self.aside: SetAside | None = None  # a guest that ended, some of whose pages are still there
        self.leaked = 0  # frames whose owner would not die: never used again
        self.heard = b""  # what the last load of a guest found that was to be shown
        self._random = random
        self._given = pool
        self._below = below
        self._alone = False  # an operation is under way in one step, with nobody beside it
        if bulk:
            runs.fold_on(level)
        self._issuers: dict[int, Issuer] = {}  # by the CPU's number

    @property
    def shares_its_kernel(self) -> bool:
        """It is the software of a hypervisor, which has initialised the Ultravisor."""
        return self._given is not None

    @property
    def up(self) -> Query:
        """What the Ultravisor can do. Raises ValueError as long as the host has not booted."""
        if self.query is None:
            raise ValueError(f"the host at level {self.depth} has not booted")
        return self.query

    def furnish(self, query: Query, base: int) -> None:
        """The kernel is up: the memory below `base` (its own donation) is free, every CPU has a block to
        issue from.

        Once only: a host that reboots has forgotten everything, so the one that comes back is a new `Host`.
        """
        self.query = query
        if self._given is None:
            self.pool = Pool(FIRST_FREE, (base >> PAGE_SHIFT) - FIRST_FREE)
            behind = (base + query.base_len) >> PAGE_SHIFT
            if behind < self.level.size >> PAGE_SHIFT:
                self.pool.give_run(behind, (self.level.size >> PAGE_SHIFT) - behind)
        else:
            self.pool = self._given
        self.backing, self.tables = Backing(self.pool, self._random), LowEnd(self.pool)
        self.home = HomeSpace(self.level, self.pool, self.tables)
        for cpu in self.cpus:
            issuer = self._issuers[cpu.number] = Issuer(self.level, cpu, self.pool.take() << PAGE_SHIFT)
            self.home.reach(issuer.scratch)

    def clear_out(self) -> None:
        """Give back what `furnish` took, and what has been kept in stock since."""
        self.backing.put_away()
        self.home.put_away()
        self.pool.give([issuer.scratch >> PAGE_SHIFT for issuer in self._issuers.values()])
        self._issuers.clear()
        self.query = None

    @property
    def level_here(self) -> runs.Level | None:
        """The level, if runs on it go in one step: it and all below it are in this process, and nobody else's
        work comes between."""
        if not self.bulk or (isinstance(self.level, LinkedUltravisor) and not self._alone):
            return None
        return runs.here(self.level)

    # -- calls -------------------------------------------------------------------------------------

    def cpu_of(self, guest: Guest, vcpu: int = 0) -> Cpu:
        """The CPU on which a VCPU of a guest runs, and its VMM with it."""
        return self.cpus[(guest.number + vcpu) % len(self.cpus)]

    def issue(self, cpu: Cpu, control_block: bytes | bytearray, out: int = ANSWER_AT + 4) -> Step[Outcome]:
        """Issue a control block on a CPU, for this host's own sake."""
        cpu.origin = 0
        issuer = self._issuers.get(cpu.number) or Issuer(self.level, cpu, BOOT_BLOCK)
        return (yield from issuer.uvc(control_block, out))

    def ask(self, cpu: Cpu, name: str, layout: Struct, *values: int) -> Step[Outcome]:
        """Issue the call `name` with `values` in its block."""
        spec = BY_NAME[name]
        return self.issue(cpu, block(spec.length, spec.code, layout, *values))

    def must(self, cpu: Cpu, name: str, layout: Struct, *values: int) -> Step[None]:
        """The same. Raises TeRefused."""
        outcome = yield from self.ask(cpu, name, layout, *values)
        if outcome.rc != EXECUTED:
            raise TeRefused(name, outcome.rc, outcome.rrc)

    def in_home_space(
        self, cpu: Cpu, control_block: bytes | bytearray, out: int = ANSWER_AT + 4
    ) -> Step[Outcome]:
        """Issue a block some of whose addresses are home-virtual."""
        cpu.dat, cpu.cr[13] = True, self.home.asce
        try:
            return (yield from self.issue(cpu, control_block, out))
        finally:
            cpu.dat = False

    def store(self, address: int, data: bytes) -> None:
        """A store to the host's own memory."""
        fault = self.level.write(address, data)
        assert fault is None, f"a host cannot store to its own memory: {fault}"

    def load(self, address: int, length: int) -> bytes:
        data = self.level.read(address, length)
        assert isinstance(data, bytes), f"a host cannot load from its own memory: {data}"
        return data

    # -- operations --------------------------------------------------------------------------------

    def perform(self, operation: Operation) -> Step[Any]:
        """Do one operation of a plan.

        Raises TeRefused, GuestFailed, or OutOfFrames with nothing left half done; ValueError for an operation
        that does not fit the state of host or guest.
        """
        step = perform(self, operation)
        if not self.bulk or self._below is None or not runs.quiet(self.level):
            return (yield from step)  # runs or not, the counts are the same
        self._alone = True
        try:
            return inline(step, self._below)
        finally:
            self._alone = False


def _enlightenments(level: object) -> tuple[str, ...]:
    """What a level in this process offers beyond the architecture."""
    if isinstance(level, LinkedUltravisor):
        level = level.memory
    return level.strategy.enlightenments if isinstance(level, Nested) else ()
