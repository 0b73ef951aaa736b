"""A TDX host's software in a plan, in one process: what it cannot do it says, and it loses nothing by it."""

from __future__ import annotations

import pytest

from protocol.arch.tdx.compose import Rig, compose
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.locks import Held
from protocol.arch.tdx.machine.checks import tree_lock
from protocol.arch.tdx.platform import page_lock
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.effects import run
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

PAGE = 4096
IMAGE = bytes(range(256)) * (3 * PAGE // 256)
BEHIND = FIRST_PAGES + 3  # the first page behind the image
LIFE = (
    op.Create(0, 2, 2),
    op.Load(0),
    op.Start(0),
    op.Touch(0, 1, op.Pages(BEHIND, 6, 6, seed=3)),
    op.Share(0, 0, op.Pages(BEHIND + 6, 2, 2)),
)


def host_of(depth: int = 0, image: bytes | None = IMAGE) -> tuple[Rig, Host]:
    rig = compose(PROFILES["small"], depth, 1, 128 * MIB, 2)
    seat = rig.seats[0]
    return rig, Host(seat.level, seat.cpus, depth=depth, image=image)


def do(host: Host, *operations: op.Operation) -> None:
    for operation in operations:
        run(host.perform(operation))


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_a_page_changes_sides_and_serves_there(depth: int, shared: bool) -> None:
    """The guest uses it before and afterwards; what was under it goes back when the guest does."""
    rig, host = host_of(depth)
    do(host, op.BootHost())
    free = host.pool.free
    do(host, *LIFE)
    vm, page = host.guests[0], BEHIND if shared else BEHIND + 6
    do(host, op.Change(0, 0, page, shared=shared, busy=False))
    assert (page in vm.shared, page in vm.private) == (shared, not shared)
    do(host, op.Destroy(0))
    assert host.pool.free == free
    do(host, op.Shutdown())
    assert rig.leaks() == []


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (op.Load(5), "no guest 5"),
        (op.Reset(0, clear=True), "no operation of a TDX host"),
        (op.Exits(0, 0, "diag_308", "vmm", 1), "no exit of a TD"),
        (op.Exits(0, 2, "wait", "vmm", 1), "2 VCPUs, no number 2"),
        (op.Create(0, 1, 1), "is there already"),
        (op.Shutdown(), "still there"),
    ],
)
def test_an_operation_that_makes_no_sense_says_so_and_loses_nothing(
    operation: op.Operation, said: str
) -> None:
    _, host = host_of()
    do(host, op.BootHost(), *LIFE)
    with pytest.raises(ValueError, match=said):
        do(host, operation)
    do(host, op.Touch(0, 0, op.Pages(BEHIND, 2, 2)), op.Destroy(0), op.Shutdown())


def test_a_host_that_is_off_has_no_module() -> None:
    _, host = host_of()
    with pytest.raises(ValueError, match="has not booted"):
        do(host, op.Create(0, 1, 1))
    do(host, op.BootHost(), op.Shutdown())
    with pytest.raises(ValueError, match="has not booted"):
        do(host, op.Create(0, 1, 1))


def test_a_host_without_an_image_loads_none() -> None:
    _, host = host_of(image=None)
    do(host, op.BootHost(), op.Create(0, 1, 1))
    with pytest.raises(OperationFailed, match="no image"):
        do(host, op.Load(0))
    do(host, op.Destroy(0))


def test_more_guests_than_keyids_are_refused_and_the_others_live_on() -> None:
    _, host = host_of()
    do(host, op.BootHost())
    most = len(host.keys)
    for number in range(most):
        do(host, op.Create(number, 1, 1))
    with pytest.raises(OperationFailed, match="no KeyID"):
        do(host, op.Create(most, 1, 1))
    do(host, op.Load(0), op.Start(0), op.Touch(0, 0, op.Pages(BEHIND, 1, 1)))


def test_memory_that_cannot_be_read_is_said() -> None:
    """A page of a TD's, to which its host has stored, is a machine check."""
    _, host = host_of()
    do(host, op.BootHost(), *LIFE)
    page = host.guests[0].private[BEHIND]
    assert host.level.write(page, b"x") is None
    with pytest.raises(OperationFailed, match="#MC"):
        host.load(page, 1)


def test_a_lock_that_nobody_gives_back_is_waited_for_a_while_and_then_said() -> None:
    """What holds it up is asked again, as Linux asks again; nothing is lost, and later all goes on."""
    rig, host = host_of()
    do(host, op.BootHost(), *LIFE)
    machine, vm = rig.machines[0], host.guests[0]
    for what, operation in (
        (page_lock(vm.tdr >> 12, 0), op.Exits(0, 0, "wait", "kernel", 1)),
        (tree_lock(machine.tds[vm.tdr >> 12]), op.Touch(0, 0, op.Pages(BEHIND + 9, 1, 1))),
    ):
        held = Held(machine.platform.locks)
        assert held.own(what)
        with pytest.raises(OperationFailed, match="OPERAND_BUSY"):
            do(host, operation)
        held.release_all()
        do(host, operation)
    do(host, op.Destroy(0), op.Shutdown())


@pytest.mark.parametrize(
    ("profile", "memory", "cpus", "said"),
    [
        ("small", 64 * MIB, 2, "allowed are whole pages, at least"),
        ("small", 128 * MIB + 1, 2, "allowed are whole pages"),
        ("small-2p", 256 * MIB, 1, "at least one for each of 2 packages"),
    ],
)
def test_a_host_that_cannot_be_composed_is_refused_with_what_can(
    profile: str, memory: int, cpus: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compose(PROFILES[profile], 0, 1, memory, cpus)
