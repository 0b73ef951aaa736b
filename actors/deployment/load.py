"""The part that drives the others: guests live their lives, round after round, on both ways at once.

Each host of each machine has one life after another of all its guests: nested, as the plan of the scenario
has it, and hosted, asked of the machine's broker over its socket. Everything is accounted for. Whoever was in
trouble begins anew: its host is reset and boots, its children at the broker are destroyed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors import exit_codes
from actors.deployment import words
from actors.deployment.account import FAILED, OK, UNKNOWN, Account
from actors.deployment.asker import Asker, Refused, asking
from actors.deployment.linked import linked
from actors.deployment.parts import Part, machine_name
from actors.deployment.process import Process
from actors.images import image_of
from actors.node import Above, Boot, End
from actors.runtime.link import Link
from actors.runtime.supervisor import unwrap
from protocol.arch import load as slice_of
from protocol.errors import NestbedError, NotDelivered, OperationalError, OperationFailed
from protocol.plan import operations as op
from protocol.plan.scenario import Scenario
from protocol.plan.workload import HOSTED, NESTED, Workload, workload

AGAIN_S = 0.05  # between two tries to reach somebody
UP_S = 5.0  # a machine that comes up, or back, is there sooner: until then nothing is the matter
OPERATION_S = 60.0  # what takes longer has an unknown outcome
LIFE = ("create", "load", "boot", "run", "page_change", "swap", "reset", "destroy")

_ACTS = op.Touch | op.Share | op.Exits | op.Change


class Trouble(Exception):
    """An operation did not succeed: this round is over."""


class Load:
    """Everything that is driven, and the account of it."""

    def __init__(self, process: Process, part: Part, machines: Sequence[int]) -> None:
        self.process, self.part = process, part
        self.machines = machines
        self.account = Account(process.place.journal)
        self._lives = 0
        self._pause_s = self.settings.pause_ms / 1000

    @property
    def settings(self) -> Any:
        settings = self.process.deployment.load
        assert settings is not None
        return settings

    async def run(self) -> None:
        """Drive every host until each has had its rounds, or for ever."""
        try:
            async with trio.open_nursery() as nursery:
                for machine in self.machines:
                    for seat in range(self.process.scenario.l1.count):
                        if NESTED in self.settings.paths:
                            nursery.start_soon(self._rounds, Nested(self, machine, seat))
                        if HOSTED in self.settings.paths:
                            nursery.start_soon(self._rounds, Hosted(self, machine, seat))
        finally:
            self.account.close()

    async def _rounds(self, driven: Nested | Hosted) -> None:
        left = self.settings.rounds or float("inf")
        while left > 0:
            try:
                async with driven.connected() as live:
                    driven.tries = 0
                    while left > 0:
                        await live()
                        self.account.round(driven.name)
                        left -= 1
            except* (Trouble, OperationalError, OSError) as trouble:
                self._note(driven, unwrap(trouble))
            await trio.sleep(AGAIN_S)

    def _note(self, driven: Nested | Hosted, trouble: BaseException | None) -> None:
        """Say into the log what was the matter, once for each kind."""
        text = f"{type(trouble).__name__}: {trouble}"
        if isinstance(trouble, OSError):
            driven.tries += 1
            if driven.tries * AGAIN_S < UP_S:
                return
            text = f"nobody listens for {UP_S:.0f} s now: {trouble.strerror or trouble}"
        if text != driven.trouble:
            driven.trouble = text
            sys.stderr.write(f"nestbed: {driven.name}: {text}\n")
            sys.stderr.flush()

    async def do(self, who: str, what: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do one operation, and account for it. Raises Trouble unless it succeeds."""
        number = self.account.begin(who, what)
        outcome = UNKNOWN
        try:
            answer = await act()
            outcome = OK
        except (NotDelivered, OperationFailed) as error:
            outcome = FAILED
            raise Trouble(f"{who} {what}: {error}") from error
        except NestbedError as error:
            raise Trouble(f"{who} {what}: {error}") from error
        finally:
            self.account.end(number, outcome)
        if self._pause_s:
            await trio.sleep(self._pause_s)
        return answer

    def next_life(self) -> int:
        self._lives += 1
        return self.process.epoch(self.part) * 1_000_000 + self._lives


def plan_of(process: Process, scenario: Scenario, path: str) -> Workload:
    """What the guests live through, without what their architecture lacks."""
    lacking = getattr(slice_of(process.deployment.arch).comparison, "lacks", {})
    return workload(scenario, path).without(lacking)


