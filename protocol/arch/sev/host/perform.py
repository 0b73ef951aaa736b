"""Operations of a plan as this architecture does them: the life of a guest, and the guest's own doing.

Sections 6.2 to 6.9 of the fact sheet. What is different between SEV, SEV-ES and SNP stands in `kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.guest import Read, Touch
from protocol.arch.sev.host import bulk
from protocol.arch.sev.host.migrate import Luggage, Packet, arrive, certificate, leave
from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.host.vm import Vm, add_vcpu, run
from protocol.arch.sev.image import launch_of
from protocol.arch.sev.structs import C_MASK, PAGE
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.acting import Act

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

MIB = 1 << 20


# -- host and life of a guest ------------------------------------------------------------------------------


def _boot(host: Host, _: op.BootHost) -> Step[None]:
    return host.boot()


def _shut_down(host: Host, _: op.Shutdown) -> Step[None]:
    return host.shut_down()


def _create(host: Host, operation: op.Create) -> Step[None]:
    """The firmware's side of it, an ASID; then VCPUs, whose control blocks say all of that."""
    driver = host.driver
    if operation.guest in host.guests:
        raise ValueError(f"guest {operation.guest} is there already")
    vm = Vm(operation.guest, operation.memory_mib * MIB // PAGE, Tables(driver))
    yield from host.kind.create(host, vm)
    host.guests[operation.guest] = vm
    for number in range(operation.vcpus):
        add_vcpu(host, vm, number)
    host.keep("native_vcpu", operation.vcpus)


def _load(host: Host, operation: op.Load) -> Step[None]:
    """What the image says, in its order; the launch is finished."""
    vm = host.guest(operation.guest)
    if host.image is None:
        raise OperationFailed("this host has no image")
    try:
        launch = launch_of(host.image, len(vm.vmcbs), host.kind.snp)
    except ValueError as error:
        raise OperationFailed(str(error)) from None
    yield from host.kind.load(host, vm, launch)
    if host.pages == "prefault":
        yield from bulk.bring_ahead(host, vm, [page for page in range(vm.pages) if page not in vm.private])


def _start(host: Host, operation: op.Start) -> Step[None]:
    return host.kind.start(host, host.guest(operation.guest))


def _destroy(host: Host, operation: op.Destroy | op.Kill) -> Step[None]:
    """Whoever ends it: caches first, then the firmware's side, then its pages."""
    vm = host.guest(operation.guest)
    yield from host.driver.wbinvd_everywhere()
    yield from host.kind.destroy(host, vm)
    host.asids.give(vm.asid)
    host.give([*vm.vmsas, *vm.vmcbs, *vm.ghcbs, *vm.private.values(), *vm.shared.values(), *vm.tables.pages])
    host.keep("native_vcpu", -len(vm.vmcbs))
    host.keep("native_page", -len(vm.private) - len(vm.shared))
    del host.guests[vm.number]


def _attest(host: Host, operation: op.Attest) -> Step[bytes]:
    """The first time, the guest shares buffers for it."""
    vm, vcpu = _of(host, operation)
    fresh = [page for page in host.kind.buffers(vm) if page not in vm.open]
    if fresh:
        yield from _open(host, vm, vcpu, fresh)
    return (yield from host.kind.attest(host, vm, vcpu, operation.number))


# -- the guest's own doing ---------------------------------------------------------------------------------


def _touch(host: Host, operation: op.Touch) -> Step[None]:
    """Pages that are not accepted yet are, before they are used."""
    vm, vcpu = _of(host, operation)
    pages = operation.pages.numbers().tolist()
    yield from _accept(host, vm, vcpu, [page for page in pages if page not in vm.accepted])
    yield from _use(host, vm, vcpu, pages, private=True)


def _accept(host: Host, vm: Vm, vcpu: int, pages: list[int]) -> Step[None]:
    yield from host.kind.accept(host, vm, vcpu, pages)
    vm.accepted.update(pages)


def _use(host: Host, vm: Vm, vcpu: int, pages: Sequence[int], private: bool) -> Step[None]:
    way = bulk.USE if private else bulk.USE_SHARED if host.kind.snp else bulk.USE_OPEN
    yield from bulk.step_with(host, vm, vcpu, way, pages)


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
    yield from host.kind.open(host, vm, vcpu, pages)
    vm.accepted.difference_update(pages)
    yield from _use(host, vm, vcpu, pages, private=False)


def _change(host: Host, operation: op.Change) -> Step[None]:
    """A page that the host has an I/O on needs no call more: nothing of SNP waits for that (inferred)."""
    vm, vcpu = _of(host, operation)
    if operation.shared:
        yield from _open(host, vm, vcpu, [operation.page])
        return
    yield from _accept(host, vm, vcpu, [operation.page])
    yield from _use(host, vm, vcpu, [operation.page], private=True)


def _exits(host: Host, operation: op.Exits) -> Step[None]:
    vm, vcpu = _of(host, operation)
    steps = [step for _ in range(operation.count) for step in host.kind.exit_of(vm, vcpu, operation.reason)]
    yield from run(host, vm, vcpu, steps, host.kind.reasons if operation.answered_by == "vmm" else ())


def _of(host: Host, operation: op.OnVcpu) -> tuple[Vm, int]:
    vm = host.guest(operation.guest)
    if not 0 <= operation.vcpu < len(vm.vmcbs):
        raise ValueError(f"guest {vm.number} has {len(vm.vmcbs)} VCPUs, no number {operation.vcpu}")
    return vm, operation.vcpu


# -- to another machine --------------------------------------------------------------------------------------


def _certify(host: Host, _: op.Certify) -> Step[bytes]:
    return certificate(host)


def _leave(host: Host, operation: op.Leave) -> Step[dict[str, Any]]:
    luggage = yield from leave(host, operation.guest, operation.peer)
    host.leaving[operation.guest] = luggage
    return {
        "packets": len(luggage.packets), "policy": luggage.policy, "certificate": luggage.certificate,
        "session": luggage.session, "pages": luggage.pages, "vcpus": luggage.vcpus,
    }  # fmt: skip


def _unload(host: Host, operation: op.Unload) -> Step[tuple[tuple[int, bytes, bytes], ...]]:
    yield from ()
    luggage = host.leaving.get(operation.guest)
    if luggage is None:
        raise OperationFailed(f"guest {operation.guest} is not packed")
    packets = luggage.packets[operation.first : operation.first + operation.count]
    return tuple((packet.page, packet.header, packet.data) for packet in packets)


def _carry(host: Host, operation: op.Carry) -> Step[None]:
    yield from ()
    host.arriving.setdefault(operation.guest, []).extend(Packet(*each) for each in operation.packets)


def _arrive(host: Host, operation: op.Arrive) -> Step[None]:
    packets = host.arriving.pop(operation.guest, [])
    yield from arrive(
        host,
        operation.guest,
        Luggage(
            operation.policy,
            operation.certificate,
            operation.session,
            packets,
            operation.pages,
            operation.vcpus,
        ),
    )


ACTS: Mapping[type, Act] = {
    op.BootHost: _boot,
    op.Shutdown: _shut_down,
    op.Create: _create,
    op.Load: _load,
    op.Start: _start,
    op.Attest: _attest,
    op.Destroy: _destroy,
    op.Kill: _destroy,
    op.Touch: _touch,
    op.Write: _write,
    op.Read: _read,
    op.Share: _share,
    op.Change: _change,
    op.Exits: _exits,
    op.Certify: _certify,
    op.Leave: _leave,
    op.Unload: _unload,
    op.Carry: _carry,
    op.Arrive: _arrive,
}
