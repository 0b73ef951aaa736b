"""Servers and jobs in virtual time. The same jobs give the same answer: ties go in the order of arrival.

A step takes some time, alone or while it holds servers. A server that is taken lets callers wait in line, or
answers that it is busy: then the caller asks again after a while, and each time is counted. Servers of a step
are taken in the order in which they are named; name them in one order everywhere and nobody waits in a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, None]
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
    """Steps one after the other, from `arrival_ns` on."""

    name: str
    arrival_ns: float
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is over: when it came, when it ended, how much of that was waiting."""

    name: str
    arrival_ns: float
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

    def run_closed(
        self, clients: int, think_ns: Callable[[], float], job: Callable[[], Sequence[Step]], each: int
    ) -> Outcome:
        """`clients`, each of which thinks, asks, waits for the end, and thinks again, `each` times."""
        for number in range(clients):
            self._environment.process(self._client(f"client{number}", think_ns, job, each))
        return self._finished()

    def _finished(self) -> Outcome:
        self._environment.run()
        self.outcome.end_ns = float(self._environment.now)
        return self.outcome

    def _client(
        self, name: str, think_ns: Callable[[], float], job: Callable[[], Sequence[Step]], each: int
    ) -> Process:
        for _ in range(each):
            yield self._environment.timeout(think_ns())
            yield from self._steps(name, float(self._environment.now), job())

    def _job(self, job: Job) -> Process:
        yield self._environment.timeout(job.arrival_ns)
        yield from self._steps(job.name, job.arrival_ns, job.steps)

    def _steps(self, name: str, arrival_ns: float, steps: Sequence[Step]) -> Process:
        waited = 0.0
        for step in steps:
            began = self._environment.now
            held: list[tuple[str, simpy.Resource, Any]] = []
            for server in step.servers:
                resource = self._resource(server)
                held.append((server, resource, (yield from self._taken(server, resource))))
            waited += self._environment.now - began
            yield self._environment.timeout(step.ns)
            for server, resource, request in reversed(held):
                self.outcome.servers[server].held_ns += step.ns
                resource.release(request)
        end = float(self._environment.now)
        self.outcome.done.append(Done(name, arrival_ns, end, waited))

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
