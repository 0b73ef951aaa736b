"""Operations of a plan as this architecture does them: the life of an SNP guest, and the guest's own doing.

Sections 6.3 to 6.9 of the fact sheet. What a plan calls by words of another architecture is here the nearest
thing that an SNP guest has (a choice of this program, not of any document):

diag_notify   a doorbell: MMIO write by VMGEXIT       sclp   the console: IN or OUT by VMGEXIT
diag_500      a device's register: MMIO read          wait   HLT, which #VC turns into a VMGEXIT
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.cpu import GHCB_MSR
from protocol.arch.sev.guest import GuestStep, Leave, Pvalidate, Read, Touch, Wrmsr
from protocol.arch.sev.host.guests import SNP_POLICY, VMSA_GPA
from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.host.vm import (
    PSC_ENTRIES,
    PSC_EVENT,
    SHARED_BUFFER,
    SW_EXITCODE,
    SW_SCRATCH,
    TO_PRIVATE,
    TO_SHARED,
    Vm,
    run,
)
from protocol.arch.sev.status import PageType
from protocol.arch.sev.structs import (
    C_MASK,
    ES_ON,
    FIRMWARE,
    NESTED_PAGING,
    PAGE,
    SEV_ON,
    SHARED,
    SNP_ACTIVE,
    U32,
    U64,
    VMCB_ASID,
    VMCB_MODE,
    VMCB_NCR3,
    VMCB_VMSA,
    VMSA_FEATURES,
    NewState,
)
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

MIB = 1 << 20
MMIO_READ, MMIO_WRITE, AP_CREATION = 0x8000_0001, 0x8000_0002, 0x8000_0013
IOIO, HLT = 0x7B, 0x78
EVENTS = {"diag_notify": MMIO_WRITE, "diag_500": MMIO_READ, "sclp": IOIO, "wait": HLT}
VMGEXIT = frozenset({"vmgexit"})


def act_of(operation: op.Operation) -> Callable[[Host, Any], Step[Any]]:
    """How an operation is done. Raises ValueError for one that an SNP host has not."""
    act = _ACTS.get(type(operation))
    if act is None:
        raise ValueError(f"no operation of an SNP host: {operation!r}")
    return act


# -- host and life of a guest ------------------------------------------------------------------------------


def _boot(host: Host, _: op.BootHost) -> Step[None]:
    return host.boot()


def _shut_down(host: Host, _: op.Shutdown) -> Step[None]:
    return host.shut_down()


def _create(host: Host, operation: op.Create) -> Step[None]:
    """Context, launch, ASID; then VCPUs, whose control blocks say all of that."""
    driver = host.driver
    if operation.guest in host.guests:
        raise ValueError(f"guest {operation.guest} is there already")
    vm = Vm(operation.guest, operation.memory_mib * MIB // PAGE, Tables(driver))
    vm.response, vm.context = host.page(), host.page()
    yield from driver.rmpupdate(vm.response, FIRMWARE)
    yield from driver.rmpupdate(vm.context, FIRMWARE)
    yield from driver.command("SNP_GCTX_CREATE", gctx=vm.context)
    yield from driver.command("SNP_LAUNCH_START", gctx=vm.context, policy=SNP_POLICY)
    vm.asid = yield from host.asids.activate(driver, "SNP_ACTIVATE", gctx=vm.context)
    host.guests[operation.guest] = vm
    for number in range(operation.vcpus):
        _vcpu(host, vm, number)
    host.keep("native_vcpu", operation.vcpus)


def _vcpu(host: Host, vm: Vm, number: int) -> None:
    driver = host.driver
    vmsa, vmcb, ghcb = host.page(), host.page(), host.page()
    for at, data in (
        (VMCB_ASID, U32.pack(vm.asid)),
        (VMCB_MODE, U64.pack(NESTED_PAGING | SEV_ON | ES_ON)),
        (VMCB_NCR3, U64.pack(vm.tables.root)),
        (VMCB_VMSA, U64.pack(vmsa)),
    ):
        driver.write(vmcb + at, data)
    vm.vmsas.append(vmsa)
    vm.vmcbs.append(vmcb)
    vm.ghcbs.append(ghcb)
    vm.tables.map(vm.ghcb(number), ghcb)


def _load(host: Host, operation: op.Load) -> Step[None]:
    """The image page by page, then a VMSA for each VCPU; the launch is finished."""
    vm, driver = host.guest(operation.guest), host.driver
    if host.image is None:
        raise OperationFailed("this host has no image")
    for number in range(len(host.image) // PAGE):
        page, under = FIRST_PAGES + number, host.page()
        driver.write(under, host.image[number * PAGE : (number + 1) * PAGE])
        yield from _measured(host, vm, under, page * PAGE, PageType.NORMAL)
        vm.private[page] = under
        vm.accepted.add(page)
        host.keep("native_page", 1)
        vm.tables.map(page * PAGE, under)
    for vmsa in vm.vmsas:
        driver.write(vmsa + VMSA_FEATURES, U64.pack(SNP_ACTIVE))
        yield from _measured(host, vm, vmsa, VMSA_GPA, PageType.VMSA)
    yield from driver.command("SNP_LAUNCH_FINISH", gctx=vm.context)


def _measured(host: Host, vm: Vm, page: int, gpa: int, kind: PageType) -> Step[None]:
    yield from host.driver.rmpupdate(page, NewState(gpa, True, False, True, vm.asid))
    yield from host.driver.command("SNP_LAUNCH_UPDATE", gctx=vm.context, flags=kind << 1, pa=page)


def _start(host: Host, operation: op.Start) -> Step[None]:
    """Each VCPU tells of its GHCB; the first one starts the others, which run on the VMSAs of the launch."""
    vm = host.guest(operation.guest)
    for number in range(len(vm.vmcbs)):
        if number:
            yield from run(host, vm, 0, _event(vm, 0, AP_CREATION))
        yield from run(host, vm, number, [Wrmsr(GHCB_MSR, vm.ghcb(number))])


def _destroy(host: Host, operation: op.Destroy | op.Kill) -> Step[None]:
    """Whoever ends it: caches first, then the context, then its pages one by one."""
    vm, driver = host.guest(operation.guest), host.driver
    yield from driver.wbinvd_everywhere()
    yield from driver.take_back(vm.response)
    leave = driver.command("SNP_DECOMMISSION", gctx=vm.context)
    yield from host.asids.lock.leave(host.level, leave)
    yield from driver.take_back(vm.context)
    for page in (*vm.vmsas, *vm.private.values()):
        yield from driver.rmpupdate(page, SHARED)
    host.asids.give(vm.asid)
    host.give([vm.response, vm.context, *vm.vmsas, *vm.vmcbs, *vm.ghcbs])
    host.give([*vm.private.values(), *vm.shared.values(), *vm.tables.pages])
    host.keep("native_vcpu", -len(vm.vmcbs))
    host.keep("native_page", -len(vm.private) - len(vm.shared))
    del host.guests[vm.number]


# -- the guest's own doing ---------------------------------------------------------------------------------


def _touch(host: Host, operation: op.Touch) -> Step[None]:
    """Pages that are not accepted yet are, before they are used."""
    vm, vcpu = _of(host, operation)
    pages = operation.pages.numbers().tolist()
    yield from _accept(host, vm, vcpu, [page for page in pages if page not in vm.accepted])
    yield from run(host, vm, vcpu, [Touch(page * PAGE | C_MASK, write=True) for page in pages])


def _accept(host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
    """Ask for private pages, many at a time, then validate each: the first to reach it brings it in."""
    yield from _convert(host, vm, vcpu, pages, TO_PRIVATE)
    yield from run(host, vm, vcpu, [Pvalidate(page * PAGE, 0, 1) for page in pages])
    vm.accepted.update(pages)


def _convert(host: Host, vm: Vm, vcpu: int, pages: list[int], operation: int) -> Step[None]:
    """The list in the GHCB and VMGEXIT, which goes to the VMM."""
    ghcb = vm.ghcb(vcpu)
    for first in range(0, len(pages), PSC_ENTRIES):
        some = pages[first : first + PSC_ENTRIES]
        head = bytes(2) + (len(some) - 1).to_bytes(2, "little") + bytes(4)
        entries = b"".join(U64.pack(page << 12 | operation << 52) for page in some)
        steps = (
            Touch(ghcb + SHARED_BUFFER, True, head + entries),
            Touch(ghcb + SW_SCRATCH, True, U64.pack(ghcb + SHARED_BUFFER)),
        )
        yield from run(host, vm, vcpu, chain(steps, _event(vm, vcpu, PSC_EVENT)), VMGEXIT)


def _event(vm: Vm, vcpu: int, event: int) -> Iterator[GuestStep]:
    yield Touch(vm.ghcb(vcpu) + SW_EXITCODE, True, U64.pack(event))
    yield Leave("vmgexit")


def _write(host: Host, operation: op.Write) -> Step[None]:
    vm, vcpu = yield from _accepted(host, operation)
    yield from run(host, vm, vcpu, [Touch(_place(operation), True, operation.data)])


def _read(host: Host, operation: op.Read) -> Step[bytes]:
    vm, vcpu = yield from _accepted(host, operation)
    yield from run(host, vm, vcpu, [Read(_place(operation), operation.length)])
    return host.heard


def _place(operation: op.Write | op.Read) -> int:
    return operation.page * PAGE + operation.at | C_MASK


def _accepted(host: Host, operation: op.Write | op.Read) -> Step[tuple[Vm, int]]:
    """Whose page it is; the guest has accepted it by then."""
    vm, vcpu = _of(host, operation)
    if operation.page not in vm.accepted:
        yield from _accept(host, vm, vcpu, [operation.page])
    return vm, vcpu


def _share(host: Host, operation: op.Share) -> Step[None]:
    """Buffers are accepted memory like any other before; the guest takes its mark off and asks."""
    vm, vcpu = _of(host, operation)
    yield from _open(host, vm, vcpu, operation.pages.numbers().tolist())


def _open(host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
    yield from _accept(host, vm, vcpu, [page for page in pages if page not in vm.accepted])
    yield from run(host, vm, vcpu, [Pvalidate(page * PAGE, 0, 0) for page in pages])
    vm.accepted.difference_update(pages)
    yield from _convert(host, vm, vcpu, pages, TO_SHARED)
    yield from _use(host, vm, vcpu, pages, 0)


def _use(host: Host, vm: Vm, vcpu: int, pages: Iterable[int], bit: int) -> Step[None]:
    yield from run(host, vm, vcpu, [Touch(page * PAGE | bit, write=True) for page in pages])


def _change(host: Host, operation: op.Change) -> Step[None]:
    """A page that the host has an I/O on needs no call more: nothing of SNP waits for that (inferred)."""
    vm, vcpu = _of(host, operation)
    if operation.shared:
        yield from _open(host, vm, vcpu, [operation.page])
        return
    yield from _accept(host, vm, vcpu, [operation.page])
    yield from _use(host, vm, vcpu, [operation.page], C_MASK)


def _exits(host: Host, operation: op.Exits) -> Step[None]:
    vm, vcpu = _of(host, operation)
    event = EVENTS.get(operation.reason)
    if event is None:
        raise ValueError(f"no exit of an SNP guest: {operation.reason!r}; allowed: {', '.join(EVENTS)}")
    steps = [step for _ in range(operation.count) for step in _event(vm, vcpu, event)]
    yield from run(host, vm, vcpu, steps, VMGEXIT if operation.answered_by == "vmm" else ())


def _of(host: Host, operation: op.OnVcpu) -> tuple[Vm, int]:
    vm = host.guest(operation.guest)
    if not 0 <= operation.vcpu < len(vm.vmcbs):
        raise ValueError(f"guest {vm.number} has {len(vm.vmcbs)} VCPUs, no number {operation.vcpu}")
    return vm, operation.vcpu


_ACTS: dict[type, Callable[[Any, Any], Step[Any]]] = {
    op.BootHost: _boot,
    op.Shutdown: _shut_down,
    op.Create: _create,
    op.Load: _load,
    op.Start: _start,
    op.Destroy: _destroy,
    op.Kill: _destroy,
    op.Touch: _touch,
    op.Write: _write,
    op.Read: _read,
    op.Share: _share,
    op.Change: _change,
    op.Exits: _exits,
}
