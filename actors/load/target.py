"""A deployment in this process: the actors of one path of a scenario, with every guest up and running.

A guest does one request at a time; the next of it waits. Hosts and the Trusted Entity below are shared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from actors.compare.paths import stage
from actors.compare.stage import Parts, Stage
from actors.images import image_of
from actors.load.drive import Begun
from actors.runtime.actor import Runtime, open_runtime
from protocol.arch.contract import Architecture
from protocol.ledger import Ledger
from protocol.load.requests import Request
from protocol.plan.operations import BootHost, Destroy, ForGuest, Operation, Shutdown
from protocol.plan.scenario import Scenario
from protocol.plan.workload import DIRECT, Workload, workload

LIFE = ("create", "load", "boot")


class Deployment:
    """One path, up and running."""

    def __init__(self, staged: Stage, plan: Workload, runtime: Runtime) -> None:
        self._staged = staged
        self._runtime = runtime
        self._host_of = {guest: host.number for host in plan.hosts for guest in host.guests}
        self._acts = _acts(plan)
        self._owned = plan.path != DIRECT  # L0's own end would be the machine's
        self._busy = {guest: trio.Lock() for guest in self._host_of}

    @property
    def guests(self) -> Sequence[int]:
        return tuple(self._host_of)

    async def ask(self, request: Request, begun: Begun) -> None:
        """Do a request when those of the same guest before it are over."""
        async with self._busy[request.guest]:
            begun()
            if request.kind == "restart":
                await self._do(request.guest, [Destroy(request.guest)])
                await self.start(request.guest)
            else:
                await self._do(request.guest, self._acts[request.guest][request.kind])

    async def up(self) -> None:
        """Every host boots, then every guest."""
        for host in sorted(set(self._host_of.values())):
            await self._staged.perform(host, BootHost())
        for guest in self._host_of:
            await self.start(guest)

    async def down(self) -> None:
        """Every guest ends, then every host; nothing may be left."""
        for guest in self._host_of:
            await self._do(guest, [Destroy(guest)])
        for host in sorted(set(self._host_of.values())) if self._owned else ():
            await self._staged.perform(host, Shutdown())

    async def start(self, guest: int) -> None:
        for phase in LIFE:
            await self._do(guest, self._acts[guest][phase])

    async def _do(self, guest: int, acts: Sequence[Operation]) -> None:
        for act in acts:
            await self._staged.perform(self._host_of[guest], act)
            await trio.lowlevel.checkpoint()


def _acts(plan: Workload) -> Mapping[int, Mapping[str, list[Operation]]]:
    """What each guest does in each phase of its life."""
    found: dict[int, dict[str, list[Operation]]] = {}
    for host in plan.hosts:
        for guest in host.guests:
            found[guest] = {
                phase: [act for act in acts if isinstance(act, ForGuest) and act.guest == guest]
                for phase, acts in host.phases.items()
            }
    return found


def lacking(scenario: Scenario, arch: Architecture) -> dict[str, str]:
    """Kinds of requests that an architecture cannot do, with reasons, among those that are asked for."""
    mix, lacks = scenario.load.mix, getattr(arch.comparison, "lacks", {})
    return {kind: lacks[kind] for kind in ("page_change", "swap") if getattr(mix, kind) and kind in lacks}


@asynccontextmanager
async def deployed(scenario: Scenario, arch: Architecture, path: str) -> AsyncIterator[Deployment]:
    """A deployment that is up; taken down behind the block, without a leak."""
    comparison = arch.comparison
    assert comparison is not None
    plan = workload(scenario, path).without(getattr(comparison, "lacks", {}))
    image = image_of(comparison, scenario, None)
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        parts = Parts(arch.name, scenario, comparison, Ledger(comparison.prices.entry), runtime, image)
        staged = await stage(parts, plan, 1, nursery)
        deployment = Deployment(staged, plan, runtime)
        await deployment.up()
        yield deployment
        await deployment.down()
        assert not staged.rig.leaks(), "the books and the machine do not agree"
        await staged.close()
        nursery.cancel_scope.cancel()
