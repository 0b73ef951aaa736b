"""A host's software in a plan, in one process: what it takes it gives back, and what it cannot it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from random import Random

import pytest

from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.guest import GuestStep, Leave, Rdmsr, Touch
from protocol.arch.sev.host import kinds
from protocol.arch.sev.host import vm as loop
from protocol.arch.sev.host.driver import Failed
from protocol.arch.sev.host.system import Host, Kernel
from protocol.arch.sev.image import firmware_image
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import C_MASK, PAGE, REPORT_LEN, U64
from protocol.effects import run
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

IMAGE = derive(1, "guest image", 3 * PAGE)
BEHIND = FIRST_PAGES + 3  # the first page behind the image


def host_of(depth: int) -> tuple[Rig, Host]:
    rig = compose(PROFILES["small"], depth, 1, memory_bytes=32 * MIB, cpus=2)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(0), depth=depth, image=IMAGE)
    run(host.perform(op.BootHost()))
    return rig, host


def do(host: Host, *operations: op.Operation) -> None:
    for operation in operations:
        run(host.perform(operation))


def life(number: int) -> tuple[op.Operation, ...]:
    pages = op.Pages(BEHIND, 6, 6, seed=3)
    buffers = op.Pages(BEHIND + 6, 2, 2)
    return (
        op.Create(number, 1, 2),
        op.Load(number),
        op.Start(number),
        op.Touch(number, 1, pages),
        op.Share(number, 0, buffers),
        op.Exits(number, 1, "wait", "kernel", 3),
        op.Change(number, 0, BEHIND + 6, shared=False, busy=True),
    )


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_guest_gives_back_every_frame_that_it_took(depth: int) -> None:
    _, host = host_of(depth)
    free = host.pool.free
    do(host, *life(0), *life(1))
    assert host.pool.free < free
    do(host, op.Destroy(0), op.Kill(1))
    assert host.pool.free == free
    do(host, *life(2), op.Destroy(2), op.Shutdown())
    assert host.pool.free == free


@pytest.mark.parametrize("depth", [0, 1])
def test_nothing_of_a_destroyed_guest_is_left_below(depth: int) -> None:
    rig, host = host_of(depth)
    do(host, *life(0))
    assert rig.remains()["gctx"] == 1
    assert rig.remains()["secure_pages"] == 3 + 2 + 6 + 1  # image, VMSAs, touched, taken back
    do(host, op.Destroy(0), op.Shutdown())
    assert not any(rig.remains().values())
    assert rig.leaks() == []


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_host_that_ends_without_a_word_leaves_nothing(depth: int) -> None:
    rig, host = host_of(depth)
    do(host, *life(0))
    run(rig.end(0, "l1_crash"))
    assert not any(rig.remains().values())
    assert rig.leaks() == []


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_image_reaches_the_guest_encrypted_and_measured_alike(depth: int) -> None:
    """Guest addresses are the guest's own at every depth, so the launch digest is, too."""
    rig, host = host_of(depth)
    do(host, op.Create(0, 1, 1), op.Load(0))
    (context,) = rig.machines[0].platform.contexts.values()
    other, alone = host_of(0)
    do(alone, op.Create(7, 1, 1), op.Load(7))
    (expected,) = other.machines[0].platform.contexts.values()
    assert context.digest == expected.digest
    under = host.guests[0].private[FIRST_PAGES]
    assert host.level.read(under, PAGE) != IMAGE[:PAGE]


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (op.Load(5), "no guest 5"),
        (op.Reset(0, clear=True), "no operation of an AMD host"),
        (op.Exits(0, 0, "diag_308", "vmm", 1), "allowed: diag_notify, diag_500, sclp, wait"),
        (op.Exits(0, 2, "wait", "vmm", 1), "2 VCPUs, no number 2"),
        (op.Create(0, 1, 1), "is there already"),
        (op.Shutdown(), "still there"),
    ],
)
def test_an_operation_that_makes_no_sense_says_so_and_loses_nothing(
    operation: op.Operation, said: str
) -> None:
    _, host = host_of(0)
    do(host, *life(0))
    with pytest.raises(ValueError, match=said):
        do(host, operation)
    do(host, op.Touch(0, 0, op.Pages(BEHIND, 2, 2)), op.Destroy(0), op.Shutdown())


def test_a_host_that_is_off_has_no_driver() -> None:
    rig = compose(PROFILES["small"], 0, 1, memory_bytes=32 * MIB, cpus=2)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, Random(0), depth=0, image=IMAGE)
    with pytest.raises(ValueError, match="has not booted"):
        do(host, op.Create(0, 1, 1))


