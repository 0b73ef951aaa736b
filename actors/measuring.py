"""Launch firmware on an emulated machine, on any path, and read what its Trusted Entity measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from actors.compare.paths import stage
from actors.compare.run import alone
from actors.compare.stage import Parts
from actors.runtime.actor import open_runtime
from protocol.arch import load
from protocol.ledger import Ledger
from protocol.plan import operations as op
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario
from protocol.plan.workload import workload

PAGE = 4096
GUEST_MIB = 4  # beside the firmware, which lies elsewhere
HOST_MIB = 128


@dataclass(frozen=True, slots=True)
class Launch:
    """What to launch: an image of firmware with so many VCPUs, on a path."""

    arch: str
    image: Any
    vcpus: int
    path: str
    depth: int
    seed: int


def measured(launch: Launch) -> str:
    """The digest in hex, as the firmware of the emulated machine has it. Raises OperationFailed."""
    with alone():
        digest: str = trio.run(_measure, launch)
    return digest


async def _measure(launch: Launch) -> str:
    comparison = load(launch.arch).comparison
    assert comparison is not None, f"{launch.arch} has no comparison"
    scenario = _scenario(launch)
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        ledger = Ledger(comparison.prices.entry)
        parts = Parts(launch.arch, scenario, comparison, ledger, runtime, launch.image)
        staged = await stage(parts, workload(scenario, launch.path), 1, nursery)
        rig: Any = staged.rig
        await staged.perform(0, op.BootHost())
        await staged.perform(0, op.Create(0, GUEST_MIB, launch.vcpus))
        await staged.perform(0, op.Load(0))
        (digest,) = rig.measurements()
        await staged.perform(0, op.Start(0))
        await staged.perform(0, op.Destroy(0))
        await staged.perform(0, op.Shutdown())
        left = rig.remains()
        assert not any(left.values()), f"the machine still holds {left}"
        await staged.close()
        nursery.cancel_scope.cancel()
    return str(digest)


def _scenario(launch: Launch) -> Scenario:
    """One host with one guest, which is as large as it has to be."""
    pages = -(-len(launch.image) // PAGE)
    memory = HOST_MIB + 2 * pages * PAGE // (1 << 20) + launch.vcpus // 64
    return Scenario(
        name="measure",
        seed=launch.seed,
        arch=(launch.arch,),
        paths=(launch.path,),
        depth=max(launch.depth, 1),
        l1=GuestHosts(count=1, memory_mib=memory, cpus=1),
        guest=Guests(per_l1=1, memory_mib=GUEST_MIB, vcpus=launch.vcpus, image_pages=pages),
        run=Run(),
    )
