"""The three kinds of secure guest: what a host does for each, and what each does by itself.

Sections 6.2 to 6.6 and 6.9 of the fact sheet. What a plan calls by words of another architecture is here the
nearest thing that such a guest has (a choice of this program, not of any document):

diag_notify   a doorbell: a store to a device's page       sclp   the console: IN or OUT
diag_500      a device's register: a load from that page   wait   HLT

A guest with encrypted registers asks for them by VMGEXIT. One without (plain SEV) exits by itself: HLT, and
nested faults at a page that is a device's, whose instruction its host completes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from protocol.arch.sev.cpu import GHCB_MSR
from protocol.arch.sev.guest import GuestStep, Leave, Program, Touch, Wrmsr
from protocol.arch.sev.host import attest, bulk
from protocol.arch.sev.host.guests import SNP_POLICY, VMSA_GPA
from protocol.arch.sev.host.vm import (
    PSC_ENTRIES,
    PSC_EVENT,
    SHARED_BUFFER,
    SW_EXITCODE,
    SW_SCRATCH,
    TO_PRIVATE,
    TO_SHARED,
    GuestFailed,
    Vm,
    run,
)
from protocol.arch.sev.rmp import NPF_ENC
from protocol.arch.sev.status import ES, NODBG, PageType, Status
from protocol.arch.sev.structs import (
    ES_ON,
    FIRMWARE,
    MEASURE_LEN,
    NESTED_PAGING,
    PAGE,
    REPORT_LEN,
    SEV_ON,
    U64,
    Exit,
    NewState,
)
from protocol.effects import Step
from protocol.errors import OperationFailed

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host
    from protocol.arch.sev.image import Launch

MMIO_READ, MMIO_WRITE, AP_CREATION = 0x8000_0001, 0x8000_0002, 0x8000_0013
IOIO, HLT = 0x7B, 0x78
EVENTS = {"diag_notify": MMIO_WRITE, "diag_500": MMIO_READ, "sclp": IOIO, "wait": HLT}
VMGEXIT = frozenset({"vmgexit"})


class Kind:
    """What all kinds have: a control block, an ASID of a range, exits."""

    name: ClassVar[str]
    snp: ClassVar[bool]
    encrypted_state: ClassVar[bool]
    mode: ClassVar[int]
    reasons: ClassVar[frozenset[str]]  # of exits, as the machine counts them

    def create(self, host: Host, vm: Vm) -> Step[None]:
        """The guest's entity in the firmware, bound to an ASID."""
        raise NotImplementedError

    def load(self, host: Host, vm: Vm, launch: Launch) -> Step[None]:
        raise NotImplementedError

    def start(self, host: Host, vm: Vm) -> Step[None]:
        raise NotImplementedError

    def destroy(self, host: Host, vm: Vm) -> Step[None]:
        """Its entity goes, and pages come back; who frees them is the caller."""
        raise NotImplementedError

    def accept(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        """The guest makes pages its own before it uses them."""
        raise NotImplementedError

    def open(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        """The guest shares pages with its host."""
        raise NotImplementedError

    def bring_in(self, host: Host, vm: Vm, page: int) -> Step[None]:
        """Put memory under a private page."""
        raise NotImplementedError

    def buffers(self, vm: Vm) -> tuple[int, ...]:
        """Pages that a guest shares to be attested. Raises OperationFailed if it cannot be."""
        return ()

    def attest(self, host: Host, vm: Vm, vcpu: int, number: int) -> Step[bytes]:
        """What proves to a guest's owner what it is, asked for the `number`-th time."""
        raise NotImplementedError

    def guest_request(self, host: Host, vm: Vm, ghcb: int) -> Step[None]:
        """The guest has a message for the firmware."""
        raise GuestFailed(f"guest {vm.number} has nothing to say to the firmware")

    def exit_of(self, vm: Vm, vcpu: int, reason: str) -> Iterator[GuestStep]:
        """Steps that end in one exit. Raises ValueError for a reason that is none."""
        if reason not in EVENTS:
            raise ValueError(f"no exit of an AMD guest: {reason!r}; allowed: {', '.join(EVENTS)}")
        return event_of(vm, vcpu, EVENTS[reason])

    def nested_fault(self, host: Host, vm: Vm, left: Exit, program: Program) -> Step[None]:
        raise NotImplementedError


def event_of(vm: Vm, vcpu: int, event: int) -> Iterator[GuestStep]:
    yield Touch(vm.ghcb(vcpu) + SW_EXITCODE, True, U64.pack(event))
    yield Leave("vmgexit")


def _start_each(host: Host, vm: Vm) -> Step[None]:
    """Each VCPU tells of its GHCB; the first one starts the others, which run on the VMSAs of the launch."""
    for number in range(len(vm.vmcbs)):
        if number:
            yield from run(host, vm, 0, event_of(vm, 0, AP_CREATION))
        yield from run(host, vm, number, [Wrmsr(GHCB_MSR, vm.ghcb(number))])


class Snp(Kind):
    """Pages change hands by the RMP: the host assigns, the guest validates."""

    name = "snp"
    snp = encrypted_state = True
    mode = NESTED_PAGING | SEV_ON | ES_ON
    reasons = VMGEXIT

    def create(self, host: Host, vm: Vm) -> Step[None]:
        driver = host.driver
        vm.response, vm.context = host.page(), host.page()
        yield from driver.rmpupdate(vm.response, FIRMWARE)
        yield from driver.rmpupdate(vm.context, FIRMWARE)
        yield from driver.command("SNP_GCTX_CREATE", gctx=vm.context)
        yield from driver.command("SNP_LAUNCH_START", gctx=vm.context, policy=SNP_POLICY)
        vm.asid = yield from host.asids.activate(driver, "SNP_ACTIVATE", gctx=vm.context)

    def load(self, host: Host, vm: Vm, launch: Launch) -> Step[None]:
        """Page by page, then a VMSA for each VCPU."""
        driver = host.driver
        for page in launch.pages:
            if page.kind == PageType.SECRETS:
                vm.secrets = page.gpa
            under = host.page()
            driver.write(under, page.data)
            yield from self._measured(host, vm, under, page.gpa, page.kind)
            number = page.gpa // PAGE
            vm.private[number] = under
            vm.accepted.add(number)
            host.keep("native_page", 1)
            vm.tables.map(page.gpa, under)
        for vmsa, registers in zip(vm.vmsas, launch.vmsas, strict=True):
            driver.write(vmsa, registers)
            yield from self._measured(host, vm, vmsa, VMSA_GPA, PageType.VMSA)
        yield from driver.command("SNP_LAUNCH_FINISH", gctx=vm.context)

    def _measured(self, host: Host, vm: Vm, page: int, gpa: int, kind: int) -> Step[None]:
        yield from host.driver.rmpupdate(page, NewState(gpa, True, False, True, vm.asid))
        yield from host.driver.command("SNP_LAUNCH_UPDATE", gctx=vm.context, flags=kind << 1, pa=page)

    def start(self, host: Host, vm: Vm) -> Step[None]:
        return _start_each(host, vm)

    def buffers(self, vm: Vm) -> tuple[int, ...]:
        if vm.secrets < 0:
            raise OperationFailed(f"guest {vm.number} was launched without a secrets page: it has no keys")
        return attest.BUFFERS

    def attest(self, host: Host, vm: Vm, vcpu: int, number: int) -> Step[bytes]:
        return attest.report(host, vm, vcpu, number)

    def guest_request(self, host: Host, vm: Vm, ghcb: int) -> Step[None]:
        return attest.answer(host, vm, ghcb)

    def destroy(self, host: Host, vm: Vm) -> Step[None]:
        """The context first, then its pages one by one."""
        driver = host.driver
        yield from driver.take_back(vm.response)
        leave = driver.command("SNP_DECOMMISSION", gctx=vm.context)
        yield from host.asids.lock.leave(host.level, leave)
        yield from driver.take_back(vm.context)
        yield from bulk.take_back(host, vm, (*vm.vmsas, *vm.private.values()))
        host.give([vm.response, vm.context])

    def accept(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        """Ask for private pages, many at a time, then validate each: the first to reach it brings it in."""
        yield from self._convert(host, vm, vcpu, pages, TO_PRIVATE)
        yield from bulk.step_with(host, vm, vcpu, bulk.ACCEPT, pages)

    def open(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        """Buffers are accepted memory like any other before; the guest takes its mark off and asks."""
        fresh = [page for page in pages if page not in vm.accepted]
        yield from self.accept(host, vm, vcpu, fresh)
        vm.accepted.update(fresh)
        yield from bulk.step_with(host, vm, vcpu, bulk.REJECT, pages)
        yield from self._convert(host, vm, vcpu, pages, TO_SHARED)

    def _convert(self, host: Host, vm: Vm, vcpu: int, pages: list[int], operation: int) -> Step[None]:
        """Lists in the GHCB, each with VMGEXIT, which goes to the VMM."""
        lists = [pages[at : at + PSC_ENTRIES] for at in range(0, len(pages), PSC_ENTRIES)]
        same = operation == TO_PRIVATE and host.pages != "merged_l1" and vm.open.isdisjoint(pages)

        def ask(some: Sequence[int]) -> Step[None]:
            return self._ask(host, vm, vcpu, some, operation)

        yield from bulk.ask(host, lists, ask, nothing_to_do=same)

    def _ask(self, host: Host, vm: Vm, vcpu: int, pages: Sequence[int], operation: int) -> Step[None]:
        ghcb = vm.ghcb(vcpu)
        head = bytes(2) + (len(pages) - 1).to_bytes(2, "little") + bytes(4)
        entries = b"".join(U64.pack(page << 12 | operation << 52) for page in pages)
        steps = (
            Touch(ghcb + SHARED_BUFFER, True, head + entries),
            Touch(ghcb + SW_SCRATCH, True, U64.pack(ghcb + SHARED_BUFFER)),
        )
        yield from run(host, vm, vcpu, chain(steps, event_of(vm, vcpu, PSC_EVENT)), VMGEXIT)

    def nested_fault(self, host: Host, vm: Vm, left: Exit, program: Program) -> Step[None]:
        """The first touch of a page: private or shared, as the guest meant it and as the VMM was told."""
        page = left.info2 // PAGE
        private = bool(left.info1 & NPF_ENC)
        if page >= vm.pages or private is (page in vm.open) or page in (vm.private if private else vm.shared):
            raise GuestFailed(f"guest {vm.number} faults at {left.info2:#x}, code {left.info1:#x}")
        if private:
            yield from self.bring_in(host, vm, page)
            return
        vm.shared[page] = host.page()
        host.keep("native_page", 1)
        vm.tables.map(page * PAGE, vm.shared[page])

    def bring_in(self, host: Host, vm: Vm, page: int) -> Step[None]:
        under = host.page()
        yield from host.driver.rmpupdate(under, NewState(page * PAGE, True, False, False, vm.asid))
        vm.private[page] = under
        host.keep("native_page", 1)
        vm.tables.map(page * PAGE, under)


class Sev(Kind):
    """Memory encryption alone: a page is private if the guest uses it so, and nobody has to be told."""

    name = "sev"
    snp = encrypted_state = False
    mode = NESTED_PAGING | SEV_ON
    reasons = frozenset({"npf", "hlt"})
    policy = NODBG

    def create(self, host: Host, vm: Vm) -> Step[None]:
        driver = host.driver
        yield from driver.command("LAUNCH_START", policy=self.policy)
        vm.handle = driver.field("LAUNCH_START", "handle")
        vm.asid = yield from host.asids.activate(driver, "ACTIVATE", handle=vm.handle)

    def load(self, host: Host, vm: Vm, launch: Launch) -> Step[None]:
        """Runs of pages that lie together in the guest lie together in the host, and are one call each."""
        driver = host.driver
        for gpa, data in _runs(launch):
            first = host.run_of_pages(-(-(gpa % PAGE + len(data)) // PAGE))
            driver.write(first + gpa % PAGE, data)
            for number in range(-(-(gpa % PAGE + len(data)) // PAGE)):
                page = gpa // PAGE + number
                vm.private[page] = first + number * PAGE
                vm.accepted.add(page)
                vm.tables.map(page * PAGE, first + number * PAGE)
                host.keep("native_page", 1)
            yield from self._update(host, vm, "LAUNCH_UPDATE_DATA", first + gpa % PAGE, len(data))
        for vmsa, registers in zip(vm.vmsas, launch.vmsas, strict=False):
            driver.write(vmsa, registers)
            yield from self._update(host, vm, "LAUNCH_UPDATE_VMSA", vmsa, PAGE)
        blob = host.page()
        yield from driver.command("LAUNCH_MEASURE", (Status.INVALID_LENGTH,), handle=vm.handle)
        yield from driver.lent((blob,), "LAUNCH_MEASURE", handle=vm.handle, pa=blob, len=MEASURE_LEN)
        vm.measurement = driver.read(blob, MEASURE_LEN)
        host.give([blob])
        yield from driver.command("LAUNCH_FINISH", handle=vm.handle)

    def _update(self, host: Host, vm: Vm, name: str, address: int, length: int) -> Step[int]:
        pages = range(address // PAGE * PAGE, address + length, PAGE)
        return host.driver.lent(pages, name, handle=vm.handle, pa=address, len=length)

    def start(self, host: Host, vm: Vm) -> Step[None]:
        yield from ()

    def destroy(self, host: Host, vm: Vm) -> Step[None]:
        driver = host.driver
        leave = driver.command("DEACTIVATE", handle=vm.handle)
        yield from host.asids.lock.leave(host.level, leave)
        yield from driver.command("DECOMMISSION", handle=vm.handle)

    def accept(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        yield from ()

    def open(self, host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
        yield from ()

    def attest(self, host: Host, vm: Vm, vcpu: int, number: int) -> Step[bytes]:
        """The report is asked for twice: first for its length."""
        driver, page = host.driver, host.page()
        yield from driver.command("ATTESTATION", (Status.INVALID_LENGTH,), handle=vm.handle)
        yield from driver.lent((page,), "ATTESTATION", handle=vm.handle, pa=page, len=REPORT_LEN)
        report = driver.read(page, REPORT_LEN)
        host.give([page])
        return report

    def exit_of(self, vm: Vm, vcpu: int, reason: str) -> Iterator[GuestStep]:
        if reason not in EVENTS:
            raise ValueError(f"no exit of an AMD guest: {reason!r}; allowed: {', '.join(EVENTS)}")
        yield Leave("hlt") if reason == "wait" else Touch(vm.device, write=reason != "diag_500")

    def nested_fault(self, host: Host, vm: Vm, left: Exit, program: Program) -> Step[None]:
        """A device's page is emulated, which completes the instruction; any other page gets memory."""
        page = left.info2 // PAGE
        if left.info2 == vm.device:
            program.steps.popleft()
            return
        if page >= vm.pages or page in vm.private:
            raise GuestFailed(f"guest {vm.number} faults at {left.info2:#x}, code {left.info1:#x}")
        yield from self.bring_in(host, vm, page)

    def bring_in(self, host: Host, vm: Vm, page: int) -> Step[None]:
        vm.private[page] = host.page()
        host.keep("native_page", 1)
        vm.tables.map(page * PAGE, vm.private[page])
        yield from ()


class SevEs(Sev):
    """Registers are encrypted, too: VMSAs are measured, exits are asked for."""

    name = "sev-es"
    encrypted_state = True
    mode = NESTED_PAGING | SEV_ON | ES_ON
    reasons = VMGEXIT
    policy = NODBG | ES

    def start(self, host: Host, vm: Vm) -> Step[None]:
        return _start_each(host, vm)

    def exit_of(self, vm: Vm, vcpu: int, reason: str) -> Iterator[GuestStep]:
        return Kind.exit_of(self, vm, vcpu, reason)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Sev(), SevEs(), Snp())}


def _runs(launch: Launch) -> Iterable[tuple[int, bytes]]:
    """(guest address, bytes) of pages that follow one another."""
    first, run = 0, bytearray()
    for page in launch.pages:
        if run and page.gpa != first + len(run):
            yield first, bytes(run)
            run.clear()
        first = first if run else page.gpa
        run += page.data
    if run:
        yield first, bytes(run)