def test_a_host_without_an_image_loads_none() -> None:
    rig = compose(PROFILES["small"], 0, 1, memory_bytes=32 * MIB, cpus=2)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, Random(0), depth=0)
    do(host, op.BootHost(), op.Create(0, 1, 1))
    with pytest.raises(OperationFailed, match="no image"):
        do(host, op.Load(0))
    do(host, op.Destroy(0), op.Shutdown())


def test_a_host_whose_image_cannot_be_launched_says_why() -> None:
    """This firmware names no place where a second VCPU starts."""
    rig = compose(PROFILES["small"], 0, 1, memory_bytes=32 * MIB, cpus=2)
    image = firmware_image(bytes(2 * PAGE), "EPYC")
    host = Host(rig.seats[0].level, rig.seats[0].cpus, Random(0), depth=0, image=image)
    do(host, op.BootHost(), op.Create(0, 1, 2))
    with pytest.raises(OperationFailed, match="not built for SEV-ES"):
        do(host, op.Load(0))
    do(host, op.Destroy(0), op.Shutdown())


def test_a_guest_of_nothing_is_measured_as_nothing() -> None:
    host = host_with("sev", b"")
    (guest,) = host.level.platform.guests.values()
    assert (host.guests[0].private, guest.digest) == ({}, hashlib.sha256().digest())
    do(host, op.Touch(0, 0, op.Pages(BEHIND, 2, 2)), op.Destroy(0), op.Shutdown())


def test_what_was_not_packed_is_not_unloaded() -> None:
    _, host = host_of(0)
    do(host, *life(0))
    with pytest.raises(OperationFailed, match="guest 0 is not packed"):
        do(host, op.Unload(0, 0, 1))


def test_a_refused_command_is_a_failed_operation() -> None:
    """More guests than ASIDs: the last is refused, the others live on."""
    _, host = host_of(0)
    most = PROFILES["small"].min_sev_asid - 1
    for number in range(most):
        do(host, op.Create(number, 1, 1))
    with pytest.raises(OperationFailed):
        do(host, op.Create(most, 1, 1))
    do(host, op.Load(0), op.Start(0), op.Touch(0, 0, op.Pages(BEHIND, 1, 1)))


# -- software of L0's own beside its guest hosts ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sev", "snp"])
@pytest.mark.parametrize("depth", [1, 2])
def test_guests_of_l0_live_beside_those_of_its_guest_hosts(kind: str, depth: int) -> None:
    """L0's platform is up; it has CPUs, frames and ASIDs behind the shares of its guest hosts."""
    rig = compose(PROFILES["small"].of_kind(kind), depth, 1, 32 * MIB, 2, spare=32 * MIB)
    (seat,), machine, kvm = rig.seats, rig.machines[0], rig.chain[0]
    above = Host(seat.level, seat.cpus, Random(0), depth=depth, image=IMAGE, kind=kinds.KINDS[kind])
    own = Host(
        machine,
        [machine.cpus[number] for number in rig.own_cpus],
        Random(0),
        depth=0,
        image=IMAGE,
        kind=kinds.KINDS[kind],
        kernel=Kernel(kvm.pool, rig.own_asids, kvm.lock),
    )
    free = kvm.pool.free
    do(own, op.BootHost())
    do(above, op.BootHost(), *life(0))
    do(own, *life(0))
    assert own.guests[0].asid in rig.own_asids
    assert len(rig.own_asids) >= len(range(1, rig.profile.min_sev_asid))
    digests = rig.measurements()
    assert (len(digests), len(set(digests))) == (2, 1), "both were launched with the same"
    run(rig.end(0, "l1_crash"))
    do(own, op.Touch(0, 0, op.Pages(BEHIND, 2, 2)), op.Destroy(0), op.Shutdown())
    assert (kvm.pool.free, rig.leaks()) == (free, [])


# -- what a guest does that its host cannot go along with ---------------------------------------------------


def host_with(kind: str, image: bytes = IMAGE) -> Host:
    """A host with a running guest of this kind."""
    rig = compose(PROFILES["small"], 0, 1, memory_bytes=32 * MIB, cpus=2)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(0), depth=0, image=image, kind=kinds.KINDS[kind])
    do(host, op.BootHost(), op.Create(0, 1, 1), op.Load(0), op.Start(0))
    return host


Steps = Callable[[loop.Vm], Iterable[GuestStep]]


def changes(page: int, operation: int) -> Steps:
    """Ask for one page to be changed."""

    def steps(vm: loop.Vm) -> Iterable[GuestStep]:
        entry = bytes(8) + U64.pack(page << 12 | operation << 52)
        yield Touch(vm.ghcb(0) + loop.SHARED_BUFFER, True, entry)
        yield from kinds.event_of(vm, 0, loop.PSC_EVENT)

    return steps


