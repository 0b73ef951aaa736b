"""A fleet: processes that share machines by leases in a directory, and tenants that have guests placed.

Directory, network and clocks are simulated; leases, turns and placing are `protocol.fleet`, as the actors run
it. What must hold: one number never has two living guests, a machine has one holder, past its lease nobody
serves, what was promised is there, and at the end everything is given back.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from protocol.fleet.directory import MACHINES, PLACEMENTS, Get, Put
from protocol.fleet.placing import Answer
from protocol.fleet.subjects import ANY
from protocol.soak.fleet_instance import LENGTH_S, Instance, opened
from protocol.soak.fleet_tenant import Tenant
from protocol.soak.keyvalue import KEPT_MS, KeyValue
from protocol.soak.network import Network
from protocol.soak.options import Tally, Violation

SERVER = "directory"
MACHINE_NAMES = ("l0-0", "l0-1", "l0-2")
SPARE = (1, 3)  # processes beyond one for each machine
TENANTS = 2
RATES = (0.9, 1.1)  # of clocks: a margin of 1.25 has room for their ratio
COMMITS = 0.3
PACE_MS = 12  # that a step takes at most
WORST = 0.04  # of a way's messages are lost, late or doubled, each
SETTLED = 30_000  # steps until all has come to its end
Act = tuple[str, Callable[[], None]]
FAULTS = {"partition": 4, "stall": 3, "restart": 3, "stop": 5, "kill": 2, "reset": 2}


class Fleet:
    """`now_ms` is the true time, and the server's."""

    check, pace_ms = "fleet", PACE_MS

    def __init__(self, seed: str, allowed: frozenset[str], tally: Tally) -> None:
        self.allowed, self.tally = allowed, tally
        self.random = Random(f"{seed}:fleet")
        self.network = Network(Random(f"{seed}:fleet:network"), tally, allowed, worst=WORST)
        self.body, self.now_ms, self.finishing, self._guests = KeyValue(), 1_000, False, 0
        self._down_until = 0
        self._after: list[Callable[[], None]] = []  # what is said once the disk has it
        count = len(MACHINE_NAMES) + self.random.randint(*SPARE)
        self.instances = [self._instance(place, seed) for place in range(count)]
        self.tenants = [Tenant(f"t{n}", self, Random(f"{seed}:t{n}")) for n in range(TENANTS)]
        self._named: dict[str, Instance | Tenant] = {each.name: each for each in self.instances}
        self._named.update((each.name, each) for each in self.tenants)

    def _instance(self, place: int, seed: str) -> Instance:
        random = Random(f"{seed}:i{place}")
        one = Instance(f"i{place}", MACHINE_NAMES[place % len(MACHINE_NAMES)], self, random)
        if "skew" in self.allowed:
            one.rate, one.offset_s = random.uniform(*RATES), random.uniform(0, 1e6)
            self.tally.faults["skew"] += 1
        return one

    # -- what may go on --------------------------------------------------------------------------------------

    def ready(self) -> list[Act]:
        acts: list[Act] = [(each.name, each.act) for each in self.instances if each.wants()]
        acts += [(each.name, each.act) for each in self.tenants if each.wants()]
        if self._after and self.random.random() < COMMITS:
            acts.append(("commit", self._commit))
        due = self._due()
        if due:
            acts += [("deliver", lambda: self._deliver(due))] * len(due)
        return acts

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    def _due(self) -> list[int]:
        stopped = {each.name for each in self.instances if each.stopped}
        due = self.network.due(self.now_ms)
        return [place for place in due if self.network.under_way[place].target not in stopped]

    def _deliver(self, due: list[int]) -> None:
        message = self.network.take(self.random.choice(due))
        self.tally.note(message.source, message.target, message.body[0])
        kind, *body = message.body
        if message.target == SERVER:
            if self.now_ms >= self._down_until:
                self._serve(message.source, *body)
            return
        if kind == "question":
            self._asked(self._by_name(message.target), message.source, *body)
        else:
            self._by_name(message.target).told(*body)

    def _by_name(self, name: str) -> Any:
        return self._named[name]

    # -- the directory ---------------------------------------------------------------------------------------

    def ask(self, one: Instance, number: int, effect: Get | Put) -> None:
        self.network.send(one.name, SERVER, ("ask", one.life, number, effect), self.now_ms)

    def _serve(self, source: str, life: int, number: int, effect: Get | Put) -> None:
        if isinstance(effect, Get):
            found = self.body.get(effect, self.now_ms)
            self.network.send(SERVER, source, ("told", life, number, found), self.now_ms)
            return
        revision = self.body.put(effect, self.now_ms)
        self.tally.note(effect.bucket, effect.key, revision)
        self._after.append(
            lambda: self.network.send(SERVER, source, ("told", life, number, revision), self.now_ms)
        )

    def _commit(self) -> None:
        self.body.commit()
        after, self._after = self._after, []
        for each in after:
            each()

    # -- questions of tenants --------------------------------------------------------------------------------

    def question(self, tenant: Tenant, machine: str, verb: str, name: str, asked: int) -> bool:
        """Whether anybody is there: everyone who has subscribed hears it, be its lease over or not."""
        there = [each for each in self.instances if each.claim and machine in (ANY, each.machine)]
        if machine == ANY and there:
            there = [self.random.choice(there)]
        for each in there:
            self.network.send(tenant.name, each.name, ("question", verb, name, asked), self.now_ms)
        return bool(there)

    def _asked(self, one: Instance, source: str, verb: str, name: str, asked: int) -> None:
        if one.claim is None:
            return
        machine, epoch = one.machine, one.claim.epoch

        def reply(answer: Answer) -> None:
            self.network.send(one.name, source, ("told", asked, answer), self.now_ms)

        if verb == "start":
            one.start(name, reply)
        elif verb == "list":
            held = [(key, opened(self.body.get(Get(MACHINES, key), self.now_ms))) for key in self._machines()]
            listed = tuple((key, entry.children) for key, entry in held if entry and entry.holder)
            one.serve(lambda: reply(Answer(machine, epoch, machines=listed)))
        elif one.holds():
            found = name in one.known  # also where it was ended by a copy of this question
            one.guests.pop(name, None)
            one.serve(lambda: reply(Answer(machine, epoch, {"t": "ok", "b": {"found": found}})))

    def _machines(self) -> list[str]:
        return self.body.keys(MACHINES, self.now_ms)

    # -- what goes wrong on purpose --------------------------------------------------------------------------

    def fault(self, random: Random) -> None:
        (kind,) = random.choices(list(FAULTS), list(FAULTS.values()))
        if kind not in self.allowed:
            return
        one = self.random.choice(self.instances)
        self.tally.faults[kind] += 1
        self.tally.note("fault", kind, one.name)
        until = self.now_ms + self.random.randrange(100, int(LENGTH_S * 1_600))
        if kind == "restart":
            self.body.restart()
            self._after.clear()
            self._down_until = self.now_ms + self.random.randrange(2_000)
        elif kind == "stop":
            one.stopped_until = until
        elif kind == "kill":
            one.end()
        elif kind == "reset":
            one.release()
        else:
            for way in (self.network.way(one.name, SERVER), self.network.way(SERVER, one.name)):
                if self.random.random() < 0.7:
                    setattr(way, "closed_until" if kind == "partition" else "stalled_until", until)

    # -- what must hold --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Everything at once; each is looked at whenever it may have changed, too."""
        for one in self.instances:
            self.one_holder(one)
            for name in one.guests:
                self.one_guest(name)

    def guest_made(self) -> int:
        self._guests += 1
        return self._guests

    def one_guest(self, name: str) -> None:
        self.tally.checks["fleet_one_guest"] += 1
        has = [each.holder for each in self.instances if each.has_lease() and name in each.guests]
        if len(has) > 1:
            raise Violation("fleet", f"{name} has two guests: at {' and '.join(has)}")

    def one_holder(self, one: Instance) -> None:
        self.tally.checks["fleet_one_holder"] += 1
        has = [each.holder for each in self.instances if each.machine == one.machine and each.has_lease()]
        if len(has) > 1:
            raise Violation("fleet", f"{one.machine} has two holders: {' and '.join(has)}")

    def serves(self, one: Instance) -> None:
        self.tally.checks["fleet_fence"] += 1
        if not one.has_lease():
            raise Violation("fleet", f"{one.holder} serves, and its lease of {one.machine} is over")

    # -- the end ---------------------------------------------------------------------------------------------

    def live_out(self) -> None:
        """Nothing goes wrong any more: machines are held, every start comes to its end, and so do guests."""
        self.network.heal()
        self.finishing, self._down_until = True, 0
        for each in self.instances:
            each.stopped_until = 0
        self._until(
            lambda: not any(each.numbers for each in self.tenants) and self._all_held(), "numbers end"
        )
        self.tally.checks["liveness"] += 1

    def end(self) -> None:
        """Guests have ended, machines are given back, numbers are forgotten."""
        if not self.finishing:
            self.live_out()
        for each in self.instances:
            each.leaving = True
            each.release()
        self._until(self._all_given_back, "machines are given back")
        self.tally.checks["fleet_end"] += 1
        guests = sum(len(each.guests) for each in self.instances)
        if guests:
            raise Violation("fleet", f"left at the end: {guests} guests")
        if self.body.keys(PLACEMENTS, self.now_ms + int(KEPT_MS[PLACEMENTS])):
            raise Violation("fleet", "numbers are never forgotten")

    def free(self, machine: str) -> bool:
        """Whether the directory says that nobody holds it."""
        entry = opened(self.body.get(Get(MACHINES, machine), self.now_ms))
        return entry is None or not entry.holder

    def _all_given_back(self) -> bool:
        at_work = self.network.under_way or self._after or not all(each.quiet for each in self.instances)
        return not at_work and all(map(self.free, MACHINE_NAMES))

    def _all_held(self) -> bool:
        return {each.machine for each in self.instances if each.has_lease()} == set(MACHINE_NAMES)

    def _until(self, done: Callable[[], bool], what: str) -> None:
        for _ in range(SETTLED):
            if done():
                return
            acts = self.ready()
            if acts:
                self.random.choice(acts)[1]()
            self.pass_time(self.random.randrange(PACE_MS))
        raise Violation(
            "liveness", f"a fleet in which nothing goes wrong: {what} in {SETTLED} steps, not yet"
        )
