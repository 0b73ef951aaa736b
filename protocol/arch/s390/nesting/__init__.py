"""KVM's emulation of the Ultravisor for a guest host: section 7 of the fact sheet.

Theory of operation. `Nested` is a level like the machine is one, and stands on one. A call of the guest host goes through
the same front and the same checks as on the machine, against this level's own books; then its treatment (a generator in
`vm`, `vcpu`, `memory`, `entry`) copies in, translates, issues below, tracks and copies out. The books are keyed by the
guest host's frames and filled by its calls and the replies from below alone, so they can be wrong, and `audit` can tell.

A handle that is not this guest host's own answers exactly as one that does not exist, before anything is issued below.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.front import Front
from protocol.arch.s390.guest import Program
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.nesting import entry, memory, teardown, vcpu, vm
from protocol.arch.s390.nesting.entities import Block, TrackedConfig, TrackedCpu
from protocol.arch.s390.nesting.shadow import Shadows
from protocol.arch.s390.profiles import Profile
from protocol.arch.s390.structs import Outcome, SieExit
from protocol.calls import CallSpec, Donation, Treatment
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, SECURE, GuestHost, Hypervisor
from protocol.nesting.locks import Locks
from protocol.nesting.quarantine import Quarantine
from protocol.tracking import Book

TREATMENTS = {
    "query": vm.query,
    "query_keys": vm.query_keys,
    "init": vm.init,
    "create_config": vm.create_config,
    "destroy_config": vm.destroy_config,
    "set_params": vm.set_params,
    "create_cpu": vcpu.create_cpu,
    "destroy_cpu": vcpu.destroy_cpu,
    "cpu_reset_initial": vcpu.reset_prefix,
    "cpu_reset_clear": vcpu.reset_prefix,
    "convert_to_secure": memory.bring_in,
    "unpack": memory.bring_in,
    "convert_from_secure": memory.convert_from_secure,
    "destroy_storage": memory.destroy_storage,
    "pin": memory.pin,
    "unpin": memory.unpin,
    "unshare_all": memory.unshare_all,
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """How this level emulates; the words of the scenario."""

    handles: str = "passed"  # or mapped
    donation: str = "full"  # or bounded, off
    teardown: str = "sync"  # or async


class Nested(GuestHost[Any], Front):
    """The Ultravisor and SIE as the guest host L(level) meets them."""

    def __init__(
        self,
        below: Hypervisor[Any],
        frames: Sequence[int],
        cpus: Sequence[Cpu],
        kvm_cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        profile: Profile,
        ledger: Ledger,
        strategy: Strategy | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(below, frames, ledger)
        self.cpus = list(cpus)
        self.calls = {code: spec for code, spec in calls.items() if spec.for_host()}
        self.profile = profile.for_guest_host(self.size)
        self.strategy = strategy or Strategy()
        self.seed = seed
        self.book = Book(ledger, f"l{below.level}")
        self.locks = Locks()
        self.quarantine = Quarantine()
        self.issuers = [Issuer(below.memory, cpu, below.pool.take() << PAGE_SHIFT) for cpu in kvm_cpus]
        self.shadows = Shadows(self, ledger)
        self.page_owner = np.zeros(self.attention.size, np.uint32)  # serial of the space whose guest owns the page
        self.page_number = np.zeros(self.attention.size, np.uint32)
        self.away = np.zeros(self.attention.size, np.uint8)  # this level exported it; the guest host cannot know
        self._handles_made = 0
        self.spaces_of_normal: dict[int, Any] = {}
        self.normal_blocks: dict[int, int] = {}
        self.configs: dict[int, TrackedConfig] = {}
        self.secure_cpus: dict[int, TrackedCpu] = {}
        self.by_serial: dict[int, TrackedConfig] = {}
        self.pins: dict[int, int] = {}  # frame -> serial
        self.leftovers: list[int] = []  # pages of ended guests that an asynchronous teardown has still to destroy
        self.base = range(0)
        self.ready = False
        self.dead = False

    # -- the level ------------------------------------------------------------------------------------------------

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        """The instruction UVC of the guest host: it traps, is emulated, and the guest host is entered again."""
        if cpu.problem_state:  # the guest host's own CPU raises this; nothing traps
            return z.program(z.PRIVILEGED, r2)
        self.ledger.trap(self.level, "uvc")
        result = yield from self.uvc(cpu, r2, m3, m4, park)
        if isinstance(result, Fault):
            self.ledger.count(("injections", f"pgm_{result.code:02x}"))
        self.ledger.reenter(self.below.level)
        return result

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        """The instruction SIE of the guest host."""
        if cpu.problem_state:
            return z.program(z.PRIVILEGED, block)
        self.ledger.trap(self.level, "sie")
        return (yield from entry.enter(self, cpu, block, program, stay, level))

    def perform(self, spec: CallSpec, cpu: Cpu, block: bytes) -> Generator[Any, Any, Outcome]:
        self.ledger.count(("te_calls", spec.name, spec.category, spec.treatment, str(self.level)))
        self.ledger.count(("copied_bytes", "uvcb"), len(block) + 4)
        if spec.handle:
            kind = "vm_map" if spec.handle == "config" else "vcpu_map"
            self.ledger.count(("lookups", kind, "hit"))
        treatment = TREATMENTS.get(spec.name)
        if treatment is None:
            assert spec.treatment is Treatment.PASSED
            return vm.passed(self, spec, cpu, block)
        return treatment(self, spec, cpu, block)

    def issuer(self, cpu: Cpu) -> Issuer:
        """The level's own CPU on which `cpu` of the guest host runs; what it issues has the guest host as origin."""
        issuer = self.issuers[cpu.number]
        issuer.cpu.origin = cpu.origin or self.level
        return issuer

    # -- what the checks look at ------------------------------------------------------------------------------------

    def usable(self, first: int, count: int) -> bool:
        if first < 0 or first + count > self.attention.size:
            return False
        return not (self.attention[first : first + count] & (DONATED | SECURE)).any()

    def accessible(self, address: int) -> bool:
        return 0 <= address < self.size and self.refusal(address, 1) is None

    def configs_in_use(self) -> int:
        return len(self.configs)

    def asce_in_use(self, asce: int) -> bool:
        return any(config.space.asce == asce for config in self.configs.values())

    def numbers_in_use(self, config: int) -> Iterable[int]:
        return self.configs[config].cpus

    def known(self, kind: str, handle: int) -> bool:
        if handle in (self.configs if kind == "config" else self.secure_cpus):
            return True
        self.ledger.count(("lookups", "vm_map" if kind == "config" else "vcpu_map", "miss"))
        return False

    # -- accesses to guarded frames ----------------------------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        return z.program(z.ADDRESSING, address, write)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        frame = address >> PAGE_SHIFT
        if self.attention_of(frame) & DONATED or self.away[frame]:
            return z.program(z.SECURE_ACCESS, address)
        data = self.below.memory.peek(self.address_below(address), length)
        return z.program(data.code, address) if isinstance(data, Fault) else data

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        frame = address >> PAGE_SHIFT
        if self.attention_of(frame) & DONATED or self.away[frame]:
            return z.program(z.SECURE_ACCESS, address, True)
        fault = self.below.memory.poke(self.address_below(address), data)
        return z.program(fault.code, address, True) if fault is not None else None

    def table_written(self, address: int, length: int) -> None:
        self.shadows.written(address, length)

    # -- donation ------------------------------------------------------------------------------------------------------

    @property
    def donation(self) -> Donation:
        """What happens to an area that the sheet says is swapped."""
        return {"full": Donation.SWAPPED, "bounded": Donation.VIRTUAL, "off": Donation.NONE}[self.strategy.donation]

    def takes(self, frames: np.ndarray | range) -> None:
        """The guest host donated these frames."""
        listed = np.asarray(frames)
        for frame in listed[self.shadows.mapper[listed] != 0].tolist():
            self.shadows.unmap_frame(frame)
        if self.donation is not Donation.NONE:
            self.take_away(listed, self.donation)
        self.book.add("donated_run")

    def returns(self, frames: np.ndarray | range) -> None:
        """The donation ended."""
        self.give_back(np.asarray(frames), self.donation)
        self.book.drop("donated_run")

    def lend(self, length: int) -> Block:
        """Take a contiguous run of the level's own memory. Raises OutOfFrames."""
        count = length >> PAGE_SHIFT
        return Block(self.below.pool.take_run(count), count)

    def unlend(self, block: Block) -> None:
        self.below.pool.give_run(block.first, block.count)

    def lose(self, block: Block, reason: str) -> None:
        """The level below would not give it back: it is never used again."""
        self.quarantine.add(block.first, block.count, reason)

    # -- tracking --------------------------------------------------------------------------------------------------------

    def new_handle(self, kind: str, real: int) -> int:
        """The handle that the guest host sees: the real one, or one of this level's own."""
        if self.strategy.handles == "passed":
            return real
        self._handles_made += 1
        seed = f"{self.seed}:{self.level}:{kind}:{self._handles_made}".encode()
        return int.from_bytes(blake2b(seed, digest_size=8).digest(), "big") | 1

    def track_page(self, config: TrackedConfig, page: int, frame: int) -> None:
        old = int(self.page_owner[frame])
        self.page_owner[frame] = config.space.serial
        self.page_number[frame] = page
        self.mark(frame, SECURE)
        (self.book.change if old else self.book.add)("secure_page")

    def untrack_page(self, frame: int) -> None:
        if not self.page_owner[frame]:
            return
        self.page_owner[frame] = 0
        self.away[frame] = 0
        self.pins.pop(frame, None)
        self.unmark(frame, SECURE)
        self.book.drop("secure_page")

    def tracked(self) -> dict[str, int]:
        """What `audit` holds against the level below. Shared pages are known only by looking."""
        pages = np.flatnonzero(self.page_owner)
        shared = sum(isinstance(self.guarded_peek(frame << PAGE_SHIFT, 1), bytes) for frame in pages.tolist())
        return {
            "configs": len(self.configs),
            "cpus": len(self.secure_cpus),
            "pins": len(self.pins),
            "shared_pages": shared,
            "shadow_blocks": len(self.secure_cpus) + len(self.normal_blocks),
            "shadow_tables": len(self.shadows.spaces),
        }

    # -- the guest host goes, or comes back -------------------------------------------------------------------------------

    def reset(self, clear_memory: bool, cause: str = "l1_reboot") -> Step[None]:
        """Sudden reboot: full teardown with no help from the guest host, section 7.8."""
        yield from teardown.everything(self, cause)
        for cpu in self.cpus:
            cpu.reset()
        if clear_memory:
            self.clear(np.arange(self.attention.size))

    def death(self, cause: str = "l1_crash") -> Step[None]:
        """Sudden death: the same, and all memory goes back."""
        yield from teardown.everything(self, cause)
        while self.leftovers:
            yield from teardown.some_leftovers(self, cause)
        self.scrub_and_return()
        self.below.pool.give([issuer.scratch >> PAGE_SHIFT for issuer in self.issuers])
        self.dead = True


__all__ = ["Nested", "OutOfFrames", "Strategy"]
