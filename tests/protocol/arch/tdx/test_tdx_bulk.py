"""A run of pages in one step leaves what the calls one by one leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Program, Tdcall
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.host.vm import Vm, tables
from protocol.arch.tdx.machine import bulk
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.status import RAX
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
