"""KVM's emulation of secure processor, RMP and VMRUN for a guest host: section 7 of the fact sheet.

Theory of operation. `Nested` is a level like the machine is one, and stands on one. A command of the guest
host goes through the same mailbox and the same checks as on the machine, against this level's own books: a
virtual platform, virtual ASIDs, and a soft RMP in the guest host's frames. Then its treatment (`platform`,
`snp`, `pages`, `legacy`, `transport`) copies in, exchanges handles and addresses, issues below, tracks and
copies out.

Two kinds of assigned pages. What belongs to a guest, and what the firmware works in (context, response,
metadata), is assigned below, too: the very frame is given (`real`). Everything else that the guest host
made a page of the firmware's (command buffers, the trusted region, its RMP) is so in the soft RMP alone,
and its stores are stopped by this level.

What a guest changes by itself (validated, VMSA, masks) is not tracked: it is read from the RMP below when
it matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from protocol.arch.sev import cpuid
from protocol.arch.sev.books import Context, Platform, fresh_platform
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.crypto.identity import Identity
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.front import Front
from protocol.arch.sev.guest import Program
from protocol.arch.sev.host.asids import FlushLock
from protocol.arch.sev.nesting import entry, teardown
from protocol.arch.sev.nesting.entities import TrackedGuest
from protocol.arch.sev.nesting.memory import HOLE, SoftMemory
from protocol.arch.sev.nesting.port import Port
from protocol.arch.sev.nesting.shadow import Shadows
from protocol.arch.sev.nesting.treatments import TREATMENTS
from protocol.arch.sev.profiles import MSR, Profile
from protocol.arch.sev.reply import Reply, done
from protocol.arch.sev.rmp import OK, SUBPAGES, Rmp
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import RMP_HEAD, Buffer, Exit, NewState
from protocol.calls import CallSpec, Category, Treatment
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.columns import column
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, Hypervisor
from protocol.nesting.quarantine import Quarantine
from protocol.tracking import Book

MMIO = 4  # three register writes and a status read; the completion interrupt is injected


class Nested(SoftMemory, Front):
    """The secure processor, the RMP and VMRUN as the guest host L(level) meets them.

    `below_rmp` is where the level below has its own RMP, `chip` the real chip's id, `asids` the first real
    ASIDs of its share: of the lower range and of the upper.
    """

    platform: Platform[TrackedGuest, Context]
    vlek = None

    def __init__(
        self,
        below: Hypervisor[Any],
        frames: Sequence[int] | np.ndarray,
        cpus: Sequence[Cpu],
        kvm_cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        profile: Profile,
        ledger: Ledger,
        seed: int,
        below_rmp: int,
        chip: bytes,
        asids: tuple[int, int],
        lock: FlushLock,
    ) -> None:
        super().__init__(below, frames, ledger)
        self.cpus = list(cpus)
        self.calls = {code: spec for code, spec in calls.items() if spec.for_host()}
        self.profile = profile
        self.nested_msr = profile.trap == MSR
        self.seed = seed
        self.chip = chip
        self.book = Book(ledger, f"l{below.level}")
        self.page_books: list[Book] = []
        self._whose: np.ndarray | None = None  # frame -> which of them
        self.rmp = Rmp(self.size >> PAGE_SHIFT, profile.asid_limit)
        self.real = column(self.size >> PAGE_SHIFT, bool)  # assigned below, too
        self._kvm_cpus = list(kvm_cpus)
        self._below_entries = below_rmp + RMP_HEAD
        self._first_asids = asids
        self.port = Port(below.memory, self._kvm_cpus, below.pool, lock)
        self.shadows = Shadows(self)
        self.quarantine = Quarantine()
        self._shadow_vmcbs: dict[int, int] = {}
        self._drawn = 0
        self._performed = ""
        self._start()

    def _start(self) -> None:
        self.platform = fresh_platform(self.profile, self.cpus)
        self.identity = Identity(self.seed, owned=self.profile.owned)
        self._under_way = False
        self.real[:] = False
        self.rmp.drop()
        self.attention[:] = 0
        self.attention[HOLE] = DONATED
        self.keep_bytes(0, self.size >> PAGE_SHIFT)

    # -- the level --------------------------------------------------------------------------------------

    def call(self, cpu: Cpu, cmdresp: int, address: int, park: bool = False, lose: bool = False) -> Step[int]:
        """One command through the virtual mailbox, one after the other, whoever of the host's CPUs asks.

        A completion that is lost on the way from below is found by polling: the answer is the same.
        """
        self.ledger.trap(self.level, "psp", n=MMIO)
        while self._under_way:
            self.ledger.contention["absorbed_busy"] += 1
            yield from self.poll()
        self._under_way = True
        self.port.works_for(cpu.origin or self.level)
        if lose:
            self.ledger.contention["completion_polled"] += 1
        try:
            answer = yield from self.mailbox(cpu, cmdresp, address, park)
        finally:
            self._under_way = False
        self.ledger.count(("injections", "psp_interrupt"))
        self.ledger.reenter(self.below.level, MMIO)
        return answer

    def rmpupdate(self, cpu: Cpu, address: int, new: NewState) -> Step[int]:
        """The trapping MSR 0xC001F001."""
        self.ledger.trap(self.level, "rmpupdate")
        self.port.works_for(cpu.origin or self.level)
        code, frame = self.rmp.update_refusal(address, new), address >> PAGE_SHIFT
        below = code == OK and (self._is_secure(new) or bool(self.real[frame]))
        self._asked("RMPUPDATE", below)
        if code == OK:
            code = yield from self.update(frame, new)
        self.ledger.reenter(self.below.level)
        return code

    def psmash(self, cpu: Cpu, address: int) -> Step[int]:
        """The trapping MSR 0xC001F002."""
        self.ledger.trap(self.level, "psmash")
        self.port.works_for(cpu.origin or self.level)
        code = self.rmp.smash_refusal(address)
        frame = address >> PAGE_SHIFT
        self._asked("PSMASH", code == OK and bool(self.real[frame]))
        if code == OK and self.real[frame]:
            code = yield from self.port.psmash(self.frame_below(frame) << PAGE_SHIFT)
        if code == OK:
            self.shadows.forget_around(frame)
            self.refresh(frame)
            self.rmp.split(frame)
        self.ledger.reenter(self.below.level)
        return code

    def _asked(self, instruction: str, below: bool) -> None:
        """A page request: of what is changed in the soft RMP alone nothing is issued below."""
        treatment = Treatment.MODIFIED if below else Treatment.EMULATED
        self.ledger.count(("te_calls", instruction, Category.MEMORY, treatment, str(self.level)))

    def wbinvd(self, cpu: Cpu) -> Step[None]:
        """A flag of the virtual CPU: no guest host makes the whole machine flush."""
        self.ledger.trap(self.level, "wbinvd")
        self.platform.asids.wbinvd(cpu.core)
        self.ledger.reenter(self.below.level)
        return done(None)

    def poll(self) -> Step[None]:
        """Wait a moment: whatever is under way goes on below."""
        poll: Step[None] = self.below.memory.poll()
        return poll

    def rdmsr(self, cpu: Cpu, number: int) -> Step[int | Fault]:
        self.ledger.trap(self.level, "msr")
        self.ledger.reenter(self.below.level)
        return done(cpu.read_msr(number))

    def wrmsr(self, cpu: Cpu, number: int, value: int) -> Step[Fault | None]:
        self.ledger.trap(self.level, "msr")
        self.ledger.reenter(self.below.level)
        return done(cpu.write_msr(number, value))

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        self.ledger.trap(self.level, "cpuid")
        self.ledger.reenter(self.below.level)
        return cpuid.leaf(self.profile, leaf, subleaf, self.nested_msr)

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
        self.ledger.trap(self.level, "vmrun")
        self.port.works_for(cpu.origin or self.level)
        return entry.enter(self, cpu, vmcb, program, stay, level)

    def kvm_cpu(self, cpu: Cpu) -> Cpu:
        """The level's own CPU on which `cpu` of the guest host runs."""
        found = self._kvm_cpus[cpu.number]
        found.origin = cpu.origin or self.level
        return found

    def shadow_vmcb(self, vmcb: int) -> int:
        """The control block that runs below for that of the guest host."""
        found = self._shadow_vmcbs.get(vmcb)
        if found is None:
            found = self._shadow_vmcbs[vmcb] = self.below.pool.take() << PAGE_SHIFT
            self.below.memory.clear([found >> PAGE_SHIFT])
            self.book.add("shadow_vcpu")
        return found

    def hold_below(self, frames: Iterable[int] = ()) -> None:
        """As `hold`, for a command that is issued below: the last of its checks are made there.

        So it stops there, if the caller wants that, behind all of them.
        """
        self.rmp.busy.update(frames)
        self.port.parks = self._performed if self._park else ""

    # -- commands ---------------------------------------------------------------------------------------

    def perform(self, spec: CallSpec, cpu: Cpu, b: Buffer) -> Reply | Step[Reply]:
        self.ledger.count(("te_calls", spec.name, spec.category, spec.treatment, str(self.level)))
        self.ledger.count(("copied_bytes", "command"), spec.length)
        self._performed, self.port.parks = spec.name, ""
        if self.profile.snp_only and spec.name in ("INIT", "INIT_EX"):
            return Reply(
                Status.UNSUPPORTED
            )  # before any check (guess); with it all that is legacy is refused
        answer = TREATMENTS[spec.name](self, spec, b)
        return answer if isinstance(answer, Reply) else self._followed(answer)

    def _followed(self, step: Step[Reply]) -> Step[Reply]:
        """What was held may have been stored to."""
        reply = yield from step
        for frame in self.rmp.busy:
            self.stored_below(range(frame, frame + (SUBPAGES if self.rmp.large(frame) else 1)))
        return reply

    def before_rebuild(self) -> Step[None]:
        yield from teardown.contexts(self, "snp_init")
        yield from teardown.sweep(self, "snp_init")

    def end_guests(self) -> Step[None]:
        return teardown.legacy_guests(self, "shutdown")

    def give_up(self, frame: int) -> Step[None]:
        return teardown.taken_back(self, frame)

    def end_contexts(self) -> Step[None]:
        return teardown.contexts(self, "shutdown")

    def marks_changed(self) -> None:
        self.shadows.clear()
        self.sync_all()

    def secret(self, label: str, length: int) -> bytes:
        """Fresh random bytes of this level's own."""
        self._drawn += 1
        return derive(self.seed, f"{self.level}/{label}", length, self._drawn.to_bytes(8, "little"))

    def tracked(self) -> dict[str, int]:
        """What `audit` holds against the level below."""
        return {
            "sev_guests": len(self.platform.guests),
            "gctx": len(self.platform.contexts),
            "asids": self.platform.asids.bound(),
            "assigned_pages": self.rmp.assigned_pages(),
        }

    # -- the guest host goes, or comes back -------------------------------------------------------------

    def reset(self, cause: str = "l1_reboot") -> Step[None]:
        """Sudden reboot, as a cold start: full teardown with no help from the guest host."""
        self.port.works_for(self.level)
        yield from teardown.everything(self, cause)
        for cpu in self.cpus:
            cpu.reset()
        self._start()
        self.clear(np.arange(self.size >> PAGE_SHIFT))

    def death(self, cause: str = "l1_crash") -> Step[None]:
        """Sudden death: the same. Its frames are its seat's, and lie in no mapping of its own any more."""
        yield from self.reset(cause)
        if self.ram is not None:
            self.ram.left(self.slots[~self._hidden])

    def drop_shadows(self) -> None:
        self.shadows.clear()
        self.below.pool.give([block >> PAGE_SHIFT for block in self._shadow_vmcbs.values()])
        self.book.drop("shadow_vcpu", len(self._shadow_vmcbs))
        self._shadow_vmcbs.clear()