class Nested:
    """One guest host, driven by operations of its plan."""

    def __init__(self, load: Load, machine: int, seat: int) -> None:
        self._load, self._seat = load, seat
        self._machine = machine_name(machine)
        apart = load.process.deployment.placement == "apart"
        first = 0 if load.process.scenario.depth > 1 else seat
        self._host = f"{self._machine}.l1-{first}" if apart else self._machine
        self._node = f"node.{first}"
        self.name = f"{self._machine}.l1-{seat}"
        self.trouble, self.tries = "", 0
        phases = plan_of(load.process, load.process.scenario, NESTED).hosts[seat].phases
        self._plan = [act for phase in LIFE for act in phases.get(phase, ()) if isinstance(act, op.Operation)]

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """The host comes up afresh: whatever was on it is gone."""
        place = self._load.process.place
        async with (
            linked(place.control(self._machine)) as below,
            linked(place.control(self._host)) as link,
            self._load.process.shown(f"{self._host} by {self.name}", link),
        ):
            await link.ask(self._node, End(self._seat), timeout_s=OPERATION_S)
            if self._load.process.scenario.depth > 1:  # the hypervisor below it lives with it
                await link.ask(self._node, Above(self._seat, "reset"), timeout_s=OPERATION_S)
            else:
                await below.ask(words.MACHINE, words.ResetHost(self._seat), timeout_s=OPERATION_S)
            await link.ask(self._node, Boot(self._seat, self._load.next_life()), timeout_s=OPERATION_S)
            await self._do(link, op.BootHost())

            async def live() -> None:
                for act in self._plan:
                    await self._do(link, act)

            yield live

    async def _do(self, link: Link, act: op.Operation) -> None:
        target = f"host.{self._seat}"
        await self._load.do(self.name, act.name, lambda: link.ask(target, act, timeout_s=OPERATION_S))


class Hosted:
    """One guest host as a requester of its machine's broker."""

    def __init__(self, load: Load, machine: int, seat: int) -> None:
        self._load, self._seat = load, seat
        self._machine = machine_name(machine)
        self.name = f"{self._machine}.hosted-{seat}"
        self.trouble, self.tries = "", 0
        process = load.process
        scenario: Scenario = replace(process.scenario, seed=process.deployment.seed + machine)
        self._guest = scenario.guest
        comparison = slice_of(process.deployment.arch).comparison
        assert comparison is not None
        data = None if self._guest.image is None else Path(self._guest.image).read_bytes()
        self._image = comparison.pack_image(image_of(comparison, scenario, data))
        plan = plan_of(process, scenario, HOSTED).hosts[seat]
        acts = [act for phase in ("boot", "run", "page_change") for act in plan.phases.get(phase, ())]
        self._acts = {
            guest: [act for act in acts if isinstance(act, _ACTS) and act.guest == guest]
            for guest in plan.guests
        }

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """This boot of the requester is introduced, and nothing of it is left."""
        place = self._load.process.place
        path = place.hosting(self._machine, f"l1-{self._seat}")
        async with asking(path) as asker, linked(place.control(self._machine)) as below:
            for child in (await asker.ask("list", exited=True))["children"]:
                await asker.ask("destroy", child=child["child"])
                await asker.ask("ack_exit", child=child["child"])
            image = await asker.bring(self._image)

            async def live() -> None:
                await asker.ask("lease.renew")
                for guest, acts in self._acts.items():
                    await self._life(asker, below, image, guest, acts)

            yield live

    async def _life(self, asker: Asker, below: Link, image: bytes, guest: int, acts: Sequence[_ACTS]) -> None:
        spec = {
            "image": image, "vcpus": self._guest.vcpus, "memory_mib": self._guest.memory_mib,
            "labels": {"guest": str(guest)},
        }  # fmt: skip
        key = asker.epoch.to_bytes(4, "big") + self._load.next_life().to_bytes(12, "big")
        started = await self._do("start", lambda: asker.ask("start", key, spec=spec))
        child: bytes = started["child"]
        for act in acts:
            does = partial(below.ask, words.MACHINE, words.GuestDoes(child, act), timeout_s=OPERATION_S)
            await self._do(act.name, does)
        await self._do("stop", lambda: asker.ask("stop", child=child, how="kill"))
        await self._do("destroy", lambda: asker.ask("destroy", child=child))
        await self._do("ack_exit", lambda: asker.ask("ack_exit", child=child))

    async def _do(self, what: str, act: Callable[[], Awaitable[Any]]) -> Any:
        return await self._load.do(self.name, what, act)


async def load(process: Process, part: Part) -> None:
    """Be the load until its rounds are over."""
    machines = range(process.deployment.machines)
    own = [each.machine for each in process.assignment.parts if each.machine >= 0]
    made = Load(process, part, own or machines)
    process.ready(part, "", made.account.numbers)
    await made.run()
    process.end(exit_codes.OK, "the load is done")  # and what it drove in this process with it


__all__ = ["Load", "Refused", "linked", "load"]
