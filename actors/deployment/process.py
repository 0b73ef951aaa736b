"""What every process of a deployment has, whatever its part.

- A lifeline to its supervisor: renewals of its lease come over it, and the order to end. When it breaks, the
  supervisor is gone, and so is this process within seconds. One that a platform started has none.
- A fence: past its lease it answers nobody and ends (exit code GONE), for somebody else has its place.
- A control socket, for the load, `nestbed why` and `nestbed doctor`: only processes of the same user.
- Metrics, /healthz and /readyz on a port of the loopback.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from actors import exit_codes
from actors.deployment import words
from actors.deployment.fence import Fence
from actors.deployment.leases import Claim, Leases, NoDirectory
from actors.deployment.parts import Part, Role
from actors.deployment.place import Place
from actors.deployment.reach import Listening, Requester
from actors.deployment.settings import Deployment, scenario_of
from actors.deployment.why import pictures
from actors.fleet.serve import FleetService, Shard
from actors.observe.collector import Collector, registry_of
from actors.observe.exporter import LOOPBACK
from actors.observe.exporter import serve as serve_metrics
from actors.observe.logs import configure, logger
from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.link import Link, Serve
from actors.runtime.port import Directory
from actors.runtime.supervisor import unwrap
from actors.runtime.transport.unix import adopt, is_ours, listen
from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.plan.scenario import Scenario
from protocol.tracking import Book

AGAIN_S = 5.0  # until requests of a fleet are served again, where the directory did not let us
LAST_WORDS_S = 4.0  # for an end in order, once nobody wants this process any more
CONNECTIONS = 64  # to the control socket, at the same time

Body = Callable[["Process", Part], Coroutine[Any, Any, None]]
Numbers = Callable[[], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is told when it starts. `epochs` has one for each of its parts."""

    deployment: Deployment
    scenario: Scenario
    parts: tuple[Part, ...]
    place: Place
    folder: Path  # where the deployment file is: its scenario may be beside it
    epochs: dict[str, int]
    metrics_port: int = 0
    metrics_host: str = LOOPBACK

    def of(self, part: Part, epochs: dict[str, int]) -> Assignment:
        """The same for a process with this part alone."""
        return replace(self, parts=(part,), epochs=epochs)

    def write(self) -> str:
        """All of it as a text, for the process that is to be."""
        return json.dumps(
            {
                "deployment": self.deployment.model_dump(mode="json"),
                "folder": str(self.folder),
                "parts": [[part.name, part.role.value, part.machine, part.host] for part in self.parts],
                "place": str(self.place.root),
                "epochs": self.epochs,
                "metrics": [self.metrics_host, self.metrics_port],
            }
        )

    @classmethod
    def read(cls, text: str) -> Assignment:
        """What `write` wrote."""
        given = json.loads(text)
        deployment = Deployment.model_validate(given["deployment"], strict=False)
        folder = Path(given["folder"])
        parts = tuple(Part(name, Role(role), *numbers) for name, role, *numbers in given["parts"])
        host, port = given["metrics"]
        scenario = scenario_of(deployment, folder).scenario
        place = Place(Path(given["place"]))
        return cls(deployment, scenario, parts, place, folder, given["epochs"], port, host)


@dataclass(slots=True)
class Health:
    """How one part is."""

    ready: bool = False
    detail: str = "starting"
    numbers: Numbers = dict


@dataclass(slots=True)
class Held:
    """Machines of this process that it holds by leases; past the end of one it answers nobody."""

    leases: Leases
    claims: list[Claim]
    serving: Callable[[], None] = lambda: None  # called when tenants are served
    listen: tuple[str, int] | None = None  # where drivers come over TLS, with the credentials of the bus

    def keep(self, process: Process) -> None:
        """Renew all of them while `process` lives, and serve the tenants of its machines."""
        if process.deployment.tenants:
            process.nursery.start_soon(self._serve, process)
        if self.listen is not None:
            process.nursery.start_soon(self._listen, process, *self.listen)

        def renewed(_until: float) -> None:
            process.fence.renew(min(claim.until for claim in self.claims))

        renewed(0)
        for claim in self.claims:
            lost = partial(process.end, exit_codes.GONE)
            process.nursery.start_soon(self.leases.keep, claim, renewed, lost)

    async def _listen(self, process: Process, host: str, port: int) -> None:
        """Serve drivers once everything is up, and say in the directory where."""
        await process.up.wait()
        credentials = self.leases.bus.door.credentials
        assert credentials is not None, "who listens has a certificate"
        listening = Listening(
            credentials, process.directories, process.requesters, process.fence, process.broken
        )
        try:
            chosen = await listening.listen(process.nursery, host, port)
        except OSError as error:
            process.end(exit_codes.ENVIRONMENT, f"cannot listen on {host}:{port}: {error.strerror or error}")
            return
        self.leases.say_where("{}:{}".format(*chosen))

    async def _serve(self, process: Process) -> None:
        await process.up.wait()
        service = FleetService(self.leases, process.shards, process.fence, process.broken)
        self.leases.tell = service.tell
        process.tallies.append(service.numbers)
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(service.run)
                    self.serving()
            except* (NoDirectory, NotDelivered) as error:
                process.log.warning("no requests of the fleet", why=str(unwrap(error)))
                await trio.sleep(AGAIN_S)