WRONG: list[tuple[str, Steps, str]] = [
    ("snp", lambda vm: [Touch(vm.device | C_MASK)], "faults at 0x101000"),
    ("snp", lambda vm: [Leave("shutdown")], "leaves with 0x7f"),
    ("snp", lambda vm: [Rdmsr(0xDEAD)], "a step of guest 0 ends with"),
    ("snp", changes(256, loop.TO_PRIVATE), "asks for 1 of page 0x100"),
    ("snp", changes(9, 7), "asks for 7 of page 0x9"),
    ("snp", lambda vm: kinds.event_of(vm, 0, loop.REQUEST_EVENT), "asks with 0x0 for an answer in 0x0"),
    ("sev", lambda vm: [Touch(vm.device + PAGE | C_MASK)], "faults at"),
    ("sev-es", lambda vm: kinds.event_of(vm, 0, loop.REQUEST_EVENT), "nothing to say to the firmware"),
]

WRONG_IDS = ["beyond", "shutdown", "no MSR", "no page", "no change", "no request", "beyond, SEV", "no SNP"]


@pytest.mark.parametrize(("kind", "steps", "said"), WRONG, ids=WRONG_IDS)
def test_a_guest_that_cannot_go_on_fails_and_can_still_be_destroyed(
    kind: str, steps: Steps, said: str
) -> None:
    host = host_with(kind)
    vm = host.guests[0]
    with pytest.raises(loop.GuestFailed, match=said):
        run(loop.run(host, vm, 0, steps(vm), kinds.VMGEXIT))
    do(host, op.Destroy(0), op.Shutdown())


def test_a_vcpu_whose_control_block_is_no_page_is_not_entered() -> None:
    host = host_with("snp")
    vm = host.guests[0]
    vm.vmcbs[0] += 8
    with pytest.raises(loop.GuestFailed, match="VMRUN of guest 0 raises #GP"):
        do(host, op.Exits(0, 0, "wait", "kernel", 1))
    vm.vmcbs[0] -= 8
    do(host, op.Exits(0, 0, "wait", "kernel", 1), op.Destroy(0), op.Shutdown())


def test_a_page_that_changes_before_anybody_used_it_costs_no_memory() -> None:
    """There is nothing under it to drop, and it comes in as what it is by then."""
    host, page = host_with("snp"), BEHIND + 9
    vm, free = host.guests[0], host.pool.free
    host.level.ledger.reset()
    run(loop.run(host, vm, 0, changes(page, loop.TO_SHARED)(vm), kinds.VMGEXIT))
    assert (page in vm.open, host.pool.free) == (True, free)
    assert "te_issued.RMPUPDATE.0" not in host.level.ledger.flat()
    run(loop.run(host, vm, 0, [Touch(page * PAGE, True, b"all may see")]))
    assert host.level.read(vm.shared[page], 11) == b"all may see"
    do(host, op.Destroy(0), op.Shutdown())


def test_a_guest_without_encrypted_registers_has_the_same_exits() -> None:
    host = host_with("sev")
    with pytest.raises(ValueError, match="allowed: diag_notify, diag_500, sclp, wait"):
        do(host, op.Exits(0, 0, "diag_308", "vmm", 1))
    do(host, op.Exits(0, 0, "sclp", "vmm", 1), op.Destroy(0), op.Shutdown())


@pytest.mark.parametrize("kind", ["sev", "sev-es"])
def test_a_guest_without_snp_is_vouched_for_by_its_firmware(kind: str) -> None:
    """The report holds what was measured, and the policy; the page that it came in goes back."""
    host = host_with(kind)
    free = host.pool.free
    report = run(host.perform(op.Attest(0, 0, 0)))
    assert len(report) == REPORT_LEN
    (guest,) = host.level.platform.guests.values()
    assert guest.digest in report
    assert host.pool.free == free
    do(host, op.Destroy(0), op.Shutdown())


def test_what_a_driver_cannot_do_it_says_with_the_exception() -> None:
    host = host_with("snp")
    driver, private = host.driver, host.guests[0].private[FIRST_PAGES]
    for step, said in (
        (lambda: driver.read(host.level.size, 8), "a read at"),
        (lambda: driver.write(private, b"x"), "a store at .* raises #PF"),
        (lambda: run(driver.read_msr(0, 0xDEAD)), "RDMSR 0xdead raises #GP"),
        (lambda: run(driver.write_msr(0, 0xDEAD, 1)), "WRMSR 0xdead raises #GP"),
    ):
        with pytest.raises(Failed, match=said):
            step()
