"""A deployment that runs already (`nestbed up`): its hosts do what requests ask, its broker serves the
hosted ones.

Whoever drives a deployment has it for itself: the file says `load = false`, or its own load would drive
the same hosts. A block finds every host afresh (nested: reset and booted; hosted: no child left) and
leaves it so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import trio

from actors.deployment import words
from actors.deployment.asker import Asker
from actors.deployment.load import OPERATION_S
from actors.deployment.parts import machine_name
from actors.deployment.reach import Reach
from actors.deployment.settings import Deployment
from actors.images import image_of
from actors.load.drive import Begun, Block, Watch, drive_closed, drive_open
from actors.load.run import RunBlock, blocks
from actors.node import Above, Boot, End
from actors.runtime.link import Link
from protocol.arch import load as slice_of
from protocol.load.requests import Draw, Request, requests
from protocol.plan.operations import (
    BootHost,
    Change,
    Destroy,
    Exits,
    ForGuest,
    Operation,
    Share,
    Swap,
    Touch,
)
from protocol.plan.scenario import Scenario
from protocol.plan.workload import NESTED, workload

LIVES = count(1_000_000_000)  # of hosts: above those that a deployment's own load counts
Acts = Mapping[str, Sequence[Operation]]
LIFE = ("create", "load", "boot")
DOES = (Touch, Share, Exits, Change, Swap)  # what a guest does, or L0 with it, without a word of its owner


@dataclass(slots=True)
class Seat:
    """One guest host of one machine, with what its guests do in each phase."""

    machine: int
    number: int
    guests: Mapping[int, Acts]  # by their number on the machine

    async def up(self) -> None:
        """Find it afresh."""
        raise NotImplementedError

    async def start(self, guest: int) -> None:
        raise NotImplementedError

    async def end(self, guest: int) -> None:
        raise NotImplementedError

    async def do(self, guest: int, phase: str) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class NestedSeat(Seat):
    """Its own software does what is asked, over the link of its process."""

    link: Link
    below: Link
    node: str
    above: bool  # whether the hypervisor below it lives with it

    async def up(self) -> None:
        await self._say(self.node, End(self.number))
        if self.above:
            await self._say(self.node, Above(self.number, "reset"))
        else:
            await self.below.ask(words.MACHINE, words.ResetHost(self.number), timeout_s=OPERATION_S)
        await self._say(self.node, Boot(self.number, next(LIVES)))
        await self._do([BootHost()])

    async def start(self, guest: int) -> None:
        for phase in LIFE:
            await self.do(guest, phase)

    async def end(self, guest: int) -> None:
        await self._do([Destroy(guest)])

    async def do(self, guest: int, phase: str) -> None:
        await self._do(self.guests[guest].get(phase, ()))

    async def _do(self, acts: Sequence[Operation]) -> None:
        for act in acts:
            await self._say(f"host.{self.number}", act)

    async def _say(self, target: str, message: object) -> None:
        await self.link.ask(target, message, timeout_s=OPERATION_S)


@dataclass(slots=True)
class HostedSeat(Seat):
    """It asks its machine's broker; what a guest does by itself, and L0 with it, the machine is told."""

    asker: Asker
    below: Link
    image: bytes
    spec: Mapping[str, Any]
    digest: bytes = b""
    children: dict[int, bytes] = field(default_factory=dict)

    async def up(self) -> None:
        for child in (await self.asker.ask("list", exited=True))["children"]:
            await self._gone(child["child"])
        self.digest = await self.asker.bring(self.image)

    async def start(self, guest: int) -> None:
        await self.asker.ask("lease.renew")
        key = self.asker.epoch.to_bytes(4, "big") + next(LIVES).to_bytes(12, "big")
        spec = {**self.spec, "image": self.digest, "labels": {"guest": str(guest)}}
        self.children[guest] = (await self.asker.ask("start", key, spec=spec))["child"]
        await self.do(guest, "boot")

    async def end(self, guest: int) -> None:
        child = self.children.pop(guest)
        await self.asker.ask("stop", child=child, how="kill")
        await self._gone(child)

    async def do(self, guest: int, phase: str) -> None:
        for act in self.guests[guest].get(phase, ()):
            if isinstance(act, DOES):
                does = words.GuestDoes(self.children[guest], act)
                await self.below.ask(words.MACHINE, does, timeout_s=OPERATION_S)

    async def _gone(self, child: bytes) -> None:
        await self.asker.ask("destroy", child=child)
        await self.asker.ask("ack_exit", child=child)


