"""Operations of a plan as this architecture does them: the guest's program, and what the host does."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from protocol.arch.s390 import guest as g
from protocol.arch.s390.host import bulk
from protocol.arch.s390.host import pages as page
from protocol.arch.s390.host.boot import boot, shut_down
from protocol.arch.s390.host.create import create
from protocol.arch.s390.host.destroy import BEHIND, destroy, destroy_behind, go_on, kill
from protocol.arch.s390.host.dump import dump, pack
from protocol.arch.s390.host.guests import Guest, Vcpu
from protocol.arch.s390.host.lifecycle import LOAD_NORMAL, MODIFIED_CLEAR, start
from protocol.arch.s390.host.load import load
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.host.pages import PREFAULT
from protocol.arch.s390.host.papers import add_secret, attest
from protocol.arch.s390.host.programs import SHARE_CODE, UNSHARE_CODE, Steps, block_of, sharing, touches
from protocol.arch.s390.host.run import KERNEL, SIGP_RESTART, Feed, run
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT
from protocol.plan import operations as op
from protocol.plan.acting import Act, act_of

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

WRITE_EVENT_DATA = 0x0076_0005

# What a guest does for each reason of the scenario, and what the host is told: (prelude, step, reason of
# the exit).
NOTIFY = ((g.SetCpu(((1, 3),)),), g.Diag(0x500), "icpt_68")  # subcode 3: a queue's doorbell
HYPERCALL = ((g.SetCpu(((1, 0),)),), g.Diag(0x500), "icpt_68")
WAIT = ((), g.Wait(), "wait")
NOTICED = frozenset({"icpt_6c"})


def perform(host: Host, operation: op.Operation) -> Step[Any]:
    """Do `operation`; what it answers, if it answers anything."""
    act = act_of(_ACTS, operation, "an s390 host")
    return act(host, operation) if host.aside is None else _beside(host, operation, act)


def _beside(host: Host, operation: op.Operation, act: Act) -> Step[Any]:
    """Some of the pages of a guest that is set aside go first; all of them before the host does."""
    assert host.aside is not None
    count = host.aside.frames.size if isinstance(operation, op.Shutdown) else BEHIND
    yield from go_on(host, host.aside, count)
    return (yield from act(host, operation))


# -- host and life cycle ---------------------------------------------------------------------------


def _boot(host: Host, _operation: op.BootHost) -> Step[None]:
    return boot(host)


def _shut_down(host: Host, _operation: op.Shutdown) -> Step[None]:
    return shut_down(host)


def _create(host: Host, operation: op.Create) -> Step[None]:
    yield from create(host, operation.guest, operation.memory_mib, operation.vcpus)


def _load(host: Host, operation: op.Load) -> Step[None]:
    return load(host, host.guest(operation.guest))


def _start(host: Host, operation: op.Start) -> Step[None]:
    """Row 4. The first CPU starts the others by SIGP, which the VMM sees to."""
    guest = host.guest(operation.guest)
    if host.policy == PREFAULT and PREFAULT not in host.offers:
        yield from bulk.bring_in(host, guest, page.missing(host, guest))
    yield from start(host, guest)
    yield from run(host, guest, guest.vcpus[0], Feed(_start_others(guest)), NOTICED)


def _start_others(guest: Guest) -> Steps:
    for vcpu in guest.vcpus[1:]:
        yield g.Sigp(SIGP_RESTART, vcpu.number), True


def _reset(host: Host, operation: op.Reset) -> Step[None]:
    """Rows 8 and 9: the first CPU asks; the VMM does the chain; what then runs starts the others again."""
    guest = host.guest(operation.guest)
    subcode = MODIFIED_CLEAR if operation.clear else LOAD_NORMAL
    asks: Steps = iter(((g.SetCpu(((3, subcode),)), False), (g.Diag(0x308, 0, 3), True)))
    yield from run(host, guest, guest.vcpus[0], Feed(chain(asks, _start_others(guest))), NOTICED)


def _dump(host: Host, operation: op.Dump) -> Step[bytes | None]:
    """Row 11. A plan that does not ask for the dump leaves what it is made of where it is."""
    if not operation.keep:
        yield from dump(host, host.guest(operation.guest))
        return None
    pages: dict[int, bytes] = {}
    made = yield from dump(host, host.guest(operation.guest), pages.__setitem__)
    return pack(made, pages)


def _destroy(host: Host, operation: op.Destroy) -> Step[None]:
    end = destroy_behind if operation.behind else destroy
    return end(host, host.guest(operation.guest))


def _kill(host: Host, operation: op.Kill) -> Step[None]:
    return kill(host, host.guest(operation.guest))


# -- the guest's own doing -------------------------------------------------------------------------


def _touch(host: Host, operation: op.Touch) -> Step[None]:
    guest, vcpu = _vcpu(host, operation)
    yield from bulk.touch(host, guest, vcpu, operation.pages.numbers())


def _write(host: Host, operation: op.Write) -> Step[None]:
    guest, vcpu = _vcpu(host, operation)
    missing = frame_of(host.level, guest.table, operation.page) is None
    store = g.Touch((operation.page << PAGE_SHIFT) + operation.at, write=True, value=operation.data)
    yield from run(host, guest, vcpu, Feed([(store, missing)]))


def _read(host: Host, operation: op.Read) -> Step[bytes]:
    guest, vcpu = _vcpu(host, operation)
    missing = frame_of(host.level, guest.table, operation.page) is None
    load = g.Read((operation.page << PAGE_SHIFT) + operation.at, operation.length)
    yield from run(host, guest, vcpu, Feed([(load, missing)]))
    return host.heard


def _share(host: Host, operation: op.Share) -> Step[None]:
    """Row 7: page by page, as Linux guests do at boot; a page that nobody has touched comes in on the way."""
    guest, vcpu = _vcpu(host, operation)
    yield from bulk.share(host, guest, vcpu, operation.pages.numbers())


def _change(host: Host, operation: op.Change) -> Step[None]:
    """Row 7a where the host has an I/O on the page that is taken back."""
    guest, vcpu = _vcpu(host, operation)
    if operation.busy:
        yield from page.pin(host, guest, operation.page)
    code = SHARE_CODE if operation.shared else UNSHARE_CODE
    yield from run(host, guest, vcpu, Feed(sharing(host, guest, vcpu, [operation.page], code)))


def _exits(host: Host, operation: op.Exits) -> Step[None]:
    guest, vcpu = _vcpu(host, operation)
    reasons = {"diag_notify": NOTIFY, "diag_500": HYPERCALL, "sclp": _console(vcpu), "wait": WAIT}
    if operation.reason not in reasons:
        raise ValueError(f"no exit of an s390 guest: {operation.reason!r}; allowed: {', '.join(reasons)}")
    prelude, step, reason = reasons[operation.reason]
    vmm = frozenset({reason}) if operation.answered_by == "vmm" else KERNEL
    steps = chain(((each, False) for each in prelude), repeat((step, True), operation.count))
    yield from run(host, guest, vcpu, Feed(steps), vmm)


def _console(vcpu: Vcpu) -> tuple[tuple[g.GuestStep, ...], g.GuestStep, str]:
    """A request with an empty block: eight bytes, that is its header."""
    at = block_of(vcpu)
    header = g.Touch(at, write=True, value=(8).to_bytes(2, "big") + bytes(6))
    return (header,), g.Sclp(WRITE_EVENT_DATA, at), "icpt_6c"


def _attest(host: Host, operation: op.Attest) -> Step[None]:
    return attest(host, *_vcpu(host, operation), operation.number)


def _add_secret(host: Host, operation: op.AddSecret) -> Step[None]:
    return add_secret(host, *_vcpu(host, operation), operation.number)


def _swap(host: Host, operation: op.Swap) -> Step[None]:
    """Rows 6 and 6a: all of the pages out, then the guest uses them again."""
    guest, vcpu = _vcpu(host, operation)
    pages = operation.pages.numbers().tolist()
    for number in pages:
        yield from page.swap_out(host, guest, number)
    yield from run(host, guest, vcpu, Feed(touches(host, guest, pages)))


def _vcpu(host: Host, operation: op.OnVcpu) -> tuple[Guest, Vcpu]:
    guest = host.guest(operation.guest)
    if not 0 <= operation.vcpu < len(guest.vcpus):
        raise ValueError(f"guest {guest.number} has {len(guest.vcpus)} CPUs, no number {operation.vcpu}")
    return guest, guest.vcpus[operation.vcpu]


_ACTS: Mapping[type, Act] = {
    op.BootHost: _boot,
    op.Shutdown: _shut_down,
    op.Create: _create,
    op.Load: _load,
    op.Start: _start,
    op.Reset: _reset,
    op.Dump: _dump,
    op.Destroy: _destroy,
    op.Kill: _kill,
    op.Touch: _touch,
    op.Write: _write,
    op.Read: _read,
    op.Share: _share,
    op.Change: _change,
    op.Exits: _exits,
    op.Attest: _attest,
    op.AddSecret: _add_secret,
    op.Swap: _swap,
}
