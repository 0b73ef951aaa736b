"""An L0 with a hosting service: a broker over the journal's disk, and requesters at the ends of a network.

The broker does what the actor `broker` does, without a task: nothing that was decided leaves before the disk
has it. Its process may die (the machine and the disk stay), and the machine may lose power (the disk stays).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from protocol.effects import Step
from protocol.hosting import Limits, Service, SimulatedDisk
from protocol.hosting.machine import Await
from protocol.soak.l0guests import L0Guests
from protocol.soak.network import Network
from protocol.soak.options import Tally, Violation
from protocol.soak.ports import Architecture
from protocol.soak.requester import Requester

REQUESTERS = (2, 4)
REFUSING = 0.03
FIRST_CID = 3
TICK_MS = 250
COMMITS = 0.2  # how often the disk is ready to take what has gathered
PACE_MS = 16  # that a step takes at most
SETTLED = 200_000  # acts after which machine and disk have come to rest
ANSWERED = 50_000  # steps in which every request is answered, once nothing goes wrong

FAULTS = {"partition": 6, "stall": 6, "restart": 3, "power": 1}

Act = tuple[str, Callable[[], None]]


class Hosted:
    """One of them. `now_ms` is its own clock."""

    check, pace_ms = "hosting", PACE_MS

    def __init__(
        self, name: str, arch: Architecture, seed: str, allowed: frozenset[str], tally: Tally
    ) -> None:
        self.name, self.arch, self.seed, self.allowed, self.tally = name, arch, seed, allowed, tally
        self.random = Random(f"{seed}:{name}")
        self.now_ms, self._ticked_ms = 1_000, 0
        self.network = Network(Random(f"{seed}:{name}:network"), tally, allowed)
        self.disk = SimulatedDisk()
        self.powers = 0
        count = self.random.randint(*REQUESTERS)
        self._machine(count)
        hostile = {count - 1} if "hostile" in allowed else set()
        self.requesters = [
            Requester(f"{name}.r{place}", FIRST_CID + place, self, place in hostile) for place in range(count)
        ]
        self._begin()

    def _machine(self, count: int) -> None:
        refusing = REFUSING if "refuse" in self.allowed else 0.0
        seed = f"{self.seed}:{self.powers}"
        self.machine = L0Guests(self.name, self.arch, count, seed, refusing, self.tally)

    def _begin(self) -> None:
        """A life of the service, with what the disk has."""
        self.service = Service(Limits(), self.disk.journal, seed=self.random.getrandbits(30))
        self._waits: list[tuple[int, Callable[[object], None]]] = []
        self._version = self.service.version
        self.recovering = True
        self._drive(self.service.recover(list(self.disk.rows()), self.now_ms), self._recovered)

    def _recovered(self, _: object) -> None:
        self.recovering = False

    # -- what may go on --------------------------------------------------------------------------------------

    def ready(self) -> list[Act]:
        """Everything of which one is next."""
        acts: list[Act] = []
        if self.machine.busy:
            acts.append(("machine", self.machine.hop))
        if self.disk.journal.pending and self.random.random() < COMMITS:
            acts.append(("commit", self._commit))
        if not self.recovering:
            acts += [("deliver", self._deliver)] * bool(self.network.due(self.now_ms))
            acts += [(each.name, each.act) for each in self.requesters if each.wants()]
        return acts

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        if self.now_ms >= self._ticked_ms + TICK_MS and not self.recovering:
            self._ticked_ms = self.now_ms
            for step in self.service.tick(self.now_ms):
                self._drive(step, _ignored)
            self._moved()

    def _commit(self) -> None:
        self.disk.commit()

    def _deliver(self) -> None:
        due = self.network.due(self.now_ms)
        message = self.network.take(self.random.choice(due))
        self.tally.note(message.source, message.target)
        if message.target != self.name:
            self._requester(message.target).receive(message.body)
            return
        who, frame = message.body
        if frame is None:
            self._drive(self.service.requester_gone(who.cid, who.epoch, self.now_ms), _ignored)
            return
        reply_to = message.source
        self._drive(
            self.service.handle(who, frame, self.now_ms),
            lambda reply: self.network.send(self.name, reply_to, (who, reply), self.now_ms),
        )

    def _requester(self, name: str) -> Requester:
        return next(each for each in self.requesters if each.name == name)

    # -- the broker ------------------------------------------------------------------------------------------

    def _drive(self, step: Step[Any], then: Callable[[Any], None], answer: object = None) -> None:
        """Go on with a step of the service until it waits; `then` has its result, once that is durable.

        What a life waits for ends with it: its waits, its journal and whom its machine would tell are gone.
        """
        machine, journal = self.machine, self.disk.journal

        def go_on(said: object) -> None:
            self.service.at(self.now_ms)
            self._drive(step, then, said)

        try:
            effect = step.send(answer)
        except StopIteration as stop:
            result = stop.value
            journal.after(lambda: then(result))
        else:
            if isinstance(effect, Await):
                self._waits.append((effect.until_ms, go_on))
            else:
                journal.after(lambda: machine.submit(effect, go_on))
        self._moved()

    def _moved(self) -> None:
        """Wake the waits for which there may be something new."""
        self.service.events()
        moved, self._version = self.service.version != self._version, self.service.version
        due = [wait for wait in self._waits if moved or wait[0] <= self.now_ms]
        if due:
            self._waits = [wait for wait in self._waits if wait not in due]
            for _, go_on in due:
                go_on(self.now_ms)

    # -- what goes wrong on purpose --------------------------------------------------------------------------

    def fault(self, random: Random) -> None:
        (kind,) = random.choices(list(FAULTS), list(FAULTS.values()))
        if kind not in self.allowed:
            return
        self.tally.faults[kind] += 1
        self.tally.note("fault", kind)
        if kind == "restart":
            self.restart()
        elif kind == "power":
            self.lose_power()
        else:
            self.close_a_way(kind)

    def restart(self) -> None:
        """The service's process dies and a fresh one reads its disk: what was not committed is gone."""
        self.disk = self.disk.crash()
        self.machine.forget()
        self._begin()

    def lose_power(self) -> None:
        """The same of the whole machine: secure state is gone."""
        self.powers += 1
        self._machine(len(self.requesters))
        self.disk = self.disk.crash()
        self._begin()
        for each in self.requesters:
            each.uncertain()

    def close_a_way(self, kind: str) -> None:
        one = self.random.choice(self.requesters).name
        way = self.network.way(*((one, self.name) if self.random.random() < 0.5 else (self.name, one)))
        until = self.now_ms + self.random.randrange(100, 20_000)
        if kind == "partition":
            way.closed_until = until
        else:
            way.stalled_until = until

    # -- looking ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """What was counted is what is there; no guest without a child, once nothing is under way."""
        self.tally.checks["hosting_books"] += 1
        if self.machine.busy or self.disk.journal.pending or self.recovering:
            return
        children = self.service.statistics().children
        if len(self.machine.guests) > sum(children.values()):
            known = sum(children.values())
            raise Violation("hosting", f"{self.name}: {len(self.machine.guests)} guests, {known} children")

    def live_out(self) -> None:
        """Nothing goes wrong any more: every request is answered."""
        self.network.heal()
        for each in self.requesters:
            each.finishing = True
        for _ in range(ANSWERED):
            if not any(each.asked for each in self.requesters):
                self.tally.checks["liveness"] += 1
                return
            acts = self.ready()
            if acts:
                acts[self.random.randrange(len(acts))][1]()
            self.pass_time(self.random.randrange(PACE_MS))
        waiting = [asked.kind for each in self.requesters for asked in each.asked.values()]
        raise Violation("liveness", f"{self.name}: no answer to {waiting}")

    def end(self) -> None:
        """All requesters go away; then nothing of them may be left, on the machine and in the tables."""
        self.network.heal()
        self.network.under_way.clear()
        self.machine.refusing = 0.0
        self._settle()
        for each in self.requesters:
            step = self.service.requester_gone(each.cid, each.epoch, self.now_ms)
            self._drive(step, _ignored)
        for _ in range(60):
            self._settle()
            self.pass_time(60_000)
        self._settle()
        self.tally.checks["hosting_end"] += 1
        left = {state: count for state, count in self.service.statistics().children.items() if count}
        if left or self.machine.guests:
            raise Violation(
                "hosting", f"{self.name}: {left} children, {len(self.machine.guests)} guests left"
            )
        remains = {kind: count for kind, count in self.machine.rig.remains().items() if count}
        if remains:
            raise Violation("nothing_left", f"{self.name}, {self.arch.name} with a broker: {remains}")

    def _settle(self) -> None:
        """Let the machine and the disk go on until neither has anything to do."""
        for _ in range(SETTLED):
            if self.machine.busy:
                self.machine.hop()
            elif self.disk.journal.pending:
                self.disk.commit()
            else:
                return
        raise Violation("liveness", f"{self.name}: the machine does not come to rest")


def _ignored(_: object) -> None:
    pass
