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
from protocol.arch.sev.books import HIGH_DRAM, LOW_DRAM, Context, Platform, fresh_platform, is_dram
from protocol.arch.sev.cpu import Cpu, X86Fault, not_present, rmp_violation
from protocol.arch.sev.crypto.identity import Identity
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.front import Front
from protocol.arch.sev.guest import Program
from protocol.arch.sev.host.asids import FlushLock
from protocol.arch.sev.nesting import entry, teardown
from protocol.arch.sev.nesting.entities import TrackedGuest
from protocol.arch.sev.nesting.port import Port
from protocol.arch.sev.nesting.shadow import Shadows
from protocol.arch.sev.nesting.treatments import TREATMENTS
from protocol.arch.sev.profiles import Profile
from protocol.arch.sev.reply import Reply, done
from protocol.arch.sev.rmp import (
    ASSIGNED,
    OK,
    SUBPAGES,
    VALIDATED,
    VMSA,
    PageState,
    Rmp,
)
from protocol.arch.sev.structs import PAGE, RMP_HEAD, SHARED, Buffer, Exit, NewState
from protocol.calls import CallSpec, Category, Treatment
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import DONATED, SECURE, TABLE, GuestHost, Hypervisor
from protocol.nesting.quarantine import Quarantine
from protocol.tracking import Book

MMIO = 4  # three register writes and a status read; the completion interrupt is injected
_OWN = 16
HOLE = slice(LOW_DRAM >> PAGE_SHIFT, HIGH_DRAM >> PAGE_SHIFT)


