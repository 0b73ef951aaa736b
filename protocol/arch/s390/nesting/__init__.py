"""KVM's emulation of the Ultravisor for a guest host: section 7 of the fact sheet.

Theory of operation. `Nested` is a level like the machine is one, and stands on one. A call of the guest host
goes through the same front and the same checks as on the machine, against this level's own books; then its
treatment (a generator in `vm`, `vcpu`, `memory`, `dump`) copies in, translates, issues below, tracks and
copies out. `entry` runs a guest's CPU on its shadow, `teardown` cleans up behind a guest host. The books are
keyed by the guest host's frames and filled by its calls and the replies from below alone, so they can be
wrong, and `audit` can tell.

A handle that is not this guest host's own answers exactly as one that does not exist, before anything is
issued below.

Where the level below lives elsewhere a treatment is parked at each call that it issues, and calls of other
CPUs go on. The entity that the call names is locked for that time, each frame that it names is *claimed*, and
a configuration whose pages are all concerned is *closed*. Who meets a claim answers busy, and nothing was
done. With everything in one process that cannot be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.front import Front
from protocol.arch.s390.guest import Program
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.nesting import dump, entry, memory, teardown, vcpu, vm
from protocol.arch.s390.nesting.bulk import BulkFrames
from protocol.arch.s390.nesting.entities import Block, TrackedConfig, TrackedCpu, Unfinished
from protocol.arch.s390.nesting.passing import SCRATCH_FRAMES, passed
from protocol.arch.s390.nesting.shadow import Shadows, Space
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.profiles import Profile
from protocol.arch.s390.structs import BUSY, Outcome, SieExit
from protocol.calls import CallSpec, Donation
from protocol.calls import Treatment as Treated
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import CLAIMED, DONATED, SECURE, Hypervisor
from protocol.nesting.locks import Locks
from protocol.nesting.quarantine import Quarantine
from protocol.tracking import Book

Treatment = Callable[..., Outcome | Generator[Any, Any, Outcome]]
TREATMENTS: Mapping[str, Treatment] = {
    "query": vm.query,
    "query_keys": vm.query_keys,
    "init": vm.init,
    "create_config": vm.create_config,
    "destroy_config": vm.destroy_config,
    "destroy_config_fast": vm.destroy_config,
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
    "verify": vm.verify,
    "dump_init": dump.init,
    "dump_storage_state": dump.storage_state,
    "dump_cpu": dump.cpu_state,
    "dump_complete": dump.complete,
}


class Nested(BulkFrames, Front):
    """The Ultravisor and SIE as the guest host L(level) meets them.

    `kvm_cpus` are the level's own CPUs: one for each CPU of the guest host, and one for the level's own work
    on it. `seed` is the machine's, `place` tells this guest host from all others that ever were.
    """

    def __init__(
        self,
        below: Hypervisor[Any],
        frames: Sequence[int] | np.ndarray,
        cpus: Sequence[Cpu],
        kvm_cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        profile: Profile,
        ledger: Ledger,
        strategy: Strategy | None = None,
        seed: int = 0,
        place: str = "",
    ) -> None:
        super().__init__(below, frames, ledger)
        if len(kvm_cpus) <= len(cpus):
            raise ValueError(f"{len(kvm_cpus)} CPUs of the level below: {len(cpus) + 1} are needed")
        self.cpus = list(cpus)
        self.calls = {code: spec for code, spec in profile.installed(calls).items() if spec.for_host()}
        self.profile = profile.for_guest_host(self.size)
        self.strategy = strategy or Strategy()
        self.seed = seed
        self.place = place
        self.book = Book(ledger, f"l{below.level}")
        self.locks = Locks()
        self.quarantine = Quarantine()
        self.issuers = [
            Issuer(below.memory, cpu, self._scratch(), hands_on=True) for cpu in kvm_cpus[: len(cpus)]
        ]
        self.keeper = Issuer(below.memory, kvm_cpus[len(cpus)], self._scratch())
        self.keeping = False  # the level's own work on this guest host is under way
        self.folds = False  # its own work on pages goes in runs
        self.shadows = Shadows(self, ledger)
        self.normal = entry.NormalSpaces(self)
        self._handles_made = 0
        self.unfinished: dict[int, Unfinished] = {}  # creations done in part, by the guest host's CPU
        self.configs: dict[int, TrackedConfig] = {}
        self.secure_cpus: dict[int, TrackedCpu] = {}
        self.by_serial: dict[int, TrackedConfig] = {}
        self.asces: set[int] = set()  # of all configurations
        self.base = range(0)
        self.ready = False
        self.dead = False

    def _scratch(self) -> int:
        return self.below.pool.take_run(SCRATCH_FRAMES) << PAGE_SHIFT

    # -- the level ---------------------------------------------------------------------------

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        """The instruction UVC of the guest host: it traps, is emulated, and the guest host is entered again.

        A busy answer depends on timing, so it is counted as contention alone.
        """
        if cpu.problem_state:  # the guest host's own CPU raises this; nothing traps
            return z.program(z.PRIVILEGED, r2)
        result = yield from self.uvc(cpu, r2, m3, m4, park)
        if result == BUSY:
            self.ledger.contention["busy"] += 1
            return result
        self.ledger.trap(self.level, "uvc")
        if isinstance(result, Fault):
            self.ledger.count(("injections", f"pgm_{result.code:02x}"))
        self.ledger.reenter(self.below.level)
        return result

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        """The instruction SIE of the guest host: it traps, and ends when the guest host is entered again."""
        if cpu.problem_state:
            return z.program(z.PRIVILEGED, block)
        self.ledger.trap(self.level, "sie")
        result = yield from entry.enter(self, cpu, block, program, stay, level)
        if result is entry.KICK:
            self.ledger.contention["kicked"] += 1
        if isinstance(result, Fault):
            self.ledger.count(("injections", f"pgm_{result.code:02x}"))
        self.ledger.reenter(self.below.level)
        return result

    def perform(self, spec: CallSpec, cpu: Cpu, block: bytes) -> Outcome | Generator[Any, Any, Outcome]:
        treatment = TREATMENTS.get(spec.name)
        if treatment is None:
            assert spec.treatment is Treated.PASSED, f"{spec.name} has no treatment"
            treatment = passed
        return treatment(self, spec, cpu, block)

    def account(self, spec: CallSpec, block: bytes, answered: bool) -> None:
        """Count it; what was answered busy is contention alone. The codes are copied with an answer."""
        count = self.ledger.count
        count(("te_calls", spec.name, spec.category, spec.treatment, str(self.level)))
        count(("copied_bytes", "uvcb"), len(block) + 4 * answered)
        if spec.handle:
            count(("lookups", "vm_map" if spec.handle == "config" else "vcpu_map", "hit"))

    def issuer(self, cpu: Cpu) -> Issuer:
        """The level's own CPU on which `cpu` of the guest host runs, issuing on behalf of the guest host."""
        issuer = self.issuers[cpu.number]
        issuer.cpu.origin = cpu.origin or self.level
        return issuer

    # -- what the checks look at -------------------------------------------------------------

    def usable(self, first: int, count: int) -> bool:
        if first < 0 or first + count > self.attention.size:
            return False
        return not (self.attention[first : first + count] & (DONATED | SECURE | CLAIMED)).any()

    def accessible(self, address: int) -> bool:
        return 0 <= address < self.size and self.refusal(address, 1) is None

    def configs_in_use(self) -> int:
        return len(self.configs)

    def asce_in_use(self, asce: int) -> bool:
        return asce in self.asces

    def numbers_in_use(self, config: int) -> Iterable[int]:
        return [secure.number for secure in self.configs[config].cpus]

    def known(self, kind: str, handle: int) -> bool:
        if handle in (self.configs if kind == "config" else self.secure_cpus):
            return True
        self.ledger.count(("lookups", "vm_map" if kind == "config" else "vcpu_map", "miss"))
        return False

    def table_written(self, address: int, length: int) -> None:
        self.shadows.written(address, length)

    @property
    def enlightenments(self) -> tuple[str, ...]:
        """Facilities beyond the architecture that the guest host finds here."""
        return self.strategy.enlightenments

    # -- donation ----------------------------------------------------------------------------

    @property
    def donation(self) -> Donation:
        """What happens to an area that the sheet says is swapped."""
        return self.strategy.donated

    def takes(self, frames: np.ndarray | range, lent: int = 0) -> None:
        """The guest host donated these frames; the level below gave `lent` of its own for them."""
        listed = np.asarray(frames)
        if self.donation is not Donation.NONE:
            self.detach_mappings(listed)
            self.take_away(listed, self.donation)
        if self.donation is Donation.SWAPPED:
            self.below.promised += len(listed) - lent
        self.book.add("donated_run")

    def returns(self, frames: np.ndarray | range, lent: int = 0) -> None:
        """The donation ended, and what was lent for it is back.

        Where the level below kept what was lent there may be no memory to return: those frames stay away,
        and the quarantine says so.
        """
        listed = np.asarray(frames)
        if self.donation is Donation.SWAPPED:
            self.below.promised -= len(listed) - lent
            if self.below.pool.free < len(listed):
                self.quarantine.add(int(listed[0]), len(listed), "no memory to return a donation")
                return
        self.give_back(listed, self.donation)
        self.book.drop("donated_run")

    def lend(self, length: int) -> Block:
        """Take a contiguous run of the level's own memory. Raises OutOfFrames."""
        count = length >> PAGE_SHIFT
        block = Block(self.below.pool.take_run(count), count)
        self.keep_promises((block,))
        return block

    def keep_promises(self, blocks: Iterable[Block]) -> None:
        """Hold blocks just taken against what is owed. Raises OutOfFrames, and they are back."""
        try:
            self.below.keep_promises()
        except Exception:
            for block in blocks:
                self.unlend(block)
            raise

    def unlend(self, block: Block) -> None:
        self.below.pool.give_run(block.first, block.pages)

    def lose(self, block: Block, reason: str) -> None:
        """The level below would not give it back: it is never used again."""
        self.quarantine.add(block.first, block.pages, reason)
        if self.donation is Donation.SWAPPED:
            self.below.promised += block.pages

    # -- tracking ----------------------------------------------------------------------------

    def new_handle(self, kind: str, real: int) -> int:
        """The handle that the guest host sees: the real one, or one of this level's own."""
        if self.strategy.handles == "passed":
            return real
        self._handles_made += 1
        text = f"{self.seed}:{self.place}:{kind}:{self._handles_made}".encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") | 1

    def space_of(self, frame: int) -> Space | None:
        """The space of the living guest that owns a page of the guest host's."""
        config = self.by_serial.get(int(self.page_owner[frame]))
        return None if config is None else config.space

    def tracked(self) -> dict[str, int]:
        """What `audit` holds against the level below. Shared pages are known only by looking."""
        return {
            "configs": len(self.configs),
            "cpus": len(self.secure_cpus),
            "pins": len(self.pins),
            "shared_pages": self.shared_pages(),
            "shadow_blocks": len(self.secure_cpus),
            "shadow_tables": len(self.shadows.spaces),
        }

    @property
    def scratch(self) -> int:
        """Frames of the level below that this one works with, until the guest host is gone."""
        return 0 if self.dead else (len(self.issuers) + 1) * SCRATCH_FRAMES

    # -- the guest host goes, or comes back ----------------------------------------------------

    def reset(self, clear_memory: bool, cause: str = "l1_reboot") -> Step[None]:
        """Sudden reboot: full teardown with no help from the guest host, section 7.8."""
        yield from teardown.everything(self, cause, late=self.strategy.teardown == "async")
        for cpu in self.cpus:
            cpu.reset()
        if clear_memory:
            teardown.clear_memory(self)

    def death(self, cause: str = "l1_crash") -> Step[None]:
        """Sudden death: the same, and all memory goes back."""
        yield from teardown.everything(self, cause, late=False)
        yield from teardown.all_leftovers(self, cause)
        self.scrub_and_return()
        for issuer in (*self.issuers, self.keeper):
            self.below.pool.give_run(issuer.scratch >> PAGE_SHIFT, SCRATCH_FRAMES)
        self.dead = True


__all__ = ["Nested", "Strategy"]
