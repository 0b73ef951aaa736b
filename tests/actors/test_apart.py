"""The milestone in processes: L0 with its machine in this one, L1 and what is above it in another.

The same life as in one process, over Unix sockets and one RAM file for each L1, with equal counts; and L1
killed at any moment, also while calls of it are parked, leaves nothing behind.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol" / "arch" / "s390"))

from levels_apart import MEMORY, Apart, scenario

from actors.apart import ApartNode, settle, start_node
from actors.kvm import Kvm
from actors.node import Boot, NodeConfig, Tally
from actors.runtime.actor import Runtime, open_runtime
from actors.te import TrustedEntity
from protocol.arch import load
from protocol.arch.s390.audit import leaks
from protocol.codec import Codec
from protocol.errors import NestbedError
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan.operations import Operation
from protocol.plan.workload import workload

pytestmark = pytest.mark.slow

PATIENCE_S = 120  # far more than it takes; a test that hangs has failed
CPUS, SEED, IMAGE_PAGES = 2, 1, 3


def plan(depth: int) -> list[Operation]:
    """Everything that the host does in its life."""
    host = workload(scenario(depth, hosts=1), "nested").hosts[0]
    return [act for phase in host.phases.values() for act in phase if isinstance(act, Operation)]


@dataclass
class Machine:
    """L0 in this process, and its one node."""

    rig: Any
    kvm: Kvm
    node: ApartNode

    async def perform(self, act: Operation) -> None:
        await self.node.control.ask("host.0", act)


async def started(nursery: trio.Nursery, runtime: Runtime, depth: int, ledger: Ledger) -> Machine:
    """A machine with one host at `depth`, L1 and all above it in a process of their own."""
    comparison: Any = load("s390").comparison
    rig = comparison.lower(Sizes("small", depth, 1, MEMORY, CPUS, SEED), ledger)
    te = TrustedEntity(rig.below(0)[-1], runtime)
    kvm = Kvm("l0.kvm", te.actor, runtime)
    l1 = settle(rig, 0, kvm, "l1", Codec(comparison.wire))
    seat = rig.seats[0]
    config = NodeConfig(
        "s390", depth, (0,), l1.file.frames, len(seat.cpus), MEMORY, CPUS, "small", SEED, {}, IMAGE_PAGES
    )
    node = await start_node(nursery, config, [l1], kvm)
    await node.tell(Boot(0, 1))
    return Machine(rig, kvm, node)


def in_one_process(depth: int) -> Counter[str]:
    apart = Apart(depth, 1, Random(0))
    apart.crossing.run()
    return Counter(apart.ledger.flat())


def open_files() -> list[str]:
    """RAM files that this process has open."""
    names = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(name for name in names if "nestbed-ram" in name)


@pytest.mark.parametrize("depth", [1, 2])
async def test_counts_are_those_of_one_process(depth: int) -> None:
    ledger = Ledger()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery, open_runtime() as runtime:
            machine = await started(nursery, runtime, depth, ledger)
            for act in plan(depth):
                await machine.perform(act)
            told = await machine.node.tell(Tally())
            assert leaks(machine.rig) == []
            lived = Counter(ledger.flat())
            machine.node.child.kill()
            await machine.node.gone(machine.kvm)
            nursery.cancel_scope.cancel()
    there: Counter[str] = Counter()
    for phase in told["phases"].values():
        there.update(phase)
    own = {key for key in there if key.startswith("tracking_updates") and key.endswith(f".l{depth}")}
    books = sum(there[key] for key in own)
    there -= Counter({key: there[key] for key in own} | {"tracking_updates": books})
    assert lived + there == in_one_process(depth)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("seed", range(6))
async def test_a_host_that_is_killed_at_any_moment_leaves_nothing(depth: int, seed: int) -> None:
    random = Random(seed)
    ledger = Ledger()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery, open_runtime() as runtime:
            files = open_files()
            machine = await started(nursery, runtime, depth, ledger)
            acts = plan(depth)
            last = random.randrange(2, len(acts))
            for act in acts[:last]:
                await machine.perform(act)
            async with trio.open_nursery() as dying:
                dying.start_soon(until_it_dies, machine, acts[last:])
                for _ in range(random.randrange(40)):
                    await trio.lowlevel.checkpoint()
                machine.node.child.kill()
                await machine.node.gone(machine.kvm)
            assert leaks(machine.rig) == []
            assert open_files() == files
            te = machine.rig.machines[0]
            assert (te.configs, te.secure_cpus) == ({}, {})
            nursery.cancel_scope.cancel()


async def until_it_dies(machine: Machine, acts: list[Operation]) -> None:
    try:
        for act in acts:
            await machine.perform(act)
    except NestbedError:
        return
