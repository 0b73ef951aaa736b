"""How many commands of the secure processor a second, and how long the RMP of a GiB takes in one step: AMD.

The baseline of a command is the least that any emulation has to do: copy a buffer in, find the command by its
number, answer a status. That of a nested command is the same on the machine itself, so the ratio is what the
levels between cost this program. That of the RMP in one step is the same work, one RMPUPDATE after another.

Seconds are of the CPU's time, as everywhere here that nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random
from statistics import median

import numpy as np

from benchmarks.rate import TIMES, at_depths, rate
from benchmarks.run import Case
from protocol.arch.sev.compose import compose
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.rmp import OK, Rmp
from protocol.arch.sev.structs import LAYOUTS, PAGE, RMP_HEAD, Buffer, NewState
from protocol.effects import run
from protocol.plan import operations as op

GIB_PAGES = (1 << 30) // PAGE
FEW = 4096  # pages of the work one by one


# -- the mailbox ------------------------------------------------------------------------------------------


def commands(depth: int) -> float:
    """SNP_GUEST_STATUS of a guest that runs: its context, a page of the firmware's, the answer in it."""
    rig = compose(PROFILES["small"], depth, memory_bytes=64 * MIB)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(1), depth=depth, image=bytes(PAGE))
    for operation in (op.BootHost(), op.Create(0, memory_mib=1, vcpus=1), op.Load(0)):
        run(host.perform(operation))
    driver, context, status = host.driver, host.guests[0].context, host.page()
    run(driver.rmpupdate(status, NewState(0, True, False, True, 0)))

    def work() -> int:
        for _ in range(200):
            run(driver.command("SNP_GUEST_STATUS", gctx=context, status=status))
        return 200

    return rate(work)


def least() -> float:
    """A command found by its number, its buffer copied in: no state, no checks."""
    layout = LAYOUTS["SNP_GUEST_STATUS"]
    table: dict[int, Callable[[Buffer], int]] = {0x092: lambda buffer: 0 if buffer.gctx else 1}
    memory = bytearray(layout.pack(gctx=PAGE, status=2 * PAGE))

    def work() -> int:
        for _ in range(1000):
            status = table[0x092_0001 >> 16](Buffer(layout, bytes(memory)))
        assert not status
        return 1000

    return rate(work)


# -- the RMP ----------------------------------------------------------------------------------------------


def table() -> Rmp:
    """The RMP of a machine of 2 GiB; the second one is free."""
    rmp = Rmp(2 * GIB_PAGES, 16)
    rmp.build(16 * MIB, 16 * MIB + RMP_HEAD + 2 * GIB_PAGES * 16, np.ones(2 * GIB_PAGES, bool))
    return rmp


def in_one_step() -> float:
    """Milliseconds to give a GiB to a guest, and to take it back: the longer of the two."""
    rmp, given, taken = table(), [], []
    pages = np.arange(GIB_PAGES)
    frames = GIB_PAGES + pages
    for _ in range(TIMES):
        begin = time.process_time()
        assert rmp.free_each(frames)
        rmp.assign_each(frames, 1, pages)
        between = time.process_time()
        assert rmp.owned_each(frames, 1)
        rmp.release_each(frames, 1)
        given.append(between - begin)
        taken.append(time.process_time() - between)
    return 1000 * max(median(given), median(taken))


def one_by_one() -> float:
    """The same, extrapolated from a few pages."""
    rmp = table()

    def work() -> int:
        for n in range(FEW):
            assert rmp.update((GIB_PAGES + n) * PAGE, NewState(n * PAGE, True, False, False, 1)) == OK
        return FEW

    return 1000 * GIB_PAGES / rate(work)


def cases() -> Iterable[Case]:
    yield from at_depths("sev: commands", "command/s", commands, least)
    yield Case("sev: RMPUPDATE of a GiB in one step", "ms", in_one_step, one_by_one)
