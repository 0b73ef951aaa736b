"""Operations of a plan as this architecture does them: the life of a TD, and the guest's own doing.

Sections 6.2 to 6.9 of the fact sheet. What a plan calls by words of another architecture is here the nearest
thing that a TD has, each by TDVMCALL (a choice of this program, not of any document):

diag_notify   a doorbell: MMIO write                  sclp   the console: port I/O
diag_500      a device's register: MMIO read          wait   HLT
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from protocol.arch.tdx import firmware
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Read, Tdcall, Touch
from protocol.arch.tdx.host import attest, bulk
from protocol.arch.tdx.host.module import Module
from protocol.arch.tdx.host.shared import SharedEpt
from protocol.arch.tdx.host.vm import MAP_GPA, SHARED_BIT, Vcpu, Vm, add, lose_memory, run, tables
from protocol.arch.tdx.machine.phymem import RESUME
from protocol.arch.tdx.profiles import MIB, TDCS_PAGES, TDVPS_PAGES
from protocol.arch.tdx.status import CODE_MASK, RAX, Status
from protocol.arch.tdx.structs import TD_PARAMS_SIZE, TdParams
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.plan import operations as op
from protocol.plan.acting import Act
from protocol.plan.fit import FIRST_PAGES

if TYPE_CHECKING:
    from protocol.arch.tdx.host.system import Host

CHUNK = 256  # bytes that MR.EXTEND measures at a time
XFAM = 3
EPTP = 6 | 3 << 3  # write-back, four levels
TSC_FREQUENCY = 80  # in 25 MHz
TSC_OFFSET, TSC_MULTIPLIER = 0x111000030000000A, 0x111000030000000B
PI_VECTOR, PI_DESCRIPTOR = 0x0024000100000002, 0x0024000300002016
SHARED_EPTP, PIN_BASED = 0x002400030000203C, 0x0024000200004000
NOTIFICATION = 0xF2  # the vector of posted interrupts, Linux's
PROCESS_POSTED = 0x80
DESCRIPTOR_SIZE = 64
ALL = (1 << 64) - 1
VP_VMCALL, VP_INFO = 0, 1
R10_TO_R15 = 0xFC00
HLT, IO, MMIO = 12, 30, 48
EVENTS = {"diag_notify": MMIO, "diag_500": MMIO, "sclp": IO, "wait": HLT}
TDVMCALL = frozenset({"tdvmcall"})


# -- host and life of a guest ------------------------------------------------------------------------------


def _boot(host: Host, _: op.BootHost) -> Step[None]:
    return host.boot()


def _shut_down(host: Host, _: op.Shutdown) -> Step[None]:
    return host.shut_down()


def _create(host: Host, operation: op.Create) -> Step[None]:
    """TDR with a KeyID, its key, TDCS, parameters; then VCPUs."""
    if operation.guest in host.guests:
        raise ValueError(f"guest {operation.guest} is there already")
    call = host.module.call
    if not host.keys:
        raise OperationFailed("no KeyID is free")
    ept = SharedEpt(host.module, host.page)
    pages = operation.memory_mib * MIB >> PAGE_SHIFT
    vm = Vm(operation.guest, pages, host.keys.pop(), host.page(), ept, host.page())
    yield from call("mng_create", rcx=vm.tdr, rdx=vm.hkid)
    for lp in host.module.one_of_each_package:
        yield from call("mng_key_config", lp, rcx=vm.tdr)
    for _ in range(TDCS_PAGES):
        vm.tdcs.append(host.page())
        yield from call("mng_addcx", rcx=vm.tdcs[-1], rdx=vm.tdr)
    params = host.page()
    host.module.write(params, _params(operation.vcpus).pack())
    yield from call("mng_init", rcx=vm.tdr, rdx=params)
    host.give([params])
    for field in (TSC_OFFSET, TSC_MULTIPLIER):
        yield from call("mng_rd", rcx=vm.tdr, rdx=field)
    host.guests[operation.guest] = vm
    for number in range(operation.vcpus):
        yield from _vcpu(host, vm, number)
    host.keep("native_vcpu", operation.vcpus)


def _params(vcpus: int) -> TdParams:
    """No attribute, least XFAM; what nobody asks for is zero."""
    rest = bytes(4), bytes(38), bytes(24), bytes(TD_PARAMS_SIZE - 256)
    return TdParams(
        0, XFAM, vcpus, 0, 0, EPTP, 0, TSC_FREQUENCY, bytes(48), bytes(48), bytes(48), 0, (), rest
    )  # fmt: skip


def _vcpu(host: Host, vm: Vm, number: int) -> Step[None]:
    """Section 6.3, and the root of the shared EPT."""
    call = host.module.call
    vcpu = Vcpu([host.page()], host.lp_of(vm.number, number))
    vm.vcpus.append(vcpu)
    yield from call("vp_create", vcpu.lp, rcx=vcpu.handle, rdx=vm.tdr)
    for _ in range(TDVPS_PAGES - 1):
        vcpu.pages.append(host.page())
        yield from call("vp_addcx", vcpu.lp, rcx=vcpu.pages[-1], rdx=vcpu.handle)
    yield from call("vp_init", vcpu.lp, rcx=vcpu.handle)
    descriptor = vm.descriptors + number * DESCRIPTOR_SIZE % PAGE  # nobody posts interrupts here
    for field, value, mask in (
        (PI_VECTOR, NOTIFICATION, ALL),
        (PI_DESCRIPTOR, descriptor, ALL),
        (PIN_BASED, PROCESS_POSTED, PROCESS_POSTED),
        (SHARED_EPTP, vm.ept.root, ALL),
    ):
        yield from call("vp_wr", vcpu.lp, rcx=vcpu.handle, rdx=field, r8=value, r9=mask)


def _load(host: Host, operation: op.Load) -> Step[None]:
    """The image page by page, what is measured in sixteen pieces; then the measurement is final."""
    vm, call = host.guest(operation.guest), host.module.call
    if host.image is None:
        raise OperationFailed("this host has no image")
    try:
        firmware.sections(host.image)
    except ValueError as error:  # whoever wants the guest has brought it
        raise OperationFailed(f"guest {vm.number}: {error}") from None
    source = host.page()
    for page in firmware.placed(host.image, FIRST_PAGES << PAGE_SHIFT):
        number, under = page.gpa >> PAGE_SHIFT, host.page()
        yield from tables(host, vm, number)
        host.module.write(source, page.data)
        yield from call("mem_page_add", rcx=page.gpa, rdx=vm.tdr, r8=under, r9=source)
        vm.private[number] = under
        vm.accepted.add(number)
        host.keep("native_page", 1)
        for at in range(page.gpa, page.gpa + PAGE, CHUNK) if page.measured else ():
            yield from call("mr_extend", rcx=at, rdx=vm.tdr)
    host.give([source])
    yield from call("mr_finalize", rcx=vm.tdr)
    vm.may_run = True
    for number in range(vm.pages) if host.prefault else ():  # KVM's ioctl for it works from here on only
        if number not in vm.private:
            yield from add(host, vm, number)


def _start(host: Host, operation: op.Start) -> Step[None]:
    """All VCPUs of a TD can be entered; each asks who it is. None is started by another with a call."""
    vm = host.guest(operation.guest)
    for number in range(len(vm.vcpus)):
        yield from run(host, vm, number, [Tdcall(tuple(registers(rax=VP_INFO)))])


def _kill(host: Host, operation: op.Kill) -> Step[None]:
    """Nobody asked KVM to terminate the TD before its memory was closed."""
    yield from lose_memory(host, host.guest(operation.guest))
    yield from _destroy(host, operation)


def _destroy(host: Host, operation: op.Destroy | op.Kill) -> Step[None]:
    """In the fast order of section 6.9: the key first, then page by page."""
    vm, module = host.guest(operation.guest), host.module
    for vcpu in vm.vcpus:
        allowed = (0, Status.VCPU_NOT_ASSOCIATED)
        yield from module.call("vp_flush", vcpu.lp, allowed, rcx=vcpu.handle)
    yield from module.call("mng_vpflushdone", rcx=vm.tdr)
    for lp in module.one_of_each_package:
        yield from _write_back(module, lp)
    yield from module.call("mng_key_freeid", rcx=vm.tdr)
    yield from bulk.reclaim(host, vm, list(vm.private.values()))
    for page in vm.tables.values():
        yield from host.take_back(page)
    for vcpu in vm.vcpus:
        for page in vcpu.pages:
            yield from host.take_back(page)
    for page in vm.tdcs:
        yield from host.take_back(page)
    yield from module.call("phymem_page_reclaim", rcx=vm.tdr)
    yield from host.flush(vm.tdr, module.global_key)
    host.level.clear([vm.tdr >> PAGE_SHIFT])
    host.give([vm.tdr, vm.descriptors, *vm.shared.values(), *vm.ept.pages])
    host.keys.append(vm.hkid)
    host.keep("native_vcpu", -len(vm.vcpus))
    host.keep("native_page", -len(vm.private) - len(vm.shared))
    del host.guests[vm.number]


def _write_back(module: Module, lp: int) -> Step[None]:
    """Of a package's caches. An interrupt stops it between two parts: it is resumed where it was."""
    allowed = (0, Status.NO_HKID_READY_TO_WBCACHE, Status.INTERRUPTED_RESUMABLE)
    out = yield from module.call("phymem_cache_wb", lp, allowed)
    while out[RAX] & CODE_MASK == Status.INTERRUPTED_RESUMABLE:
        out = yield from module.call("phymem_cache_wb", lp, allowed, rcx=RESUME)


