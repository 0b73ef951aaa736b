"""What KVM does for a guest host that wants to run SVMs: sections 3 and 8 of the fact sheet.

Nobody has built it.

Theory of operation. `Nested` is a level like the machine is one, and stands on one. The ultravisor reflects
`sc 2` of a guest host's CPU to this level (that is the change to the Trusted Entity that nesting needs;
`reflected=False` is the ultravisor as it is, which answers U_PERMISSION by itself). Ultracalls are re-
issued with LPID and address exchanged (`treatments`), vcpus run under shadow LPIDs on shadow tables
(`entry`), and whatever is left behind is ended (`teardown`). SVMs of a guest host call the real ultravisor;
what that asks comes up as exits and is handed on.

The guest host's secure memory is a quota. Its memory is plain: nothing is donated, and a page that went into
the ultravisor is one that it does not map any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from protocol.arch.pef import front
from protocol.arch.pef.cpu import Cpu, Entry, Exit, Stopped, gprs, machine_check
from protocol.arch.pef.guest import Program
from protocol.arch.pef.machine.init import DebugRegisters
from protocol.arch.pef.nesting import entry, teardown
from protocol.arch.pef.nesting.records import SMALL_PAGES, Held, Lpids, Record, TableMemory
from protocol.arch.pef.nesting.treatments import PASSED_BY_ID, TREATMENTS
from protocol.arch.pef.profiles import V1, V2, Profile
from protocol.arch.pef.radix import HR, Tree, entry_of
from protocol.arch.pef.status import FUNCTION, PERMISSION, SUCCESS, signed, unsigned
from protocol.arch.pef.tables import ORDER, PAGE_SHIFT
from protocol.calls import CallSpec, Treatment
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames
from protocol.nesting.guest_host import GuestHost, Hypervisor
from protocol.tracking import Book

T = TypeVar("T")
_SMALL_SHIFT = PAGE_SHIFT - 12


class Nested(GuestHost[Any]):
    """The ultravisor and the processor as the guest host L(level) meets them.

    `kvm_cpus` are the level's own CPUs: one for each CPU of the guest host, and one for the level's own work
    on it. `lpids` are the shadow LPIDs of its seat.
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
        lpids: Lpids,
        reflected: bool = True,
        api: str = V1,
    ) -> None:
        super().__init__(below, frames, ledger)
        if len(kvm_cpus) <= len(cpus):
            raise ValueError(f"{len(kvm_cpus)} CPUs of the level below: {len(cpus) + 1} are needed")
        self.cpus = list(cpus)
        self.calls = calls
        self.profile = profile
        self.reflected = reflected
        self.api = api
        self.ids: dict[int, bool] = {}  # guest ids given out -> the level below this one gave it
        self.leaving: set[int] = set()  # those of them that are on their way back
        self.book = Book(ledger, f"l{below.level}")
        self._below_cpus = list(kvm_cpus)
        self.keeper = Cpu(len(cpus))
        self.lpids = lpids
        self.records: dict[int, Record] = {}
        self._pinned: dict[int, int] = {}  # pages that calls under way name -> how many
        self.open: dict[int, Record] = {}  # by the cookies of its open reflections
        self.reserved = 0  # units of its slots
        self.reserving = 0  # units of registrations that are under way below
        self.debug = DebugRegisters()
        self.stopped = ""
        self.dead = False

    # -- the level -------------------------------------------------------------------------------------------

    def call(
        self, cpu: Cpu, gpr: Sequence[int], hsrr0: int = 0, stay: bool = False, program: Program | None = None
    ) -> Step[list[int] | Exit | Stopped]:
        """`sc 2` of the guest host: the ultravisor reflects it to this level."""
        out = list(gpr)
        number = out[3]
        refused = self._refusal(cpu, number)
        if refused is not None:
            out[3] = unsigned(refused)
            return out
        spec = self.calls[number]
        self.ledger.trap(self.level, "enter_nested" if number == front.RETURN else "ultracall")
        treatment = Treatment.PASSED if self.api == V2 and number in PASSED_BY_ID else spec.treatment
        self.ledger.count(("te_calls", spec.name, spec.category, treatment, str(self.level)))
        answer: list[int] | Exit | Stopped = out
        if number == front.RETURN:
            answer = yield from entry.uv_return(self, cpu, out, hsrr0, stay, program)
        elif spec.for_guest():
            answer = yield from entry.as_vcpu(self, cpu, out, program)
        else:
            record = self.records.get(out[4]) if spec.handle else None
            if spec.handle:
                self.ledger.count(("lookups", "vm_map", "miss" if record is None else "hit"))
            out[3] = unsigned((yield from self.under_way(cpu, record, TREATMENTS[number](self, cpu, out))))
        self.ledger.reenter(self.below.level)
        return answer

    def enter(self, cpu: Cpu, it: Entry) -> Step[Exit | Stopped]:
        """H_ENTER_NESTED."""
        self.ledger.trap(self.level, "enter_nested")
        left = yield from entry.enter(self, cpu, it)
        self.ledger.reenter(self.below.level)
        return left

    def tlbie(self, cpu: Cpu, lpid: int, gpa: int) -> Step[None]:
        """H_TLB_INVALIDATE: the shadow table forgets what it had."""
        self.ledger.trap(self.level, "tlb_invalidate")
        record = self.records.get(lpid)
        if record is not None and record.mapped.pop(gpa >> PAGE_SHIFT, None) is not None:
            yield from self.under_way(cpu, record, self._unmap(cpu, record, gpa >> PAGE_SHIFT))
        self.ledger.reenter(self.below.level)

    def own_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        """The guest host's partition table is in its memory; this level looks at it."""
        yield from self.under_way(cpu, self.records.get(lpid), self.put_entry(cpu, lpid, dw0, dw1))

    def new_lpid(self, cpu: Cpu) -> Step[int | None]:
        """H_GUEST_CREATE: the very LPID under which the VM will run, down to the machine; 0: none is left."""
        if self.api == V1:
            return None
        self.ledger.trap(self.level, "guest_create")
        lower: int | None = yield from self.below.memory.new_lpid(self.cpu_below(cpu))
        own = self.lpids.take() if lower is None and self.lpids.free else 0
        lpid = own if lower is None else lower
        if lpid:
            self.ids[lpid] = lower is not None
            self.book.add("vm_map")
        self.ledger.reenter(self.below.level)
        return lpid

    def give_lpid(self, cpu: Cpu, lpid: int) -> Step[None]:
        """H_GUEST_DELETE: a VM that still runs under the id ends with it, when nothing is under way."""
        if lpid not in self.ids or lpid in self.leaving:
            return
        self.ledger.trap(self.level, "guest_delete")
        self.leaving.add(lpid)
        record = self.records.get(lpid)
        if record is not None:
            record.ending += 1
        if record is None or not record.busy:
            yield from self.delete(cpu, lpid, "guest_delete")
        self.ledger.reenter(self.below.level)

    def delete(self, cpu: Cpu, lpid: int, cause: str) -> Step[None]:
        """An id goes back to where it came from. Where its host ends before that is asked, that end asks."""
        try:
            if (record := self.records.get(lpid)) is not None:
                yield from teardown.vm(self, record, cause)
            if self.ids[lpid]:
                yield from self.below.memory.give_lpid(self.cpu_below(cpu), lpid)
            else:
                self.lpids.give(lpid)
        finally:
            self.leaving.discard(lpid)
        del self.ids[lpid]
        self.book.drop("vm_map")

    def tpm_public(self) -> bytes:
        public: bytes = self.below.memory.tpm_public()
        return public

    def tpm_execute(self, cpu: Cpu, command: bytes) -> Step[bytes]:
        """The guest host's TPM is the one below."""
        self.ledger.trap(self.level, "tpm", "vmm")
        answer: bytes = yield from self.below.memory.tpm_execute(self.cpu_below(cpu), command)
        self.ledger.reenter(self.below.level)
        return answer

    def tpm_close(self, cpu: Cpu) -> Step[None]:
        self.ledger.trap(self.level, "tpm", "vmm")
        yield from self.below.memory.tpm_close(self.cpu_below(cpu))
        self.ledger.reenter(self.below.level)

    def _refusal(self, cpu: Cpu, number: int) -> int | None:
        if not self.profile.ultravisor:
            return FUNCTION
        refused = front.refusal(number, front.context_of(cpu), self.profile.choices)
        if refused is None and not self.reflected and number in front.FOR_HOST:
            return PERMISSION  # a guest host runs with HV=0, and that is all the ultravisor sees
        return refused

    def stop(self, reason: str) -> Stopped:
        """What would be the end of the machine is the guest host's alone."""
        self.stopped = reason
        return Stopped(reason)

    # -- below -----------------------------------------------------------------------------------------------

    def cpu_below(self, cpu: Cpu) -> Cpu:
        """The level's own CPU on which `cpu` of the guest host runs."""
        below = self._below_cpus[cpu.number]
        below.origin = cpu.origin or self.level
        return below

    def ucall(self, cpu: Cpu, number: int, *arguments: int) -> Step[int]:
        """An ultracall of this level's own, for the guest host."""
        gpr = gprs(r3=number)
        gpr[4 : 4 + len(arguments)] = arguments
        out = yield from self.below.memory.call(self.cpu_below(cpu), gpr)
        assert isinstance(out, list), f"{number:#x} left the hypervisor"
        return signed(out[3])

    @property
    def locks(self) -> Held:
        """What keeps others away just now."""
        return Held(self.records)

    def under_way(self, cpu: Cpu, record: Record | None, step: Step[T]) -> Step[T]:
        """Something that names a VM below. What comes back last takes with it what is to be given back."""
        if record is None:
            return (yield from step)
        record.busy += 1
        try:
            answer = yield from step
        finally:
            record.busy -= 1
        if not record.busy and record.lpid in self.leaving:
            yield from self.delete(cpu, record.lpid, "guest_delete")
        elif not record.busy and record.gone and not record.svm:
            self.forget(record)
        return answer

    # -- VMs -------------------------------------------------------------------------------------------------

    def record(self, lpid: int) -> Record:
        """The record of a VM that is going to run, made if there is none. Raises OutOfFrames, as `_made`."""
        known = self.records.get(lpid)
        return self._made(lpid, (0, 0)) if known is None else known

    def write_first(self, cpu: Cpu, record: Record) -> Step[None]:
        """Before a vcpu goes in the level below has an entry for it."""
        if not record.written:
            yield from self._write_below(cpu, record)

    def _made(self, lpid: int, its: tuple[int, int]) -> Record:
        """Raises OutOfFrames where the level has given all the memory or all the LPIDs that it has."""
        if self.api == V1 and not self.lpids.free:
            raise OutOfFrames("no shadow LPID")
        tables = TableMemory(self.below.pool)
        memory = self.below.memory
        tree = Tree(memory.peek, memory.write, lambda size: self._table(tables, size))
        shadow = lpid if self.api == V2 else self.lpids.take()
        made = Record(lpid, shadow, tables, tree, its)
        self.records[lpid] = made
        self.book.add("vm_map")
        return made

    @property
    def lpids_held(self) -> int:
        """Of the seat's share, how many the guest host's VMs have by this level's own records."""
        return len(self.records) if self.api == V1 else list(self.ids.values()).count(False)

    def _table(self, tables: TableMemory, size: int) -> int:
        at, fresh = tables.take(size)
        if fresh:
            page = tables.pages[-1] >> 12
            self.below.memory.clear(np.arange(page, page + SMALL_PAGES))
        return at

    def put_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        """The guest host's partition table entry of `lpid` is this one now."""
        record = self.records.get(lpid)
        if record is None:
            if (dw0, dw1) != (0, 0) and self.may_use(lpid):
                made = self._made(lpid, (dw0, dw1))
                yield from self.under_way(cpu, made, self._write_below(cpu, made))
            return
        if record.svm:
            dw0 = record.entry[0]
        elif dw0 != record.entry[0]:
            while record.mapped:  # another CPU may take some of them meanwhile
                gfn, _ = record.mapped.popitem()
                yield from self._unmap(cpu, record, gfn)
        record.entry, record.gone = (dw0, dw1), False
        self.book.change("vm_map")
        if (dw0, dw1) == (0, 0) and not record.svm:
            yield from self.take_out(cpu, record)
            record.gone = record.entry == (0, 0)  # another CPU may have written it anew
        else:
            yield from self._write_below(cpu, record)

    def _write_below(self, cpu: Cpu, record: Record) -> Step[None]:
        record.written = True
        dw0, dw1 = record.entry
        yield from self._entry_below(cpu, record, entry_of(record.tree.root, bool(dw0 & HR)), dw1)

    def take_out(self, cpu: Cpu, record: Record) -> Step[None]:
        """There is no entry of a VM below any more."""
        yield from self._entry_below(cpu, record, 0, 0)

    def _entry_below(self, cpu: Cpu, record: Record, dw0: int, dw1: int) -> Step[None]:
        if self.profile.ultravisor:
            yield from self.ucall(cpu, front.WRITE_PATE, record.shadow, dw0, dw1)
        else:
            yield from self.below.memory.own_entry(self.cpu_below(cpu), record.shadow, dw0, dw1)

    def end_below(self, cpu: Cpu, record: Record) -> Step[int]:
        """UV_SVM_TERMINATE: meanwhile no vcpu goes in."""
        record.ending += 1
        try:
            status = yield from self.ucall(cpu, front.SVM_TERMINATE, record.shadow)
        finally:
            record.ending -= 1
        if status == SUCCESS:
            self._ended(record)
        return status

    def _ended(self, record: Record) -> None:
        """One that was secure has lost its partition table entry with it."""
        if record.secure:
            record.entry, record.gone, record.secure = (0, 0), True, False
        self._nothing_of(record)

    def _nothing_of(self, record: Record) -> None:
        """The ultravisor has nothing of this VM any more."""
        self.book.drop("te_object", len(record.slots) + record.svm)
        self.book.drop("vcpu_map", len(record.open))
        self.book.drop("native_page", len(record.bound))
        self.reserved -= sum(record.slots.values())
        record.slots.clear()
        record.ranges.clear()
        for cookie in record.open:
            self.open.pop(cookie, None)
        record.open.clear()
        record.bound.clear()
        record.shared.clear()
        record.lost.clear()
        record.svm = False
        record.lives += 1

    def forget(self, record: Record) -> None:
        """Nothing of a VM is left below."""
        self._nothing_of(record)
        self.book.drop("vm_map")
        del self.records[record.lpid]
        record.tables.give_all()
        if self.api == V1:
            self.lpids.give(record.shadow)

    def may_use(self, lpid: int) -> bool:
        """May the guest host run a VM under this LPID? It picks within its profile, or is given one."""
        return lpid < self.profile.lpids if self.api == V1 else lpid in self.ids and lpid not in self.leaving

    def units(self) -> int:
        """Secure memory that the guest host has reserved, and what it is about to reserve."""
        return self.reserving + self.reserved

    # -- pages -----------------------------------------------------------------------------------------------

    def map(self, record: Record, gfn: int, page: int) -> None:
        """Let a GFN of a VM lead to a page of the guest host's, in the shadow table."""
        record.tree.map(gfn << PAGE_SHIFT, self.address_below(page << PAGE_SHIFT))
        record.mapped[gfn] = page

    def _unmap(self, cpu: Cpu, record: Record, gfn: int) -> Step[None]:
        self.ledger.count(("table_ops", "unmap"))
        record.tree.unmap(gfn << PAGE_SHIFT)
        yield from self.below.memory.tlbie(self.cpu_below(cpu), record.shadow, gfn << PAGE_SHIFT)

    def given(self, record: Record, gfn: int, page: int) -> None:
        """The ultravisor took a page of the guest host's: one that it keeps using is pinned."""
        if gfn not in record.shared:
            return
        if gfn not in record.bound:
            self.book.add("native_page")
        record.bound[gfn] = page
        record.lost.discard(gfn)

    def unbind(self, record: Record, gfn: int) -> None:
        """The ultravisor uses no page of the guest host's for this GFN any more."""
        if record.bound.pop(gfn, None) is not None:
            self.book.drop("native_page")
            record.lost.discard(gfn)

    def pin(self, page: int) -> None:
        """A call that names this page is under way below: it stays where it is."""
        self._pinned[page] = self._pinned.get(page, 0) + 1

    def unpin(self, page: int) -> None:
        self._pinned[page] -= 1
        if not self._pinned[page]:
            del self._pinned[page]

    def moves(self, page: int, frame: int) -> Step[bool]:
        """Put other frames, from `frame` on, under a page of the guest host's. False if it cannot move now.

        The guest host does not learn of it: what is shared is invalidated, and bound again when it is used.
        """
        while (held := self._holder_of(page)) is not None:
            if not (yield from self.under_way(self.keeper, held[0], self._let_go(*held))):
                return False
        if page in self._pinned:
            return False
        for place in range(SMALL_PAGES):
            small = page * SMALL_PAGES + place
            self.move_under(small, frame + place)
        return True

    def _holder_of(self, page: int) -> tuple[Record, int] | None:
        """A VM that reaches a page of the guest host's, and by which GFN."""
        for record in self.records.values():
            for gfn, at in record.mapped.items():
                if at == page:
                    return record, gfn
            for gfn, at in record.bound.items():
                if at == page and gfn not in record.lost:
                    return record, gfn
        return None

    def _let_go(self, record: Record, gfn: int) -> Step[bool]:
        """Take a page from a VM: out of the shadow table, or from the ultravisor."""
        if record.mapped.pop(gfn, None) is not None:
            yield from self._unmap(self.keeper, record, gfn)
            return True
        record.lost.add(gfn)
        address = gfn << PAGE_SHIFT
        status = yield from self.ucall(self.keeper, front.PAGE_INVAL, record.shadow, address, ORDER)
        if status != SUCCESS:
            record.lost.discard(gfn)
        return status == SUCCESS

    # -- memory: nothing is ever guarded ---------------------------------------------------------------------

    def outside(self, address: int, write: bool) -> Fault:
        return machine_check(address, write)

    def guarded_peek(self, address: int, length: int) -> bytes | Fault:
        raise AssertionError(f"{address:#x}: nothing is donated here")  # pragma: no cover - as it says

    def guarded_poke(self, address: int, data: bytes) -> Fault | None:
        raise AssertionError(f"{address:#x}: nothing is donated here")  # pragma: no cover - as it says

    def table_written(self, address: int, length: int) -> None:
        raise AssertionError(f"{address:#x}: no table is protected here")  # pragma: no cover - as it says

    # -- the guest host goes, or comes back ------------------------------------------------------------------

    def tracked(self) -> dict[str, int]:
        """What this level has noted, in the console's words for the ultravisor."""
        records = self.records.values()
        return {
            "svms": sum(record.svm for record in records),
            "slots": sum(len(record.slots) for record in records),
            "units": self.units(),
            "open_reflections": sum(len(record.open) for record in records),
        }

    def reset(self, cause: str = "l1_reboot") -> Step[None]:
        """Sudden reboot."""
        yield from teardown.everything(self, cause)
        self.debug = DebugRegisters()
        self.stopped = ""
        for cpu in self.cpus:
            cpu.reset()

    def death(self, cause: str = "l1_crash") -> Step[None]:
        """Sudden death: the same, and all memory goes back."""
        yield from teardown.everything(self, cause)
        self.scrub_and_return()
        self.dead = True

    def give_frames(self, frames: np.ndarray) -> None:
        """Pages of 64 KiB, each in one piece."""
        for first in frames[::SMALL_PAGES].tolist():
            self.below.pool.give_run(first, SMALL_PAGES)


__all__ = ["Nested"]
