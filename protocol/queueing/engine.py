"""Servers and jobs in virtual time. The same jobs give the same answer: ties go in the order of arrival.

A step takes some time, alone or while it holds servers. A server that is taken lets callers wait in line, or
answers that it is busy: then the caller asks again after a while, and each time is counted. Servers of a step
are taken in the order in which they are named; name them in one order everywhere and nobody waits in a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import simpy

Process = Generator[simpy.Event, Any, None]
Held = tuple[str, simpy.Resource, Any, float]  # name, resource, request, since when
BUSY_MOST = 10_000_000  # busy answers of one step: something is wrong then


@dataclass(frozen=True, slots=True)
class Server:
    """`capacity` callers at a time. `retry_ns`: it never lets anyone wait; ask again after so long."""

    capacity: int = 1
    retry_ns: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """`ns` of virtual time, while holding `servers`; `count` is how many calls it stands for."""

    ns: float
    servers: tuple[str, ...] = ()
    count: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """Steps one after the other, from `arrival_ns` on; `holds` are servers taken for all of it."""

    name: str
    arrival_ns: float
    steps: Sequence[Step]
    holds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is over: when it came, began and ended; `waited_ns` of that it waited within its steps."""

    name: str
    arrival_ns: float
    begun_ns: float
    end_ns: float
    waited_ns: float

    @property
    def latency_ns(self) -> float:
        return self.end_ns - self.arrival_ns


@dataclass(slots=True)
class Load:
    """What one server saw."""

    taken: int = 0
    waited_ns: float = 0.0
    held_ns: float = 0.0
    busy: int = 0  # answers

    @property
    def mean_wait_ns(self) -> float:
        return self.waited_ns / self.taken if self.taken else 0.0


@dataclass(slots=True)
class Outcome:
    """Everything that happened: the jobs in the order in which they ended, the servers by name."""

    done: list[Done] = field(default_factory=list)
    servers: dict[str, Load] = field(default_factory=dict)
    end_ns: float = 0.0

    def utilisation(self, name: str, capacity: int = 1) -> float:
        return self.servers[name].held_ns / (self.end_ns * capacity) if self.end_ns else 0.0


class Client(Protocol):
    """Somebody who asks and waits."""

    def think_ns(self) -> float: ...

    def next(self, now_ns: float) -> Job | None:
        """What to ask now; None: nothing ever again."""
        ...


class Engine:
    """One simulation. Servers are made when they are first named; `of` says what each is like."""

    def __init__(self, of: Callable[[str], Server]) -> None:
        self._of = of
        self._environment = simpy.Environment()
        self._resources: dict[str, simpy.Resource] = {}
        self.outcome = Outcome()

    def run(self, jobs: Iterable[Job]) -> Outcome:
        """Every job to its end."""
        for job in jobs:
            self._environment.process(self._job(job))
        return self._finished()

    def run_closed(self, clients: Sequence[Client]) -> Outcome:
        """Clients that think, ask, wait for the end, and think again, as long as each has jobs."""
        for client in clients:
            self._environment.process(self._client(client))
        return self._finished()

    def _finished(self) -> Outcome:
        self._environment.run()
        self.outcome.end_ns = float(self._environment.now)
        return self.outcome

    def _client(self, client: Client) -> Process:
        while True:
            yield self._environment.timeout(client.think_ns())
            job = client.next(float(self._environment.now))
            if job is None:
                return
            yield from self._work(job)

    def _job(self, job: Job) -> Process:
        yield self._environment.timeout(job.arrival_ns)
        yield from self._work(job)

    def _work(self, job: Job) -> Process:
        held = yield from self._take(job.holds)
        begun, waited = float(self._environment.now), 0.0
        for step in job.steps:
            asked = self._environment.now
            taken = yield from self._take(step.servers)
            waited += self._environment.now - asked
            yield self._environment.timeout(step.ns)
            self._give_back(taken)
        self._give_back(held)
        end = float(self._environment.now)
        self.outcome.done.append(Done(job.name, job.arrival_ns, begun, end, waited))

    def _take(self, names: Iterable[str]) -> Generator[simpy.Event, Any, list[Held]]:
        held: list[Held] = []
        for name in names:
            resource = self._resource(name)
            request = yield from self._taken(name, resource)
            held.append((name, resource, request, float(self._environment.now)))
        return held

    def _give_back(self, held: Sequence[Held]) -> None:
        for name, resource, request, since in reversed(held):
            self.outcome.servers[name].held_ns += self._environment.now - since
            resource.release(request)

    def _resource(self, name: str) -> simpy.Resource:
        if name not in self._resources:
            self._resources[name] = simpy.Resource(self._environment, self._of(name).capacity)
            self.outcome.servers[name] = Load()
        return self._resources[name]

    def _taken(self, name: str, resource: simpy.Resource) -> Generator[simpy.Event, Any, Any]:
        """Take a server: in line, or by asking until it is free."""
        load, retry, began = self.outcome.servers[name], self._of(name).retry_ns, self._environment.now
        if retry is not None:
            while resource.count >= resource.capacity:
                load.busy += 1
                assert load.busy < BUSY_MOST, f"{name} answers busy for ever"
                yield self._environment.timeout(retry)
        request = resource.request()
        yield request
        load.taken += 1
        load.waited_ns += self._environment.now - began
        return request


def simulate(servers: Mapping[str, Server], jobs: Iterable[Job]) -> Outcome:
    """Run `jobs` on servers that are known by name; one that is not has one place and a line."""
    return Engine(lambda name: servers.get(name, Server())).run(jobs)