# -- the guest's own doing ---------------------------------------------------------------------------------


def _touch(host: Host, operation: op.Touch) -> Step[None]:
    """Pages that are not accepted yet are, before they are used."""
    vm, vcpu = _of(host, operation)
    pages = operation.pages.numbers().tolist()
    yield from _accept(host, vm, vcpu, [page for page in pages if page not in vm.accepted])
    yield from _use(host, vm, vcpu, pages, 0)


def _accept(host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
    """The first to reach a page leaves, and the host adds it; the guest tries again (section 6.5)."""
    if not (yield from bulk.accept(host, vm, vcpu, pages)):
        yield from run(host, vm, vcpu, [bulk.accept_step(page) for page in pages])
    vm.accepted.update(pages)


def _write(host: Host, operation: op.Write) -> Step[None]:
    vm, vcpu = yield from _accepted(host, operation)
    yield from run(
        host, vm, vcpu, [Touch((operation.page << PAGE_SHIFT) + operation.at, True, operation.data)]
    )


def _read(host: Host, operation: op.Read) -> Step[bytes]:
    vm, vcpu = yield from _accepted(host, operation)
    yield from run(host, vm, vcpu, [Read((operation.page << PAGE_SHIFT) + operation.at, operation.length)])
    return host.heard[-1]


def _accepted(host: Host, operation: op.Write | op.Read) -> Step[tuple[Vm, int]]:
    """Whose page it is; the guest has accepted it by then."""
    vm, vcpu = _of(host, operation)
    if operation.page not in vm.accepted:
        yield from _accept(host, vm, vcpu, [operation.page])
    return vm, vcpu


def _share(host: Host, operation: op.Share) -> Step[None]:
    """Buffers are accepted memory like any other before; the guest asks to map them anew."""
    vm, vcpu = _of(host, operation)
    yield from _open(host, vm, vcpu, operation.pages.numbers().tolist())


def _open(host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
    yield from _accept(host, vm, vcpu, [page for page in pages if page not in vm.accepted])
    vm.accepted.difference_update(pages)
    yield from _map(host, vm, vcpu, pages, SHARED_BIT)
    yield from _use(host, vm, vcpu, pages, SHARED_BIT)


def _map(host: Host, vm: Vm, vcpu: int, pages: list[int], bit: int) -> Step[None]:
    """MapGPA, one for each run of pages: it goes to the VMM."""
    steps = []
    for _, run_of in groupby(enumerate(sorted(pages)), lambda pair: pair[1] - pair[0]):
        some = [page for _, page in run_of]
        steps.append(_vmcall(MAP_GPA, some[0] << PAGE_SHIFT | bit, len(some) << PAGE_SHIFT))
    yield from run(host, vm, vcpu, steps, TDVMCALL)


def _vmcall(function: int, r12: int = 0, r13: int = 0) -> Tdcall:
    return Tdcall(tuple(registers(rax=VP_VMCALL, rcx=R10_TO_R15, r11=function, r12=r12, r13=r13)))


def _use(host: Host, vm: Vm, vcpu: int, pages: Iterable[int], bit: int) -> Step[None]:
    yield from run(host, vm, vcpu, [Touch(page << PAGE_SHIFT | bit, write=True) for page in pages])


def _change(host: Host, operation: op.Change) -> Step[None]:
    """A page that the host has an I/O on needs no call more: the module knows nothing of I/O (inferred)."""
    vm, vcpu = _of(host, operation)
    pages = [operation.page]
    if operation.shared:
        yield from _open(host, vm, vcpu, pages)
        return
    yield from _map(host, vm, vcpu, pages, 0)
    yield from _accept(host, vm, vcpu, pages)
    yield from _use(host, vm, vcpu, pages, 0)


def _attest(host: Host, operation: op.Attest) -> Step[bytes]:
    """The first time the guest makes a page of its own ready, and shares the buffer; the quote."""
    vm, vcpu = _of(host, operation)
    if attest.OWN_PAGE not in vm.accepted:
        yield from _accept(host, vm, vcpu, [attest.OWN_PAGE])
        yield from _open(host, vm, vcpu, list(attest.BUFFER_PAGES))
    return (yield from attest.evidence(host, vm, vcpu, operation.number))


def _exits(host: Host, operation: op.Exits) -> Step[None]:
    vm, vcpu = _of(host, operation)
    function = EVENTS.get(operation.reason)
    if function is None:
        raise ValueError(f"no exit of a TD: {operation.reason!r}; allowed: {', '.join(EVENTS)}")
    steps = [_vmcall(function) for _ in range(operation.count)]
    yield from run(host, vm, vcpu, steps, TDVMCALL if operation.answered_by == "vmm" else ())


def _of(host: Host, operation: op.OnVcpu) -> tuple[Vm, int]:
    vm = host.guest(operation.guest)
    if not 0 <= operation.vcpu < len(vm.vcpus):
        raise ValueError(f"guest {vm.number} has {len(vm.vcpus)} VCPUs, no number {operation.vcpu}")
    return vm, operation.vcpu


ACTS: Mapping[type, Act] = {
    op.BootHost: _boot,
    op.Shutdown: _shut_down,
    op.Create: _create,
    op.Load: _load,
    op.Start: _start,
    op.Destroy: _destroy,
    op.Kill: _kill,
    op.Touch: _touch,
    op.Write: _write,
    op.Read: _read,
    op.Share: _share,
    op.Change: _change,
    op.Exits: _exits,
    op.Attest: _attest,
}