class Live:
    """Books as they are whenever somebody looks."""

    def __init__(self, books: Callable[[], Iterable[Book]]) -> None:
        self._books = books

    def __iter__(self) -> Iterator[Book]:
        return iter(self._books())


class Process:
    """One process, its parts, and the way in which it ends."""

    def __init__(self, assignment: Assignment, nursery: trio.Nursery, runtime: Runtime) -> None:
        self.assignment = assignment
        self.deployment, self.scenario = assignment.deployment, assignment.scenario
        self.place = assignment.place
        self.nursery = nursery
        self.runtime = runtime
        self.directories = {part.name: Directory() for part in assignment.parts}
        self.collector = Collector()
        self.fence = Fence(lambda: self.end(exit_codes.GONE, "fenced: its lease was over"))
        self.health = {part.name: Health() for part in assignment.parts}
        self.casts: list[Callable[[], Iterable[tuple[str, Actor]]]] = []
        self.locks: list[Callable[[], Iterable[tuple[str, str]]]] = []
        self.no_locks: dict[str, str] = {}  # architectures of which there is none, and why
        self.links: dict[str, Link] = {}
        self.shards: dict[str, Shard] = {}  # machines here, as tenants of a fleet see them
        self.requesters: dict[str, Requester] = {}  # who serves connections to brokers here, by machine
        self.tallies: list[Numbers] = []  # of what is no part, for whoever asks how this process is
        self.up = trio.Event()  # all parts have been ready
        self.stopping = trio.Event()
        self.code = exit_codes.OK
        self.when_ready: Callable[[], None] = lambda: None
        self.port = 0
        self.violations: dict[str, int] = {}
        self._connections = 0
        self._numbers = 0  # of connections so far
        self.log = logger(part=",".join(self.health), pid=os.getpid())
        self.actor = Actor(words.PART, self._handle, runtime)
        for directory in self.directories.values():
            directory.add(words.PART, self.actor)

    # -- what the parts say of themselves

    def directory(self, part: Part) -> Directory:
        """Whom others reach on the control socket of `part`."""
        return self.directories[part.name]

    def epoch(self, part: Part) -> int:
        return self.assignment.epochs.get(part.name, 1)

    def ready(self, part: Part, detail: str = "", numbers: Numbers | None = None) -> None:
        """Others may rely on `part` from now on."""
        health = self.health[part.name]
        health.ready, health.detail = True, detail
        if numbers is not None:
            health.numbers = numbers
        self.log.info("ready", epoch=self.epoch(part), detail=detail)
        if self.all_ready():
            self.up.set()
            self.when_ready()

    def all_ready(self) -> bool:
        return all(health.ready for health in self.health.values()) and not self.stopping.is_set()

    def cast(self, actors: Callable[[], Iterable[tuple[str, Actor]]]) -> None:
        """These act in this process: for metrics, and for `nestbed why`."""
        self.casts.append(actors)
        for role in ("te", "kvm", "host", "guest", "broker"):
            self.collector.attach_actors(role, partial(_playing, actors, role))

    def link(self, name: str, peer: str, link: Link) -> Callable[[], None]:
        """A link to a process of the role `peer` is there, for metrics and `nestbed why`.

        What is returned is to be called at its end.
        """
        self.links[name] = link
        source = self.collector.attach_link(peer, link)

        def ended() -> None:
            self.collector.detach(source)
            if self.links.get(name) is link:
                del self.links[name]

        return ended

    @asynccontextmanager
    async def shown(self, name: str, link: Link) -> AsyncIterator[None]:
        """`nestbed why` tells of `link` meanwhile: to the part whose name is the first word of `name`."""
        self.links[name] = link
        try:
            yield
        finally:
            del self.links[name]

    # -- its end

    def end(self, code: int, why: str) -> None:
        """Wind down; the first to say so says why."""
        if not self.stopping.is_set():
            self.code = code
            say = self.log.info if code == exit_codes.OK else self.log.warning
            say("ending", why=why, code=code)
            self.stopping.set()

    async def wind_down(self) -> None:
        """End everything once somebody wants that."""
        await self.stopping.wait()
        self.nursery.cancel_scope.cancel()

    async def lifeline(self, link: Link) -> None:
        """Live as long as the supervisor does."""
        await link.run()
        self.end(exit_codes.GONE, "the supervisor is gone")

    # -- what it is asked

    def _handle(self, message: object) -> object:
        match message:
            case words.Renew(until):
                self.fence.renew(until)
                return self._status()
            case words.Status():
                return self._status()
            case words.Stop():
                self.end(exit_codes.OK, "told to end")
                return None
            case words.Why():
                return {"parts": list(self.health), "pictures": self.why()}
        raise RemoteProtocolError("kind", f"not asked of a process: {type(message).__name__}")

    def _status(self) -> dict[str, Any]:
        healths = self.health.values()
        numbers: dict[str, int] = {}
        for health in healths:
            numbers |= health.numbers()
        for tally in self.tallies:
            numbers |= tally()
        return {
            "ready": self.all_ready(),
            "detail": "; ".join(health.detail for health in healths if health.detail),
            "port": self.port,
            "numbers": numbers,
        }

    def why(self) -> list[dict[str, Any]]:
        """What is under way here, actor by actor."""
        cast = [played for actors in self.casts for played in actors()]
        held = [lock for locks in self.locks for lock in locks()]
        return pictures(cast, held, self.links, self.no_locks)

    # -- who connects

    async def control(self, part: Part) -> None:
        """Serve this process's actors to others on the machine, on the path of `part`."""
        listener = listen(self.place.control(part.name))
        serve = self.fence.before(self.directory(part).serve)
        self.nursery.start_soon(trio.serve_listeners, partial(self._serve, part.name, serve), [listener])

    async def _serve(self, part_of: str, serve: Serve, stream: trio.SocketStream) -> None:
        if not is_ours(stream) or self._connections >= CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        codec = words.codec()
        link = Link(stream, serve, encode=codec.encode, decode=codec.decode)
        self._numbers += 1
        try:
            async with self.shown(f"control {self._numbers}", link):
                await link.run()
        finally:
            self._connections -= 1
            if link.violation is not None:
                self.broken(link.violation.reason, part_of)

    def broken(self, reason: str, where: str) -> None:
        """A peer broke the protocol."""
        self.log.warning("a peer broke the protocol", reason=reason, on=where)
        self.violations[reason] = self.violations.get(reason, 0) + 1