class Nested(GuestHost[Any], Front):
    """The secure processor, the RMP and VMRUN as the guest host L(level) meets them.

    `below_rmp` is where the level below has its own RMP, `chip` the real chip's id, `asids` the first real
    ASIDs of its share: of the lower range and of the upper.
    """

    platform: Platform[TrackedGuest, Context]
    nested_msr = True
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
        self.seed = seed
        self.chip = chip
        self.book = Book(ledger, f"l{below.level}")
        self.page_books: list[Book] = []
        self._whose: np.ndarray | None = None  # frame -> which of them
        self.rmp = Rmp(self.size >> PAGE_SHIFT, profile.asid_limit)
        self.real = np.zeros(self.size >> PAGE_SHIFT, bool)  # assigned below, too
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
        return cpuid.leaf(self.profile, leaf, subleaf, nested_msr=True)

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

    def operand_below(self, address: int) -> int:
        """The address below of an operand of the guest host's."""
        self.ledger.count(("translations", "host_page"))
        return self.address_below(address)

    def handle_below(self, guest: TrackedGuest) -> int:
        """The real handle of the guest host's legacy guest."""
        self.ledger.count(("translations", "handle"))
        return guest.real

    def asid_below(self, asid: int) -> int:
        """The real ASID in place of the one that the guest host named."""
        self.ledger.count(("translations", "handle"))
        return self.real_asid(asid)

    def real_asid(self, asid: int) -> int:
        """Each guest host has a share of its own, so that its numbers are the same at every depth."""
        lower, upper = self._first_asids
        low = asid < self.profile.min_sev_asid
        return lower + asid - 1 if low else upper + asid - self.profile.min_sev_asid

    def released(self, asid: int) -> None:
        """A guest leaves its ASID.

        Where it may have run, this level flushes before it lends that one again.
        """
        self.used(asid)
        self.platform.asids.release(asid)

    def used(self, asid: int) -> None:
        if self.platform.asids.in_use(asid):
            self.port.dirty.add(self.real_asid(asid))

    # -- the RMP ----------------------------------------------------------------------------------------

    def update(self, frame: int, new: NewState) -> Step[int]:
        """RMPUPDATE that the soft RMP allows: what belongs to a guest changes below first."""
        self.shadows.forget_around(frame)
        secure = self._is_secure(new)
        if secure and new.large and not self.contiguous(frame):
            for n in range(SUBPAGES):  # shown as what it is: 512 small entries
                yield from self.update(frame + n, new._replace(large=False, gpa=new.gpa + n * PAGE))
            return OK
        code = yield from self._update_below(frame, new, secure)
        if code == OK:
            count = SUBPAGES if new.large or self.rmp.large(frame) else 1
            self.rmp.apply(frame, new)
            self.shadows.forget_around(frame)  # what was filled while the level below was asked
            self._now_real(slice(frame, frame + count), secure)
            self.sync(frame, count)
        return code

    def _is_secure(self, new: NewState) -> bool:
        """Does the page become a guest's?"""
        return new.assigned and 0 < new.asid <= self.profile.asids

    def _update_below(self, frame: int, new: NewState, secure: bool) -> Step[int]:
        if not (secure or self.real[frame]):
            return OK
        address = self.operand_below(frame << PAGE_SHIFT)
        if secure:
            return (yield from self.port.rmpupdate(address, new._replace(asid=self.asid_below(new.asid))))
        return (yield from self.port.rmpupdate(address, SHARED._replace(large=self.rmp.large(frame))))

    def _now_real(self, here: slice, real: bool) -> None:
        before = int(np.count_nonzero(self.real[here]))
        self.real[here] = real
        after = int(np.count_nonzero(self.real[here]))
        book = self.page_books[self.share_of(here.start)] if self.page_books else self.book
        (book.add if after >= before else book.drop)("secure_page", abs(after - before))

    def keep_apart(self, shares: Sequence[np.ndarray]) -> None:
        """Keep a book for the pages in each of these shares of the guest host's frames, and the rest."""
        self._whose = np.full(self.size >> PAGE_SHIFT, len(shares))
        for number, frames in enumerate(shares):
            self._whose[frames] = number
        self.page_books = [Book(self.ledger, self.book.holder) for _ in range(len(shares) + 1)]

    def share_of(self, frame: int) -> int:
        """In which share of `keep_apart` a frame is; all are in one where there are none."""
        return 0 if self._whose is None else int(self._whose[frame])

    def contiguous(self, frame: int) -> bool:
        """Does one 2 MiB page of the level below lie under these 512?"""
        below = self.slots[frame : frame + SUBPAGES]
        return bool(below[0] % SUBPAGES == 0 and (np.diff(below) == 1).all())

    def donate(self, frame: int) -> Step[None]:
        """A page of the firmware's becomes one below: the firmware below is going to work in it."""
        if not self.real[frame]:
            yield from self.port.lend(self.frame_below(frame) << PAGE_SHIFT)
            self._now_real(slice(frame, frame + 1), True)

    def take_back(self, frame: int) -> Step[None]:
        """It is the firmware's in the soft RMP alone from now on: this level is going to store to it."""
        if self.real[frame]:
            code = yield from self.port.take_back(self.frame_below(frame) << PAGE_SHIFT)
            assert not code, f"a page that was lent does not come back: {code}"
            self._now_real(slice(frame, frame + 1), False)

    def make_way(self, address: int, length: int) -> Step[None]:
        for frame in range(address >> PAGE_SHIFT, (address + length - 1 >> PAGE_SHIFT) + 1):
            if self.real[frame] and self.rmp.state(frame) is PageState.FIRMWARE:
                yield from self.take_back(frame)

    def refresh(self, frame: int) -> None:
        """Read what a guest may have changed by itself from the RMP below, which is memory of that level."""
        if frame >= len(self.rmp.flags) or not self.real[frame] or not self.rmp.asid_of(frame):
            return
        raw = self.entry_below(frame)
        bits = raw[7] >> 5 & 3  # VMSA and validated
        flags = (VMSA if bits & 1 else 0) | (VALIDATED if bits & 2 else 0)
        self.rmp.change(frame, flags, VMSA | VALIDATED)
        self.rmp.set_perms(frame, int.from_bytes(raw[8:12], "little"))

    def entry_below(self, frame: int) -> bytes:
        raw = self.below.memory.peek(self._below_entries + _OWN * self.frame_below(frame), _OWN)
        assert isinstance(raw, bytes)
        return raw

    def not_real(self, frame: int, count: int) -> None:
        """These pages are unassigned below."""
        self._now_real(slice(frame, frame + count), False)

    def refresh_range(self, first: int, count: int) -> None:
        for frame in (first + np.flatnonzero(self.real[first : first + count])).tolist():
            if self.rmp.head(frame) == frame:
                self.refresh(frame)

    def sync(self, first: int, count: int) -> None:
        """Let the marks of these frames say what the soft RMP and the trusted region say."""
        here = slice(first, first + count)
        marks = np.zeros(count, np.uint8)
        flags = self.rmp.flags[here]
        marks[: len(flags)][flags & ASSIGNED != 0] = DONATED
        marks[: len(flags)][self.rmp.asid[here] != 0] = SECURE
        tmr = self.platform.tmr
        low, high = max(first, tmr.start >> PAGE_SHIFT), min(first + count, tmr.stop >> PAGE_SHIFT)
        if low < high:
            marks[low - first : high - first] |= DONATED
        low, high = max(first, HOLE.start), min(first + count, HOLE.stop)
        if low < high:
            marks[low - first : high - first] |= DONATED
        self.attention[here] = self.attention[here] & TABLE | marks

    def sync_all(self) -> None:
        self.sync(0, self.size >> PAGE_SHIFT)

    # -- memory -----------------------------------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        return not_present(address, write)

    def refusal(self, address: int, length: int) -> X86Fault | None:
        """As on the machine: what is no memory first, then what is assigned."""
        if address < 0 or address + length > self.size or not is_dram(self.size, address, length):
            inside = address >= 0 and is_dram(self.size, address, 1)
            first = (LOW_DRAM if address < LOW_DRAM else self.size) if inside else address
            return not_present(first, write=True)
        if not self.rmp.live or not length:
            return None
        first = address >> PAGE_SHIFT
        bad = self.rmp.any_assigned(first, (address + length - 1 >> PAGE_SHIFT) - first + 1)
        return None if bad is None else rmp_violation(max(address, bad << PAGE_SHIFT))

    def peek(self, address: int, length: int) -> bytes | Fault:
        """An empty access is judged by its address, as on the machine."""
        if length:
            return super().peek(address, length)
        return b"" if is_dram(self.size, address, 0) else not_present(address, write=False)

    def poke(self, address: int, data: bytes) -> Fault | None:
        return super().poke(address, data) if data else self.refusal(address, 0)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        """Reads are never refused; the RMP is rendered from this level's books."""
        rmp = self.rmp
        if LOW_DRAM <= address < HIGH_DRAM:
            return not_present(address, write=False)
        if rmp.live and rmp.base <= address < rmp.end:
            offset = address - rmp.base - RMP_HEAD
            if offset + length > 0:
                self.refresh_range(max(offset, 0) // _OWN, length // _OWN + 2)
            return rmp.rendered(address, length)
        data: bytes | Fault = self.below.memory.peek(self.address_below(address), length)
        return data

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        if LOW_DRAM <= address < HIGH_DRAM:
            return not_present(address, write=True)
        if self.rmp.assigned(address >> PAGE_SHIFT):
            return rmp_violation(address)
        return None  # the trusted region without SNP: the store is lost

    def table_written(self, address: int, length: int) -> None:
        self.shadows.written(address >> PAGE_SHIFT)

    def fetch(self, address: int, length: int) -> bytes:
        data = self.peek(address, length)
        assert isinstance(data, bytes), f"the firmware reads where it may not: {data}"
        return data

    def deposit(self, address: int, data: bytes) -> None:
        """This level stores for the firmware: to frames of its own, whatever the soft RMP says."""
        done_ = 0
        while done_ < len(data):
            at = address + done_
            n = min(len(data) - done_, PAGE - at % PAGE)
            fault = self.below.memory.write(self.address_below(at), data[done_ : done_ + n])
            assert fault is None, f"a page at {at:#x} is not this level's to write: {fault}"
            if self.attention_of(at >> PAGE_SHIFT) & TABLE:
                self.table_written(at, n)
            done_ += n

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
        return TREATMENTS[spec.name](self, spec, b)

    def before_rebuild(self) -> Step[None]:
        yield from teardown.contexts(self, "snp_init")
        yield from teardown.sweep(self, "snp_init")

    def end_guests(self) -> Step[None]:
        return teardown.legacy_guests(self, "shutdown")

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
            self.ram.left(self.slots)

    def drop_shadows(self) -> None:
        self.shadows.clear()
        self.below.pool.give([block >> PAGE_SHIFT for block in self._shadow_vmcbs.values()])
        self.book.drop("shadow_vcpu", len(self._shadow_vmcbs))
        self._shadow_vmcbs.clear()
