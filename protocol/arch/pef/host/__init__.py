"""A secure host's software in a plan: what Linux, KVM and QEMU do, in their order. Section 6 of the sheet.

A `Host` stands on any level. KVM and its VMM are those of `protocol.arch.pef.kvm`; here is only what a plan
asks of them. A plan counts pages of 4 KiB and this architecture has pages of 64 KiB: a page of the plan is a
store into the page that it lies in, and pages that are shared are shared once.

Left out: folding of equal calls (`bulk`), and other ways to bring pages in than one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import DECREMENTER, HCALL, Cpu, Exit, gprs
from protocol.arch.pef.guest import GuestStep, Hypercall, Read, Touch, Ultracall
from protocol.arch.pef.host.system import System, ToldSystem
from protocol.arch.pef.kvm import Kvm
from protocol.arch.pef.kvm.own import Own
from protocol.arch.pef.kvm.vm import Vm
from protocol.arch.pef.level import Level
from protocol.arch.pef.profiles import boot_bytes
from protocol.arch.pef.status import SUCCESS
from protocol.arch.pef.tables import PAGE
from protocol.effects import Fault, Step
from protocol.errors import OperationFailed, TeRefused
from protocol.keyboard.recorded import Say
from protocol.plan import operations as op
from protocol.plan.acting import Act, Acting, act_of
from protocol.tracking import Book

MIB = 1 << 20
SMALL_SHIFT = 12  # of a plan's page
RTAS_AT = 0  # where a guest builds the arguments of RTAS calls: in the pages that a plan leaves free
DEVICE = 1 << 40  # where no slot is: registers of devices
PUT_TERM_CHAR = 0x58
SLICES = 8  # time slices that end without any step done before the host gives up

# What a guest does for each reason of a plan.
EXITS: dict[str, GuestStep] = {
    "diag_notify": Touch(DEVICE, write=True, value=bytes(4)),  # a queue's doorbell: H_LOGICAL_CI_STORE
    "diag_500": Touch(DEVICE),  # a register of the device: H_LOGICAL_CI_LOAD
    "sclp": Hypercall(tuple(gprs(r3=PUT_TERM_CHAR, r5=1))),  # the console
    "wait": Hypercall(tuple(gprs(r3=hcalls.CEDE))),
}
CALL_OF = {
    "diag_notify": hcalls.CI_STORE,
    "diag_500": hcalls.CI_LOAD,
    "sclp": PUT_TERM_CHAR,
    "wait": hcalls.CEDE,
}


class GuestFailed(OperationFailed):
    """The guest cannot go on. It can still be destroyed."""


@dataclass(slots=True)
class Guest:
    """A guest of the plan, as this host runs it."""

    number: int
    vm: Vm
    memory_bytes: int


class Host(Acting[Guest]):
    """One secure host. `depth` is its own level, 0 for L0; `image` is the kernel of its guests."""

    def __init__(
        self,
        level: Level,
        cpus: Sequence[Cpu],
        random: Random,
        *,
        depth: int,
        image: bytes | None = None,
        book: Book | None = None,
        own: Own | None = None,
        record: Say | None = None,
    ) -> None:
        """`own`: what it has beside guest hosts, if any run there. `record` is told what it does."""
        super().__init__(depth, book)
        self.kvm = Kvm(level, depth > 0, random, own)
        self.system = System(self.kvm) if record is None else ToldSystem(self.kvm, record)
        self.cpus = list(cpus)
        self.image = image

    def perform(self, operation: op.Operation) -> Step[Any]:
        """Do one operation of a plan. Raises OperationFailed; ValueError for one that makes no sense."""
        return (yield from act_of(_ACTS, operation, "a POWER host")(self, operation))

    @property
    def cpu(self) -> Cpu:
        return self.cpus[0]

    @property
    def boot_bytes(self) -> int:
        """Behind the memory that a plan speaks of."""
        return boot_bytes(len(self.image or b""))

    def cpu_for(self, vcpu: int) -> Cpu:
        return self.cpus[vcpu % len(self.cpus)]

    # -- running ---------------------------------------------------------------------------------------------

    def run(self, guest: Guest, steps: Iterable[GuestStep], number: int = 0) -> Step[list[dict[str, Any]]]:
        """Let a vcpu do `steps`; their results. The VMM answers what comes out. Raises GuestFailed."""
        vcpu = guest.vm.vcpus[number]
        vcpu.program.steps.extend(steps)
        results: list[dict[str, Any]] = []
        idle = 0
        while True:
            cpu = self.cpu_for(number)
            left, done = yield from self.system.enter(cpu, guest.vm, vcpu)
            results += done
            if left.trap == DECREMENTER and not vcpu.program.waiting():
                return results
            idle = 0 if done else idle + 1
            ends = yield from self.system.terminated(cpu, guest.vm, left)
            if left.trap == HCALL and not ends:
                vcpu.reply = dict.fromkeys(range(3, 13), 0)
            elif left.trap != DECREMENTER or idle == SLICES:
                raise GuestFailed(f"guest {guest.number} cannot go on: {_said(left)}")

    def answer(self, guest: Guest, steps: Sequence[GuestStep], number: int) -> Step[None]:
        """Ultracalls of the guest, all of which have to succeed. Raises TeRefused."""
        for result in (yield from self.run(guest, steps, number)):
            status = int(result["r3"], 16)
            if status != SUCCESS:
                raise TeRefused(f"an ultracall of guest {guest.number}", status)


def _said(left: Exit) -> str:
    return hcalls.name_of(left.gpr[3]) if left.trap == HCALL else hex(left.trap)


# -- the host, and the life of a guest -----------------------------------------------------------------------


def _boot(host: Host, _: op.BootHost) -> Step[None]:
    """Discovery: the ultravisor is in the device tree, or it is not."""
    yield from ()
    if not host.kvm.has_ultravisor:
        raise OperationFailed("no ultravisor in the device tree")


def _shut_down(host: Host, _: op.Shutdown) -> Step[None]:
    yield from ()
    if host.guests:
        raise ValueError(f"{len(host.guests)} guests are still there")


def _create(host: Host, operation: op.Create) -> Step[None]:
    if operation.guest in host.guests:
        raise ValueError(f"guest {operation.guest} is there already")
    ret, lpid = yield from host.system.create_vm(host.cpu)
    if ret:
        raise OperationFailed(f"KVM_CREATE_VM: {ret}")
    vm = host.kvm.vms[lpid]
    size = operation.memory_mib * MIB
    host.guests[operation.guest] = Guest(operation.guest, vm, size)
    host.keep("te_object", 1)
    host.keep("vcpu_map", operation.vcpus)
    ret = yield from host.system.set_memory(host.cpu, vm, size + host.boot_bytes)
    for number in range(operation.vcpus):
        ret = ret or host.system.create_vcpu(vm, number)
    ret = ret or host.system.enable_secure(vm)
    if ret:
        raise OperationFailed(f"guest {operation.guest}: {ret}")


def _load(host: Host, operation: op.Load) -> Step[None]:
    """Row 6.1: the VMM's part, then the transition."""
    yield from _enter_secure_mode(host, host.guest(operation.guest))