class Running:
    """The guests of all seats of a deployment, numbered through: what a block is driven against."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self._of = [(seat, guest) for seat in seats for guest in seat.guests]
        self._busy = [trio.Lock() for _ in self._of]
        self._seats = seats

    @property
    def guests(self) -> Sequence[int]:
        return range(len(self._of))

    async def ask(self, request: Request, begun: Begun) -> None:
        """Do a request when those of the same guest before it are over."""
        seat, guest = self._of[request.guest]
        async with self._busy[request.guest]:
            begun()
            if request.kind == "restart":
                await seat.end(guest)
                await seat.start(guest)
            else:
                await seat.do(guest, request.kind)

    async def up(self) -> None:
        """Every host afresh, every guest running."""
        for seat in self._seats:
            await seat.up()
        for seat, guest in self._of:
            await seat.start(guest)

    async def down(self) -> None:
        for seat, guest in self._of:
            await seat.end(guest)


def against(
    reach: Reach,
    deployment: Deployment,
    scenario: Scenario,
    watch: Callable[[str], Watch] | None = None,
    replay: Sequence[float] = (),
    machines: Sequence[int] | None = None,
    shards: int = 1,
) -> RunBlock:
    """A block against a deployment that runs, all of it or some machines, with 1/shards of the rate."""

    async def run_block(path: str, draw: Draw) -> Block:
        async with running(reach, deployment, scenario, path, machines) as found:
            seen = None if watch is None else watch(path)
            if scenario.load.model == "closed":
                return await drive_closed(found, scenario.load, found.guests, draw, seen)
            return await drive_open(found, requests(scenario.load, found.guests, draw, shards, replay), seen)

    return run_block


async def fleet_blocks(
    scenario: Scenario,
    deployment: Deployment,
    reach: Reach,
    watch: Callable[[str], Watch] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Every block on every machine, the machines at the same time; what each found, by its name.

    Each is a shard with its share of the rate: what they found can be added up. Raises OSError.
    """
    found: dict[str, Any] = {}
    shards = deployment.machines

    async def one(machine: int) -> None:
        run_block = against(reach, deployment, scenario, watch, (), [machine], shards)
        found[machine_name(machine)] = await blocks(scenario, machine, run_block, stopped)

    async with trio.open_nursery() as nursery:
        for machine in range(shards):
            nursery.start_soon(one, machine)
    return dict(sorted(found.items()))


@asynccontextmanager
async def running(
    reach: Reach,
    deployment: Deployment,
    scenario: Scenario,
    path: str,
    machines: Sequence[int] | None = None,
) -> AsyncIterator[Running]:
    """The deployment with every guest up on this path. Raises OSError where no part answers."""
    async with AsyncExitStack() as stack:
        seats: list[Seat] = []
        for machine in range(deployment.machines) if machines is None else machines:
            name = machine_name(machine)
            below = await stack.enter_async_context(reach.control(name, name))
            for number in range(scenario.l1.count):
                make = _nested if path == NESTED else _hosted
                seats.append(await make(stack, reach, deployment, scenario, machine, number, below))
        found = Running(seats)
        await found.up()
        yield found
        await found.down()


async def _nested(
    stack: AsyncExitStack,
    reach: Reach,
    deployment: Deployment,
    scenario: Scenario,
    machine: int,
    number: int,
    below: Link,
) -> Seat:
    first = 0 if scenario.depth > 1 else number
    name = machine_name(machine)
    part = f"{name}.l1-{first}" if deployment.placement == "apart" else name
    link = await stack.enter_async_context(reach.control(part, name))
    guests = _acts(scenario, deployment.arch, NESTED, number)
    return NestedSeat(machine, number, guests, link, below, f"node.{first}", scenario.depth > 1)


async def _hosted(
    stack: AsyncExitStack,
    reach: Reach,
    deployment: Deployment,
    scenario: Scenario,
    machine: int,
    number: int,
    below: Link,
) -> Seat:
    asker = await stack.enter_async_context(reach.hosting(machine_name(machine), number))
    comparison = slice_of(deployment.arch).comparison
    assert comparison is not None
    own = replace(scenario, seed=deployment.seed + machine)
    data = None if own.guest.image is None else await trio.Path(Path(own.guest.image)).read_bytes()
    image = comparison.pack_image(image_of(comparison, own, data))
    guests = _acts(own, deployment.arch, "hosted", number)
    spec = {"vcpus": own.guest.vcpus, "memory_mib": own.guest.memory_mib}
    return HostedSeat(machine, number, guests, asker, below, image, spec)


def _acts(scenario: Scenario, arch: str, path: str, number: int) -> Mapping[int, Acts]:
    """What each guest of a host does in each phase."""
    plan = workload(scenario, path).without(getattr(slice_of(arch).comparison, "lacks", {})).hosts[number]
    return {
        guest: {
            phase: [act for act in acts if isinstance(act, ForGuest) and act.guest == guest]
            for phase, acts in plan.phases.items()
        }
        for guest in plan.guests
    }
