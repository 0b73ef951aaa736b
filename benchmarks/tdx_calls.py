"""How many SEAMCALLs a second, and how long a GiB takes that is added and accepted in one step: TDX.

The baseline of a call is the least that any emulation has to do: find the leaf by its number, answer with the
registers. That of a nested call is the same call on the machine itself, so the ratio is what the levels
between cost this program. That of the run in one step is the same work call by call.

Seconds are of the CPU's time, as everywhere here that nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.rate import TIMES, at_depths, rate
from benchmarks.run import Case
from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.cpu import Registers, registers
from protocol.arch.tdx.guest import Program, Tdcall
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.host.vm import Vm, tables
from protocol.arch.tdx.machine import bulk
from protocol.arch.tdx.profiles import GIB, MIB, PROFILES
from protocol.effects import run
from protocol.plan import operations as op

MNG_RD, AUG, ACCEPT = 11, 6, 6
OP_STATE = 0x9010000200000004
FEW = 2048  # pages of the work call by call


def guest_at(depth: int, memory_mib: int = 256) -> tuple[Any, Host, Vm]:
    """A host at `depth` with a TD that runs: the rig, the host, the TD."""
    rig = compose(PROFILES["small"], depth, memory_bytes=memory_mib * MIB)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, depth=depth, image=bytes(4096))
    for operation in (op.BootHost(), op.Create(0, memory_mib=2048, vcpus=1), op.Load(0)):
        run(host.perform(operation))
    return rig, host, host.guests[0]


# -- one call -------------------------------------------------------------------------------------


def calls(depth: int) -> float:
    """TDH.MNG.RD of one field: the handle, the state block, a field."""
    _, host, vm = guest_at(depth)
    level, lp = host.level, host.module.lps[0]
    r = registers(rax=MNG_RD, rcx=vm.tdr, rdx=OP_STATE)

    def work() -> int:
        for _ in range(500):
            out = run(level.call(lp, r))
        assert not out[0]
        assert out[8] == 2
        return 500

    return rate(work)


def least() -> float:
    """A leaf found by its number, sixteen registers answered: no state, no checks."""
    leaves: dict[int, Callable[[Registers], int]] = {MNG_RD: lambda r: 0}
    r = registers(rax=MNG_RD)

    def work() -> int:
        for _ in range(1000):
            out = list(r)
            out[0] = leaves[r[0] & 0xFFFF](out)
        return 1000

    return rate(work)


# -- a GiB ----------------------------------------------------------------------------------------


def gib_in_one_step() -> float:
    """Pages a second of 1 GiB that is added and accepted in one step, its tables being there."""
    rates = []
    for _ in range(TIMES):
        rig, host, vm = guest_at(0, memory_mib=3 * 1024)
        pages = np.arange(GIB >> 12) + (GIB >> 12)
        for first in range(GIB >> 12, 2 * GIB >> 12, 512):
            run(tables(host, vm, first))
        frames, machine = host.pool.take_many(pages.size), rig.machines[0]
        begin = time.process_time()
        assert bulk.free(machine, frames)
        assert bulk.addable(machine, vm.tdr >> 12, pages)
        bulk.bring_in(machine, vm.tdr >> 12, pages, frames)
        rates.append(pages.size / (time.process_time() - begin))
    return median(rates)


def call_by_call() -> float:
    """The same for fewer pages: one PAGE.AUG, one ACCEPT each."""
    _, host, vm = guest_at(0)
    first, lp = 1 << 18, host.module.lps[0]
    for page in range(first, first + FEW, 512):
        run(tables(host, vm, page))
    frames = host.pool.take_many(FEW).tolist()
    program, begin = Program(), time.process_time()
    for page, frame in zip(range(first, first + FEW), frames, strict=True):
        run(host.level.call(lp, registers(rax=AUG, rcx=page << 12, rdx=vm.tdr, r8=frame << 12)))
        program.steps.append(Tdcall(tuple(registers(rax=ACCEPT, rcx=page << 12))))
    run(host.module.enter(0, registers(rcx=vm.vcpus[0].handle), program))
    assert not program.steps
    return FEW / (time.process_time() - begin)


def cases() -> Iterable[Case]:
    yield from at_depths("tdx: SEAMCALLs", "calls/s", calls, least)
    yield Case("tdx: 1 GiB added and accepted in one step", "pages/s", gib_in_one_step, call_by_call)