def _enter_secure_mode(host: Host, guest: Guest) -> Step[None]:
    if host.image is None:
        raise OperationFailed("this host has no image")
    seed = f"guest:{guest.number}"
    areas = yield from host.system.load(host.cpu, guest.vm, guest.memory_bytes, host.image, seed)
    if isinstance(areas, Fault):
        raise OperationFailed(f"guest {guest.number} cannot be loaded: {areas.name}")
    esm = gprs(r3=front.ESM, r4=areas["kernel"].address, r5=areas["fdt"].address)
    (result,) = yield from host.run(guest, [Ultracall(tuple(esm))])
    if not guest.vm.secure:  # the guest goes on as a normal one
        raise TeRefused("UV_ESM", int(result["r3"], 16))


def _start(host: Host, operation: op.Start) -> Step[None]:
    """The first vcpu runs since the guest was loaded; it starts the others."""
    yield from _start_others(host, host.guest(operation.guest))


def _start_others(host: Host, guest: Guest) -> Step[None]:
    """`start-cpu` for each, as Linux does it; then each of them runs."""
    for number in list(guest.vm.vcpus)[1:]:
        block = struct.pack(">7I", hcalls.START_CPU, 3, 1, number, RTAS_AT, 0, 0)
        asks = Hypercall(tuple(gprs(r3=hcalls.RTAS, r4=RTAS_AT)))
        yield from host.run(guest, [Touch(RTAS_AT, write=True, value=block), asks])
        yield from host.run(guest, [], number)


def _reset(host: Host, operation: op.Reset) -> Step[None]:
    """Row 6.4. What was inside the ultravisor is lost whatever the guest asks for, so it is loaded again."""
    guest = host.guest(operation.guest)
    ret = yield from host.system.svm_off(host.cpu, guest.vm)
    if ret:
        raise OperationFailed(f"KVM_PPC_SVM_OFF: {ret}")
    yield from _enter_secure_mode(host, guest)
    yield from _start_others(host, guest)


