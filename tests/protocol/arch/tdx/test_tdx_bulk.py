"""A run of pages in one step leaves what the calls one by one leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.arch.tdx import runs
from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Program, Tdcall
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.host.vm import Vm, tables
from protocol.arch.tdx.machine import bulk
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.status import RAX
from protocol.arch.tdx.tables import Lifecycle, PageType
from protocol.effects import run
from protocol.plan import operations as op

ACCEPT, AUG, RECLAIM = 6, 6, 28
PAGES = np.array([*range(600, 640), 700, 1023, 1024, 1025])


def host_with_guest() -> tuple[Any, Host, Vm]:
    rig = compose(PROFILES["small"], memory_bytes=256 * MIB)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, depth=0, image=b"firmware".ljust(4096, b"\0"))
    for operation in (op.BootHost(), op.Create(0, memory_mib=16, vcpus=1), op.Load(0), op.Start(0)):
        run(host.perform(operation))
    vm = host.guests[0]
    for page in PAGES.tolist():
        run(tables(host, vm, page))
    return rig.machines[0], host, vm


def state(machine: Any, vm: Vm) -> list[Any]:
    platform, td = machine.platform, machine.tds[vm.tdr >> 12]
    columns = (platform.kind, platform.owner, platform.bepoch, platform.size, machine.owned, machine.poison)
    return [
        *(column.tolist() for column in columns),
        td.children,
        {k: list(v) for k, v in td.sept.tables.items()},
    ]


@pytest.mark.parametrize("scattered", [False, True])
def test_pages_that_are_added_and_accepted(scattered: bool) -> None:
    (one, host, vm), (other, other_host, other_vm) = host_with_guest(), host_with_guest()
    frames = host.pool.take_many(PAGES.size)
    assert (frames == other_host.pool.take_many(PAGES.size)).all()
    if scattered:
        frames = np.random.default_rng(1).permutation(frames)
    place, program = vm.vcpus[0], Program()
    for page, frame in zip(PAGES.tolist(), frames.tolist(), strict=True):
        run(host.module.call("mem_page_aug", rcx=page << 12, rdx=vm.tdr, r8=frame << 12))
        program.steps.append(Tdcall(tuple(registers(rax=ACCEPT, rcx=page << 12))))
    out = run(host.module.enter(0, registers(rcx=place.handle), program))
    assert out[RAX] == 1 and not program.steps  # type: ignore[index]

    assert bulk.free(other, frames)
    assert bulk.addable(other, other_vm.tdr >> 12, PAGES)
    bulk.bring_in(other, other_vm.tdr >> 12, PAGES, frames)
    assert state(one, vm) == state(other, other_vm)
    assert not bulk.free(other, frames[:1])
    assert not bulk.addable(other, other_vm.tdr >> 12, PAGES[-1:])


def test_pages_without_tables_are_not_for_a_run() -> None:
    machine, _, vm = host_with_guest()
    assert not bulk.addable(machine, vm.tdr >> 12, np.array([3000]))


def test_before_a_td_is_initialised_it_has_no_tables() -> None:
    machine, _, vm = host_with_guest()
    machine.tds[vm.tdr >> 12].sept = None
    assert not bulk.addable(machine, vm.tdr >> 12, PAGES)


def in_levels(depth: int) -> tuple[Any, Host, Vm, int]:
    """A host that takes pages in runs, at some depth, its TD, and a page that the guest has."""
    rig = compose(PROFILES["small"], depth, memory_bytes=256 * MIB)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, depth=depth, image=bytes(4096), bulk=True)
    for operation in (op.BootHost(), op.Create(0, memory_mib=16, vcpus=1), op.Load(0), op.Start(0)):
        run(host.perform(operation))
    run(host.perform(op.Touch(0, 0, op.Pages(600, 1, 1))))
    return rig, host, host.guests[0], 600


def touched(depth: int, held: bool) -> tuple[Any, Host, Vm]:
    """Forty pages at once; `held`: a lock is taken somewhere on the machine, so they go call by call."""
    rig, host, vm, _ = in_levels(depth)
    locks = rig.machines[0].platform.locks
    if held:
        assert locks.own("somebody else's")
    run(host.perform(op.Touch(0, 0, op.Pages(601, 40, 40))))
    run(host.perform(op.Touch(0, 0, op.Pages(641, 40, 40))))
    if held:
        locks.release("somebody else's")
    return rig, host, vm


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_pages_that_cannot_go_in_one_step_go_one_by_one_with_the_same_frames(depth: int) -> None:
    (one, a_host, a_vm), (other, b_host, b_vm) = touched(depth, False), touched(depth, True)
    assert a_vm.private == b_vm.private
    assert len(a_vm.private) > 80
    assert a_host.pool.free == b_host.pool.free
    assert one.ledger.flat() == other.ledger.flat()
    assert state(one.machines[0], a_vm_on(one, a_vm)) == state(other.machines[0], a_vm_on(other, b_vm))
    for host in (a_host, b_host):
        run(host.perform(op.Destroy(0)))
    assert one.ledger.flat() == other.ledger.flat()
    assert one.leaks() == other.leaks() == []


def a_vm_on(rig: Any, vm: Vm) -> Any:
    """The TD by its TDR on the machine."""
    level, frame = rig.seats[0].level, vm.tdr >> 12
    while level is not rig.machines[0]:
        level, frame = level.below.memory, level.frame_below(frame)
    return type("OnMachine", (), {"tdr": frame << 12})


@pytest.mark.parametrize("depth", [1, 2])
def test_runs_are_refused_where_a_book_on_the_way_says_otherwise(depth: int) -> None:
    rig, host, vm, _ = in_levels(depth)
    level: Any = rig.seats[0].level
    tdr, free = vm.tdr >> 12, host.pool.take_many(8)
    pages = np.arange(601, 609)
    assert runs.addable(level, tdr, pages, free)
    level.platform.kind[free[3]] = PageType.REG
    assert not runs.addable(level, tdr, pages, free)
    mine = np.array([page >> 12 for page in vm.private.values()])
    assert not runs.reclaimable(level, tdr, mine), "its key is still there"
    machine = rig.machines[0]
    (td,) = machine.tds.values()
    td.lifecycle = Lifecycle.TEARDOWN
    assert runs.reclaimable(level, tdr, mine)
    level.platform.owner[mine[0]] += 1
    assert not runs.reclaimable(level, tdr, mine)


def test_pages_of_a_td_that_is_not_there_are_not_for_a_run() -> None:
    rig, _, vm, _ = in_levels(0)
    assert not bulk.reclaimable(rig.machines[0], (vm.tdr >> 12) + 1, np.array([vm.tdr >> 12]))
