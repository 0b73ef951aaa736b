"""The supervisor of a deployment, in the foreground: it starts the parts, keeps them, takes them down.

Parts are children of a `Supervisor`: from left to right a machine, its L1s, the next machine, at last the
load; each starts when the one before is ready, and they go down in reverse. A part that ends against the
order is started again under a higher epoch, within the budget; when that is spent, everything goes down.

An L1 that ends because its machine did has done nothing wrong: it comes back when the machine does, and that
takes nothing from the budget. Which of the two ends is heard of first is chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from actors import exit_codes
from actors.deployment.life import End, Life, begin
from actors.deployment.parts import Part, Role, machine_name
from actors.deployment.process import Assignment
from actors.observe.collector import Collector, registry_of
from actors.observe.exporter import serve as serve_metrics
from actors.runtime.forker import Forker
from actors.runtime.supervisor import Child, Restart, Running, Supervisor

SHUTDOWN_S = 5.0
READY_S = 120.0
GONE_S = 5.0  # from the last word of an L1 whose machine is gone to the end of that machine's process
SUPERVISOR = "supervisor"  # its own name among those who serve metrics
Say = Callable[[str], None]


class PartEnded(Exception):
    """A part ended that should not have."""


class NotReady(Exception):
    """A part did not become ready in its time."""


@dataclass(slots=True)
class Seen:
    """A part as its supervisor sees it, for the table."""

    part: Part
    state: str = "waiting"  # waiting | starting | ready | down | done
    life: Life | None = None
    restarts: int = 0
    changed: float = field(default_factory=time.monotonic)

    def become(self, state: str) -> None:
        self.state, self.changed = state, time.monotonic()


class Deployed:
    """A deployment that is up. `run` is its whole life."""

    def __init__(self, assignment: Assignment, say: Say) -> None:
        deployment = assignment.deployment
        self.assignment = assignment
        self.seen = {part.name: Seen(part) for part in assignment.parts}
        self.targets: dict[str, int] = {}
        self.ready = trio.Event()
        self.forker = Forker("actors.deployment.child", deployment.arch)
        self._say = say
        self._epochs = assignment.place.epochs()
        self._nursery: trio.Nursery | None = None
        self._machines = {part.machine: trio.Event() for part in assignment.parts if part.machine >= 0}
        self._silent: list[Life] = []
        self._going_down = False
        self.supervisor = Supervisor(
            [
                Child(part.name, partial(self._keep, part), Restart.TRANSIENT, SHUTDOWN_S)
                for part in assignment.parts
            ],
            intensity=deployment.restart.intensity,
            period_s=deployment.restart.period_s,
        )
        self.collector = Collector()
        self.collector.attach_supervisor("root", self.supervisor)

    async def run(self) -> None:
        """Bring everything up and keep it, until the load is done with its rounds or this is cancelled.

        Raises RestartsExceeded, NotReady, CannotFork, CannotListen.
        """
        async with serve_metrics(registry_of(self.collector), 0, ready=self._all_ready) as port:
            self.targets[SUPERVISOR] = port
            async with trio.open_nursery() as self._nursery:
                await self._nursery.start(self.forker.run)
                try:
                    await self._supervised()
                finally:
                    await self._nothing_is_left()

    def _all_ready(self) -> bool:
        return all(seen.state in ("ready", "done") for seen in self.seen.values())

    async def _nothing_is_left(self) -> None:
        """Every process that was started is gone; so is the helper."""
        self.kill_all()
        lives = [*self._silent, *(seen.life for seen in self.seen.values() if seen.life is not None)]
        with trio.CancelScope(shield=True):
            for life in lives:
                await life.process.watched.wait()
        self.forker.close()

    async def _supervised(self) -> None:
        async with trio.open_nursery() as nursery:
            supervisor: Supervisor = await nursery.start(self.supervisor.run)
            self.ready.set()
            load = self.seen.get("load")
            while load is not None and load.state != "done":
                await trio.sleep(0.05)
            if load is not None:
                for name in reversed(self.seen):
                    await supervisor.stop(name)

    # -- one part, through all of its lives

    async def _keep(self, part: Part, running: Running) -> None:
        """One child of the supervisor: returns when the part is done, raises when it has to start again."""
        seen = self.seen[part.name]
        if running.life > 1:
            seen.restarts += 1
        while True:
            machine = await self._machine_of(part)
            life = await self._begin(part, seen)
            try:
                await self._until_over(life, seen, running)
            finally:
                await self._ended(life, seen)
            if running.stopping.is_set():
                return
            if part.role is Role.LOAD and life.end is End.ENDED and life.process.code == 0:
                seen.become("done")
                return
            self._say(f"{part.name}: {life.how()} (epoch {life.epoch})")
            if machine is not None and await _took_along(machine, life, running):
                continue
            raise PartEnded(f"{part.name}: {life.how()}")

    async def _machine_of(self, part: Part) -> Life | None:
        """The machine that an L1 stands on, once it is ready."""
        if part.role is not Role.HOSTS:
            return None
        while True:
            await self._machines[part.machine].wait()
            machine = self.seen[machine_name(part.machine)].life
            assert machine is not None, "it was ready"
            if not machine.is_over:
                return machine
            self._is_down(part.machine)  # its end was heard of here first

    async def _begin(self, part: Part, seen: Seen) -> Life:
        assert self._nursery is not None
        epoch = self._epochs[part.name] = self._epochs.get(part.name, 0) + 1
        place = self.assignment.place
        place.write_epochs(self._epochs)
        mine = self.assignment.of(part, {part.name: epoch})
        seen.become("starting")
        seen.life = await begin(self._nursery, self.forker, mine, part, epoch)
        lives = [*self._silent, *(other.life for other in self.seen.values() if other.life is not None)]
        place.remember(life.process.pid for life in lives if not life.process.ended.is_set())
        return seen.life

    async def _until_over(self, life: Life, seen: Seen, running: Running) -> None:
        """Until the process ends, is silent, or nobody wants it any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then, life.over, nursery.cancel_scope)
            nursery.start_soon(self._stop_when_wanted, life, running)
            with trio.move_on_after(READY_S) as waiting:
                await life.ready.wait()
            if waiting.cancelled_caught:
                raise NotReady(f"{life.part.name}: not ready within {READY_S:g} s")
            seen.become("ready")
            self.targets[life.part.name] = life.status["port"]
            self._tell_targets()
            if life.part.role is Role.MACHINE:
                self._machines[life.part.machine].set()
            running.started()
            await trio.sleep_forever()

    async def _stop_when_wanted(self, life: Life, running: Running) -> None:
        await running.stopping.wait()
        await life.stop()

    async def _ended(self, life: Life, seen: Seen) -> None:
        """Its end, for all who stood on it. A silent one is left to find itself fenced."""
        seen.become("down")
        self.targets.pop(life.part.name, None)
        self._tell_targets()
        if life.end is End.SILENT:
            self._silent.append(life)
        else:
            life.kill()
            with trio.CancelScope(shield=True):
                await life.process.watched.wait()
        if life.part.role is Role.MACHINE:
            self._is_down(life.part.machine)
            for other in self.seen.values():
                if other.part.role is Role.HOSTS and other.part.machine == life.part.machine and other.life:
                    other.life.kill()

    def _is_down(self, machine: int) -> None:
        """Its L1s wait until it is ready again; those who do so already are not forgotten."""
        if self._machines[machine].is_set():
            self._machines[machine] = trio.Event()

    # -- what others read

    def _tell_targets(self) -> None:
        """Keep the file for Prometheus true."""
        labels = {
            name: {
                "deployment": self.assignment.deployment.name,
                "part": name,
                "part_role": seen.part.role.value,  # `role` is an actor's, in the families themselves
                "machine": machine_name(seen.part.machine) if seen.part.machine >= 0 else "",
            }
            for name, seen in self.seen.items()
        }
        labels[SUPERVISOR] = {
            "deployment": self.assignment.deployment.name,
            "part": SUPERVISOR,
            "part_role": SUPERVISOR,
            "machine": "",
        }
        self.assignment.place.write_targets(self.targets, labels)

    def kill_all(self) -> None:
        """Everything down, at once."""
        for life in self._silent:
            life.kill()
        for seen in self.seen.values():
            if seen.life is not None:
                seen.life.kill()


async def _took_along(machine: Life, life: Life, running: Running) -> bool:
    """Did an L1 end because its machine did?

    The kernel closes the links of a process before it tells of the process's end: on a busy machine the L1
    may be over by then, so one that says that its machine is gone is believed for a moment.
    """
    if life.end is End.ENDED and life.process.code == exit_codes.GONE:
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + GONE_S
            nursery.start_soon(_then, running.stopping, nursery.cancel_scope)
            await machine.over.wait()
            nursery.cancel_scope.cancel()
    return machine.is_over


async def _then(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