def _playing(actors: Callable[[], Iterable[tuple[str, Actor]]], role: str) -> Iterator[Actor]:
    return (actor for played, actor in actors() if played == role)


async def live(
    assignment: Assignment,
    bodies: Mapping[Role, Body],
    lifeline: int | None = None,
    when_ready: Callable[[], None] = lambda: None,
    held: Held | None = None,
) -> int:
    """Be a process with these parts until its supervisor, its machine or somebody with a signal ends it.

    Returns the exit code. `lifeline` is the descriptor of the link to the supervisor; `held` are leases of
    its machines, where several instances might have them. Raises CannotListen; BadLogging for an environment
    that wants a log of no kind.
    """
    process: Process | None = None
    try:
        async with trio.open_nursery() as nursery, open_runtime() as runtime:
            configure(tracer=lambda: runtime.tracer)
            process = Process(assignment, nursery, runtime)
            process.when_ready = when_ready
            if held is not None:
                held.keep(process)
            await _live(process, bodies, lifeline)
    except BaseExceptionGroup as group:
        fault = unwrap(group)
        if fault is None:
            raise
        raise fault from fault.__cause__
    assert process is not None
    return process.code


async def _live(process: Process, bodies: Mapping[Role, Body], lifeline: int | None) -> None:
    assignment, nursery = process.assignment, process.nursery
    nursery.start_soon(process.wind_down)
    nursery.start_soon(_signals, process)
    if lifeline is not None:
        codec = words.codec()
        directory = process.directory(assignment.parts[0])
        link = Link(adopt(lifeline), directory.serve, encode=codec.encode, decode=codec.decode)
        nursery.start_soon(process.lifeline, link)
    registry = registry_of(process.collector)
    port, host = assignment.metrics_port, assignment.metrics_host
    async with serve_metrics(registry, port, host=host, ready=process.all_ready) as process.port:
        for part in assignment.parts:
            await process.control(part)
        async with trio.open_nursery() as running:
            for part in assignment.parts:
                running.start_soon(bodies[part.role], process, part)
        if not process.stopping.is_set():
            process.end(exit_codes.OK, "everything is done")


async def _signals(process: Process) -> None:
    """SIGTERM and Ctrl-C end it in order; SIGUSR1 has it say what is under way."""
    from actors.deployment.why import as_text

    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    with suppress(RuntimeError), trio.open_signal_receiver(*wanted) as signals:
        async for number in signals:
            if number == signal.SIGUSR1:
                sys.stderr.write(as_text({", ".join(process.health): process.why()}))
                sys.stderr.flush()
            else:
                process.end(exit_codes.OK, "told to end by a signal")
