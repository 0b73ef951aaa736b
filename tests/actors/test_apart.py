"""The milestone in two processes: L0 with its machine in this one, L1 and what is above it in another.

The same life as in one process, over a Unix socket and one RAM file, with equal counts; and L1 killed at any
moment, also while calls of it are parked, leaves nothing behind.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol" / "arch" / "s390"))

from levels_apart import MEMORY, Apart, scenario

from actors.apart import ApartHost, start_apart
from actors.runtime.actor import Runtime, open_runtime
from protocol.arch.s390.audit import leaks
from protocol.errors import LevelGone, NestbedError
from protocol.ledger import Ledger
from protocol.plan.operations import Operation
from protocol.plan.workload import workload

pytestmark = pytest.mark.slow

PATIENCE_S = 120  # far more than it takes; a test that hangs has failed


def plan(depth: int) -> list[Operation]:
    """Everything that the host does in its life."""
    host = workload(scenario(depth, hosts=1), "nested").hosts[0]
    return [act for phase in host.phases.values() for act in phase if isinstance(act, Operation)]


async def started(nursery: trio.Nursery, runtime: Runtime, depth: int, ledger: Ledger) -> ApartHost:
    return await start_apart(nursery, runtime, "s390", depth, MEMORY, 2, 1, 3, ledger)


def in_one_process(depth: int) -> Counter[str]:
    apart = Apart(depth, 1, Random(0))
    apart.crossing.run()
    return Counter(apart.ledger.flat())


@pytest.mark.parametrize("depth", [1, 2])
async def test_counts_are_those_of_one_process(depth: int) -> None:
    ledger = Ledger()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery, open_runtime() as runtime:
            apart = await started(nursery, runtime, depth, ledger)
            for act in plan(depth):
                await apart.control.ask("host", act)
            lived = Counter(ledger.flat()) + Counter(await apart.control.ask("counts", None))
            assert leaks(apart.rig) == []
            apart.child.kill()
            await apart.gone()
            nursery.cancel_scope.cancel()
    assert lived == in_one_process(depth)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("seed", range(6))
async def test_a_host_that_is_killed_at_any_moment_leaves_nothing(depth: int, seed: int) -> None:
    random = Random(seed)
    ledger = Ledger()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery, open_runtime() as runtime:
            files = open_files()
            apart = await started(nursery, runtime, depth, ledger)
            acts = plan(depth)
            last = random.randrange(2, len(acts))
            for act in acts[:last]:
                await apart.control.ask("host", act)
            async with trio.open_nursery() as dying:
                dying.start_soon(until_it_dies, apart, acts[last:])
                for _ in range(random.randrange(40)):
                    await trio.lowlevel.checkpoint()
                apart.child.kill()
                await apart.gone()
            assert leaks(apart.rig) == []
            assert open_files() == files
            machine = apart.rig.machines[0]
            assert (machine.configs, machine.secure_cpus) == ({}, {})
            nursery.cancel_scope.cancel()


def open_files() -> list[str]:
    """What this process has open that its child had, too: RAM files."""
    names = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(name for name in names if "nestbed-ram" in name)


async def until_it_dies(apart: ApartHost, acts: list[Operation]) -> None:
    try:
        for act in acts:
            await apart.control.ask("host", act)
    except (LevelGone, NestbedError):
        return
