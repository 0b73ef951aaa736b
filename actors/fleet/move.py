"""Moves a guest host from one machine of a fleet to another, over direct links; what it took is counted.

Counts are what both machines counted meanwhile, so they are the move's alone where nobody else is at work on
them. Downtime of a guest is given twice and never mixed: modelled from those counts with the table of costs
(for a cold start with a kernel's boot), and as this program took it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from actors.costs import shipped
from actors.deployment import words
from actors.deployment.load import OPERATION_S
from actors.deployment.parts import machine_name
from actors.deployment.reach import Reach
from actors.deployment.settings import Deployment
from actors.node import Boot as BootNode
from actors.node import End
from actors.runtime.link import Link
from protocol.arch import load as slice_of
from protocol.cost.price import priced
from protocol.errors import OperationFailed
from protocol.fleet.moving import RESTART, SOURCE, TARGET, Boot, Do, Mark, Moved, There, moved, way_of
from protocol.plan.scenario import Scenario

LIVES = count(2_000_000_000)  # of hosts: above those of loads
Json = dict[str, Any]
Counts = Mapping[str, int]


class CannotMove(Exception):
    """Not from there, or not to there; the message says why and what is allowed."""


@dataclass(frozen=True, slots=True)
class SeatName:
    """A guest host's place: its machine and its seat there."""

    machine: str
    seat: int

    def __str__(self) -> str:
        return f"{self.machine}/{self.seat}"


def seat_of(text: str, deployment: Deployment, scenario: Scenario) -> SeatName:
    """MACHINE/SEAT of a deployment. Raises CannotMove."""
    machines = [machine_name(machine) for machine in range(deployment.machines)]
    found = re.fullmatch(r"(\S+)/(\d{1,4})", text)
    if found is None or found[1] not in machines or int(found[2]) >= scenario.l1.count:
        last = scenario.l1.count - 1
        raise CannotMove(
            f"{text}: allowed: MACHINE/SEAT of {machines[0]} to {machines[-1]}, seats 0 to {last}"
        )
    return SeatName(found[1], int(found[2]))


@dataclass(slots=True)
class _Down:
    """A guest that stands still, and what was counted when it began to."""

    began: float
    counts: Counts
    wall_ms: float = 0.0


@dataclass(slots=True)
class _Side:
    """One end of a move."""

    name: SeatName
    link: Link
    nodes: str = field(default="")

    async def ask(self, target: str, message: object) -> Any:
        return await self.link.ask(target, message, timeout_s=OPERATION_S)

    async def counts(self) -> Counts:
        found: Counts = await self.ask(words.MACHINE, words.Counted())
        return found

    async def guests(self) -> tuple[int, ...] | None:
        found: tuple[int, ...] | None = await self.ask(words.MACHINE, words.Guests(self.name.seat))
        return found

    async def boot(self) -> None:
        """The host ends, L0 reclaims what is left of it, and it comes up with new software."""
        seat = self.name.seat
        await self.ask(self.nodes, End(seat))
        await self.ask(words.MACHINE, words.ResetHost(seat))
        await self.ask(self.nodes, BootNode(seat, next(LIVES)))


class Mover:
    """Moves hosts of one deployment, whose machines are reached by `reach`."""

    def __init__(self, reach: Reach, deployment: Deployment, scenario: Scenario) -> None:
        self._reach, self._deployment, self._scenario = reach, deployment, scenario
        comparison = slice_of(deployment.arch).comparison
        assert comparison is not None, f"{deployment.arch} has no comparison"
        self._prices, self._comparison = comparison.prices, comparison

    async def move(self, source: SeatName, target: SeatName) -> Json:
        """Move the host on `source` to `target`; what came of it.

        Raises CannotMove with nothing done; OSError, NestbedError if a machine is gone meanwhile.
        """
        if self._scenario.depth != 1:
            raise CannotMove(
                f"depth {self._scenario.depth}: allowed: 1, where each host has a seat of its own"
            )
        if source.machine == target.machine:
            raise CannotMove(f"{target}: allowed: a seat on another machine")
        async with AsyncExitStack() as stack:
            sides = {}
            for side, name in ((SOURCE, source), (TARGET, target)):
                link = await stack.enter_async_context(self._reach.control(name.machine, name.machine))
                sides[side] = _Side(name, link, f"node.{name.seat}")
            guests = await sides[SOURCE].guests()
            if guests is None:
                raise CannotMove(f"{source}: no guest host is up there")
            if await sides[TARGET].guests():
                raise CannotMove(f"{target}: the host there has guests; allowed: a seat without")
            return await self._moved(sides, guests)

    async def _moved(self, sides: Mapping[str, _Side], guests: tuple[int, ...]) -> Json:
        guest = self._scenario.guest
        way, why = way_of(self._comparison)
        before = {side: await each.counts() for side, each in sides.items()}
        downs: dict[int, _Down] = {}
        times: dict[int, Counts] = {}
        steps, found = moved(guests, way, guest.memory_mib, guest.vcpus), None
        while True:
            try:
                act = steps.send(found)
            except StopIteration as end:
                result: Moved = end.value
                break
            match act:
                case Do(side, operation):
                    try:
                        found = await sides[side].ask(f"host.{sides[side].name.seat}", operation)
                    except OperationFailed as failed:
                        found = failed
                case Boot(side):
                    await sides[side].boot()
                    found = None
                case There(side, number):
                    found = number in (await sides[side].guests() or ())
                case Mark(number, False):
                    downs[number] = _Down(time.monotonic(), await _together(sides))
                    found = None
                case Mark(number, True):
                    downs[number].wall_ms = (time.monotonic() - downs[number].began) * 1000
                    times[number] = _more(await _together(sides), downs[number].counts)
                    found = None
        return {
            "arch": self._deployment.arch,
            "way": way,
            "why": why,
            "from": str(sides[SOURCE].name),
            "to": str(sides[TARGET].name),
            "arrived": list(result.arrived),
            "stayed": list(result.stayed),
            "trouble": result.trouble,
            "guests": {
                str(number): {
                    "counts": dict(counts),
                    "modelled": self._modelled(counts, way),
                    "wall_ms": round(downs[number].wall_ms, 3),
                    "bytes": result.sent.get(number, 0),
                }
                for number, counts in times.items()
            },
            "counts": {side: dict(_more(await each.counts(), before[side])) for side, each in sides.items()},
        }

    def _modelled(self, counts: Counts, way: str) -> Json:
        """Downtime of a guest in modelled nanoseconds, with its range."""
        costs = shipped()
        span: Json = priced(costs, self._prices, self._scenario.depth + 1, {"move": counts})["phases"]["move"]
        boots = way == RESTART
        boot = costs.of(self._deployment.arch, "vm_boot_base") if boots else None
        ends = (("ns", "value"), ("low_ns", "low"), ("high_ns", "high"))
        made: Json = {
            name: round(span[name] + (getattr(boot, which) if boot is not None else 0))
            for name, which in ends
        }
        return made | {"with_boot": boots}


async def _together(sides: Mapping[str, _Side]) -> Counts:
    total: Counter[str] = Counter()
    for side in sides.values():
        total.update(await side.counts())
    return total


def _more(after: Counts, before: Counts) -> Counts:
    """What was counted in between."""
    return {name: n - before.get(name, 0) for name, n in sorted(after.items()) if n != before.get(name, 0)}
