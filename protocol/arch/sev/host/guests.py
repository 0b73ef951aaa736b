"""Guests as KVM and QEMU make and end them:

sections 6.2 to 6.6 and 6.9 of the fact sheet, with its counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.arch.sev.cpu import GHCB_MSR, VM_HSAVE_PA
from protocol.arch.sev.crypto import message as messages
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.guest import GuestStep, Leave, Program, Pvalidate, Touch, Wrmsr
from protocol.arch.sev.host.asids import AsidPool
from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.status import ES, NODBG, POLICY_ONE, SMT_ALLOWED, PageType, Status
from protocol.arch.sev.structs import (
    ES_ON,
    EXIT_INTR,
    EXIT_NPF,
    EXIT_VMGEXIT,
    FIRMWARE,
    HEADER_LEN,
    MEASURE_LEN,
    NESTED_PAGING,
    PAGE,
    REPORT_LEN,
    SEV_ON,
    SHARED,
    SNP_ACTIVE,
    SNP_REPORT_LEN,
    U32,
    U64,
    VMCB_ASID,
    VMCB_MODE,
    VMCB_NCR3,
    VMCB_VMSA,
    VMSA_FEATURES,
    Exit,
    NewState,
)
from protocol.effects import Fault, Step

KINDS = ("sev", "es", "snp")
VMSA_GPA = 0xFFFF_FFFF_F000
SNP_POLICY = POLICY_ONE | SMT_ALLOWED
SECRET = b"nestbed launch secret".ljust(32, b"\0")
PSC_EVENT, REQUEST_EVENT = 0x8000_0010, 0x8000_0011
PSC_ENTRIES = 253
_SW_EXITCODE, _SW_EXITINFO2, _SW_SCRATCH = 0x390, 0x3A0, 0x3A8
_SHARED_BUFFER = 0x800  # of a GHCB
_CONVERT = {"private": 1, "shared": 2}


@dataclass(slots=True)
class Vm:
    """A guest as its VMM knows it. `pages` are addresses of its memory in the order of GPAs."""

    number: int
    kind: str
    tables: Tables
    pages: list[int]
    asid: int = 0
    handle: int = 0  # or the address of the context page
    vmsas: list[int] = field(default_factory=list)
    vmcbs: list[int] = field(default_factory=list)
    response: int = 0
    private: list[bool] = field(default_factory=list)
    window: int = 0  # GPA of three pages that are always shared: GHCB, request, response
    sequence: int = 1


class Guests:
    """KVM with all its guests. `key_of(context)` is the message key that the guest has from its firmware."""

    def __init__(self, driver: Driver, key_of: Callable[[int], bytes]) -> None:
        profile = driver.hands.seat.level.profile
        self._driver = driver
        self._key_of = key_of
        self._upper = AsidPool(range(profile.min_sev_asid, profile.asids + 1))
        self._lower = AsidPool(range(1, profile.min_sev_asid))
        self._made = 0
        self.vms: dict[int, Vm] = {}

    def _pool(self, vm: Vm) -> AsidPool:
        return self._upper if vm.kind == "sev" else self._lower

    # -- launch (6.2 to 6.4) ----------------------------------------------------------------------------

    def launch(self, kind: str, pages: int, runs: int, vcpus: int, secrets: int) -> Step[Vm]:
        """Create and launch; all VCPUs can be entered behind it."""
        driver = self._driver
        yield from driver.look()
        extents = [pages // runs + (n < pages % runs) for n in range(runs)]
        memory = []
        for extent in extents:
            first = driver.allocate((extent + 1) * PAGE, PAGE)  # a page that nobody uses keeps runs apart
            memory.append((first, extent))
        listed = [first + n * PAGE for first, extent in memory for n in range(extent)]
        vm = Vm(self._made + 1, kind, Tables(driver), listed, private=[True] * pages)
        vm.vmsas = [driver.allocate(PAGE, PAGE) for _ in range(vcpus if kind != "sev" else 0)]
        if kind == "snp":
            yield from self._launch_snp(vm)
        else:
            yield from self._launch_legacy(vm, memory, secrets)
        self._made += 1
        self.vms[vm.number] = vm
        for n, page in enumerate(vm.pages):
            vm.tables.map(n * PAGE, page)
        self._window(vm)
        yield from self._vcpus(vm, vcpus)
        return vm

    def _launch_legacy(self, vm: Vm, memory: list[tuple[int, int]], secrets: int) -> Step[None]:
        driver = self._driver
        policy = NODBG | (ES if vm.kind == "es" else 0)
        yield from driver.command("LAUNCH_START", policy=policy)
        vm.handle = driver.field("LAUNCH_START", "handle")
        vm.asid = yield from self._pool(vm).activate(driver, "ACTIVATE", handle=vm.handle)
        for first, extent in memory:
            yield from driver.lent(
                range(first, first + extent * PAGE, PAGE),
                "LAUNCH_UPDATE_DATA",
                handle=vm.handle,
                pa=first,
                len=extent * PAGE,
            )
        for vmsa in vm.vmsas:
            yield from driver.lent((vmsa,), "LAUNCH_UPDATE_VMSA", handle=vm.handle, pa=vmsa, len=PAGE)
        blob = driver.allocate(PAGE, PAGE)
        yield from driver.command("LAUNCH_MEASURE", (Status.INVALID_LENGTH,), handle=vm.handle)
        yield from driver.lent((blob,), "LAUNCH_MEASURE", handle=vm.handle, pa=blob, len=MEASURE_LEN)
        for n in range(secrets):
            yield from self._inject(vm, driver.read(blob, 32), vm.pages[n % len(vm.pages)])
        yield from driver.command("LAUNCH_FINISH", handle=vm.handle)

    def _inject(self, vm: Vm, measurement: bytes, page: int) -> Step[None]:
        """The owner's secret: the transport keys are zero where no session was given."""
        driver, keys = self._driver, sessions.Keys(bytes(16), bytes(16))
        packet = driver.allocate(PAGE, PAGE)
        data = sessions.ctr(keys.tek, bytes(16), SECRET)
        mac = sessions.packet_mac(keys, sessions.SECRET, 0, bytes(16), data, measurement)
        driver.write(packet, bytes(4) + bytes(16) + mac)
        driver.write(packet + 0x100, data)
        yield from driver.lent(
            (page,),
            "LAUNCH_SECRET",
            handle=vm.handle,
            hdr=packet,
            hdr_len=HEADER_LEN,
            guest=page,
            guest_len=len(data),
            trans=packet + 0x100,
            trans_len=len(data),
        )

    def _launch_snp(self, vm: Vm) -> Step[None]:
        driver = self._driver
        if not driver.snp:
            raise Failed("SNP is not initialised")
        vm.response = driver.allocate(PAGE, PAGE)
        yield from driver.rmpupdate(vm.response, FIRMWARE)
        vm.handle = driver.allocate(PAGE, PAGE)
        yield from driver.rmpupdate(vm.handle, FIRMWARE)
        yield from driver.command("SNP_GCTX_CREATE", gctx=vm.handle)
        yield from driver.command("SNP_LAUNCH_START", gctx=vm.handle, policy=SNP_POLICY)
        vm.asid = yield from self._pool(vm).activate(driver, "SNP_ACTIVATE", gctx=vm.handle)
        for n, page in enumerate(vm.pages):
            yield from self._measure(vm, page, n * PAGE, PageType.NORMAL)
        for vmsa in vm.vmsas:
            driver.write(vmsa + VMSA_FEATURES, U64.pack(SNP_ACTIVE))
            yield from self._measure(vm, vmsa, VMSA_GPA, PageType.VMSA)
        yield from driver.command("SNP_LAUNCH_FINISH", gctx=vm.handle)

    def _measure(self, vm: Vm, page: int, gpa: int, kind: PageType) -> Step[None]:
        yield from self._driver.rmpupdate(page, NewState(gpa, True, False, True, vm.asid))
        yield from self._driver.command("SNP_LAUNCH_UPDATE", gctx=vm.handle, flags=kind << 1, pa=page)

    def _window(self, vm: Vm) -> None:
        vm.window = len(vm.pages) * PAGE
        for n in range(3):
            vm.tables.map(vm.window + n * PAGE, self._driver.allocate(PAGE, PAGE))

    def _vcpus(self, vm: Vm, vcpus: int) -> Step[None]:
        driver = self._driver
        mode = NESTED_PAGING | SEV_ON | (ES_ON if vm.kind != "sev" else 0)
        for n in range(vcpus):
            vmcb = driver.allocate(PAGE, PAGE)
            driver.write(vmcb + VMCB_ASID, U32.pack(vm.asid))
            driver.write(vmcb + VMCB_MODE, U64.pack(mode))
            driver.write(vmcb + VMCB_NCR3, U64.pack(vm.tables.root))
            driver.write(vmcb + VMCB_VMSA, U64.pack(vm.vmsas[n] if vm.vmsas else 0))
            vm.vmcbs.append(vmcb)
        for cpu in driver.hands.seat.cpus:
            if not (yield from driver.read_msr(cpu.number, VM_HSAVE_PA)):
                yield from driver.write_msr(cpu.number, VM_HSAVE_PA, driver.allocate(PAGE, PAGE))

    # -- the guest runs for a moment --------------------------------------------------------------------

    def _run(self, vm: Vm, *steps: GuestStep) -> Step[Exit]:
        """Enter VCPU 0 with a program of its own, and answer its nested faults, until it leaves for another
        reason.
        """
        program = Program()
        program.steps.extend(steps)
        while True:
            left = yield from self._driver.hands.vmrun(0, vm.vmcbs[0], program)
            if isinstance(left, Fault):
                raise Failed(f"VMRUN raises {left.name}")
            if left.code != EXIT_NPF:
                wrong = [result for result in program.collect() if "fault" in result]
                if wrong or left.code not in (EXIT_INTR, EXIT_VMGEXIT):
                    raise Failed(f"the guest leaves with {left.code:#x} {wrong}")
                return left
            yield from self._nested_fault(vm, left)

    def _nested_fault(self, vm: Vm, left: Exit) -> Step[None]:
        """The first touch of a page that became private."""
        n = left.info2 // PAGE
        if n >= len(vm.pages) or vm.private[n]:
            raise Failed(f"the guest faults at {left.info2:#x}, code {left.info1:#x}")
        yield from self._driver.rmpupdate(vm.pages[n], NewState(n * PAGE, True, False, False, vm.asid))
        vm.private[n] = True

    # -- attestation (6.6) ------------------------------------------------------------------------------

    def attest(self, vm: Vm) -> Step[bytes]:
        if vm.kind != "snp":
            return (yield from self._attest_legacy(vm))
        driver, key = self._driver, self._key_of(vm.handle)
        ghcb, request = vm.window, vm.window + PAGE
        sealed = messages.seal(key, messages.REPORT_REQ, vm.sequence, 0, bytes(0x60))
        yield from self._run(
            vm,
            Touch(request, True, sealed),
            Touch(ghcb + _SW_EXITCODE, True, U64.pack(REQUEST_EVENT) + U64.pack(request)),
            Touch(ghcb + _SW_EXITINFO2, True, U64.pack(request + PAGE)),
            Wrmsr(GHCB_MSR, ghcb),
            Leave("vmgexit"),
        )
        bounce = driver.allocate(PAGE, PAGE)
        driver.write(bounce, sealed)
        yield from driver.command("SNP_GUEST_REQUEST", gctx=vm.handle, req=bounce, resp=vm.response)
        vm.sequence += 2
        answer = messages.Message.unpack(driver.read(vm.response, PAGE))
        opened = answer.open(key) if answer is not None else None
        if opened is None or any(opened[:4]):  # pragma: no cover - a wrong request failed before
            raise Failed("the response to the guest holds no report")
        return opened[0x20 : 0x20 + SNP_REPORT_LEN]

    def _attest_legacy(self, vm: Vm) -> Step[bytes]:
        driver = self._driver
        yield from driver.command("ATTESTATION", (Status.INVALID_LENGTH,), handle=vm.handle)
        page = driver.allocate(PAGE, PAGE)
        yield from driver.lent((page,), "ATTESTATION", handle=vm.handle, pa=page, len=REPORT_LEN)
        return driver.read(page, REPORT_LEN)

    # -- page state change (6.5) ------------------------------------------------------------------------

    def convert(self, vm: Vm, pages: int, to: str) -> Step[None]:
        """Of the first `pages`: asked through the GHCB, at most 253 at a time."""
        if vm.kind != "snp":
            raise Failed("only an SNP guest has page states")
        if to == "shared":
            yield from self._run(vm, *(Pvalidate(n * PAGE, 0, 0) for n in range(pages) if vm.private[n]))
        for first in range(0, pages, PSC_ENTRIES):
            yield from self._ask(vm, range(first, min(first + PSC_ENTRIES, pages)), _CONVERT[to])
        for n in range(pages):
            if to == "shared" and vm.private[n]:
                yield from self._driver.rmpupdate(vm.pages[n], SHARED)
                vm.private[n] = False
        if to == "private":
            changed = [n for n in range(pages) if not vm.private[n]]
            yield from self._run(vm, *(Pvalidate(n * PAGE, 0, 1) for n in changed))

    def _ask(self, vm: Vm, pages: range, op: int) -> Step[None]:
        """The GHCB with its list of entries, and VMGEXIT."""
        ghcb = vm.window
        entries = b"".join(U64.pack(n << 12 | op << 52) for n in pages)
        head = bytes(2) + (len(pages) - 1).to_bytes(2, "little") + bytes(4)
        yield from self._run(
            vm,
            Touch(ghcb + _SHARED_BUFFER, True, head + entries[: PAGE - _SHARED_BUFFER - 8]),
            Touch(ghcb + _SW_EXITCODE, True, U64.pack(PSC_EVENT)),
            Touch(ghcb + _SW_SCRATCH, True, U64.pack(ghcb + _SHARED_BUFFER)),
            Wrmsr(GHCB_MSR, ghcb),
            Leave("vmgexit"),
        )

    # -- the end (6.9) ----------------------------------------------------------------------------------

    def destroy(self, vm: Vm) -> Step[None]:
        driver = self._driver
        yield from driver.wbinvd_everywhere()
        if vm.kind == "snp":
            yield from driver.take_back(vm.response)
            yield from driver.command("SNP_DECOMMISSION", gctx=vm.handle)
            yield from driver.take_back(vm.handle)
            private = [page for page, mine in zip(vm.pages, vm.private, strict=True) if mine]
            for page in (*vm.vmsas, *private):
                yield from driver.rmpupdate(page, SHARED)
        else:
            yield from driver.command("DEACTIVATE", handle=vm.handle)
            yield from driver.command("DECOMMISSION", handle=vm.handle)
        self._pool(vm).give(vm.asid)
        del self.vms[vm.number]