def _end(host: Host, operation: op.Destroy | op.Kill) -> Step[None]:
    """Row 6.5, whoever ends it: memory goes first, without a call."""
    guest = host.guest(operation.guest)
    ret = yield from host.system.close(host.cpu, guest.vm)
    if ret:
        raise OperationFailed(f"close: {ret}")
    del host.guests[guest.number]
    host.keep("te_object", -1)
    host.keep("vcpu_map", -len(guest.vm.vcpus))


# -- what a guest does ---------------------------------------------------------------------------------------


def _touch(host: Host, operation: op.Touch) -> Step[None]:
    guest = _of(host, operation)
    steps = [_store(number) for number in operation.pages.numbers().tolist()]
    yield from host.run(guest, steps, operation.vcpu)


def _write(host: Host, operation: op.Write) -> Step[None]:
    store = Touch((operation.page << SMALL_SHIFT) + operation.at, True, operation.data)
    yield from host.run(_of(host, operation), [store], operation.vcpu)


def _read(host: Host, operation: op.Read) -> Step[bytes]:
    load = Read((operation.page << SMALL_SHIFT) + operation.at, operation.length)
    (result,) = yield from host.run(_of(host, operation), [load], operation.vcpu)
    return bytes.fromhex(result["hex"])


def _store(number: int) -> Touch:
    return Touch(number << SMALL_SHIFT, write=True)


def _share(host: Host, operation: op.Share) -> Step[None]:
    guest = _of(host, operation)
    gfns = dict.fromkeys(number << SMALL_SHIFT for number in operation.pages.numbers().tolist())
    asks = dict.fromkeys(address // PAGE for address in gfns)
    yield from host.answer(guest, [_ultracall(front.SHARE_PAGE, gfn) for gfn in asks], operation.vcpu)


def _change(host: Host, operation: op.Change) -> Step[None]:
    """A page that the host has an I/O on moves away under it all the same: nothing is pinned here."""
    guest = _of(host, operation)
    call = front.SHARE_PAGE if operation.shared else front.UNSHARE_PAGE
    step = _ultracall(call, (operation.page << SMALL_SHIFT) // PAGE)
    yield from host.answer(guest, [step], operation.vcpu)


def _ultracall(call: int, gfn: int) -> Ultracall:
    return Ultracall(tuple(gprs(r3=call, r4=gfn, r5=1)))


def _exits(host: Host, operation: op.Exits) -> Step[None]:
    guest = _of(host, operation)
    step = EXITS.get(operation.reason)
    if step is None:
        raise ValueError(f"no exit of a POWER guest: {operation.reason!r}; allowed: {', '.join(EXITS)}")
    vcpu = guest.vm.vcpus[operation.vcpu]
    by_vmm = operation.answered_by == "vmm"
    vcpu.program.vmm = frozenset({CALL_OF[operation.reason]}) if by_vmm else frozenset()
    yield from host.run(guest, [step] * operation.count, operation.vcpu)
    vcpu.program.vmm = frozenset()


def _swap(host: Host, operation: op.Swap) -> Step[None]:
    """Row 6.3: userspace touches each page, which moves it out; then the guest uses it again."""
    guest = _of(host, operation)
    numbers = operation.pages.numbers().tolist()
    for number in numbers:
        seen = yield from host.system.read(host.cpu, guest.vm, number << SMALL_SHIFT, 1)
        if isinstance(seen, Fault):
            raise OperationFailed(f"page {number:#x} of guest {guest.number}: {seen.name}")
    yield from host.run(guest, [_store(number) for number in numbers], operation.vcpu)


def _of(host: Host, operation: op.OnVcpu) -> Guest:
    guest = host.guest(operation.guest)
    if operation.vcpu not in guest.vm.vcpus:
        raise ValueError(f"guest {guest.number} has {len(guest.vm.vcpus)} vcpus, no number {operation.vcpu}")
    return guest


_ACTS: Mapping[type, Act] = {
    op.BootHost: _boot,
    op.Shutdown: _shut_down,
    op.Create: _create,
    op.Load: _load,
    op.Start: _start,
    op.Reset: _reset,
    op.Destroy: _end,
    op.Kill: _end,
    op.Touch: _touch,
    op.Write: _write,
    op.Read: _read,
    op.Share: _share,
    op.Change: _change,
    op.Exits: _exits,
    op.Swap: _swap,
}
