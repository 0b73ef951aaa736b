"""The actors of one path, put together: who does the operations of a plan, and who is below.

A stage takes operations of host k, one after another, while those of other hosts may be under way. What a
path does with them is its own: on the nested path the guest hosts do them, on the hosted path they ask L0
for the life of their guests, and L0's software, in each owner's share of memory, does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import trio

from actors.broker import Broker, RequesterGone
from actors.guest import SecureGuest
from actors.host import SecureHost
from actors.hosted import Course, HostedGuests
from actors.kvm import Kvm
from actors.requester import Requester
from actors.runtime.actor import ActorDeath, Runtime
from actors.runtime.mailbox import Reply
from actors.runtime.port import Port
from actors.runtime.transport.memory import connect
from actors.te import TrustedEntity
from protocol.arch.contract import Comparison, Rig, Software
from protocol.codec import Codec
from protocol.errors import LevelGone
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.limits import Share
from protocol.hosting.machine import CreateGuest, LoadGuest, StartGuest
from protocol.ledger import Ledger
from protocol.plan import operations as op
from protocol.plan.scenario import Scenario
from protocol.plan.workload import DIRECT, MIXED, NESTED, Workload
from protocol.tracking import Book, OwnerBooks

Json = dict[str, Any]
Say = Callable[[Json, Json], None]

MIB = 1 << 20
SWEPT = 32  # pages of an ended guest released behind its host's back before each of its operations
EVERYTHING = 1 << 30
FIRST_CID = 3  # context ids 0 to 2 mean the hypervisor, the machine itself and its host


class Stage(Protocol):
    """What a run needs of a path."""

    @property
    def rig(self) -> Rig: ...

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        """Do one operation of host `host`, to its end."""
        ...

    def books(self) -> Iterable[Book]: ...

    async def enter_phase(self, name: str) -> None:
        """Whoever counts elsewhere counts in this phase from now on."""
        ...

    async def tally(self) -> list[Json]:
        """What was counted elsewhere."""
        ...

    async def close(self) -> None:
        """The run is over: end whatever lives elsewhere, and give back what it held."""
        ...


class Here:
    """The part of a stage all of which is in this process: it counts in the run's own ledger."""

    async def enter_phase(self, name: str) -> None:
        pass

    async def tally(self) -> list[Json]:
        return []

    async def close(self) -> None:
        pass


@dataclass(slots=True)
class Parts:
    """What every stage is made from."""

    arch: str
    scenario: Scenario
    comparison: Comparison
    ledger: Ledger
    runtime: Runtime
    image: Any
    transcript: Callable[[int], Say | None] = lambda _host: None  # where what host k does is written down
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = Codec(self.comparison.wire)

    def across(self, port: Port) -> Port:
        """A port as it looks over the scenario's transport."""
        return connect(port, self.scenario.transport, self.codec.encode, self.codec.decode)

    def compose(self, depth: int, spare: int = 0) -> Rig:
        scenario, hosts = self.scenario, self.scenario.l1
        strategy = scenario.strategy
        memory = hosts.memory_mib * MIB * (1 if depth else hosts.count)
        cpus = hosts.cpus if depth else 1 + hosts.count * hosts.cpus
        words = {name: getattr(strategy, name) for name in ("handles", "donation", "teardown", "pages")}
        return self.comparison.compose(
            scenario.profile, depth, hosts.count, memory, cpus, scenario.seed, words, self.ledger, spare
        )

    def software(self, rig: Rig, seat: int | None, name: str, life: int, **more: Any) -> Software:
        """Host software; what it draws depends on its name and on how often it booted."""
        scenario = self.scenario
        return self.comparison.software(
            rig,
            seat,
            Random(f"{scenario.seed}:{name}:{life}"),
            pages=scenario.strategy.pages,
            bulk=scenario.fidelity == "bulk",
            **more,
        )


class Guests:
    """The guests of one host as actors, made when the plan first names them."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self._name = name
        self._runtime = runtime
        self._guests: dict[int, SecureGuest] = {}

    async def perform(self, host: SecureHost, operation: op.Operation) -> None:
        """What a guest does it asks of its host; everything else the host does."""
        if not isinstance(operation, op.OnVcpu) or isinstance(operation, op.Swap):
            await host.perform(operation)
            return
        guest = self._guests.get(operation.guest)
        if guest is None:
            name = f"{self._name}.guest{operation.guest}"
            guest = self._guests[operation.guest] = SecureGuest(name, host.port, self._runtime)
        await guest.perform(operation)

    def end(self) -> None:
        """Their host is gone."""
        for guest in self._guests.values():
            guest.actor.stop()
        self._guests.clear()


class GuestHosts(Here):
    """Hosts that are VMs, with everything below them: the nested path."""

    def __init__(self, parts: Parts, spare: int = 0) -> None:
        self.parts = parts
        self.rig = parts.compose(parts.scenario.depth, spare)
        self.ledger = parts.ledger
        serve = self.rig.below(0)
        self.te = TrustedEntity(serve[-1], parts.runtime)
        self.kvm = self._hypervisors(serve[-2:0:-1])
        self._seats = [_Seat(self, number) for number in range(parts.scenario.l1.count)]

    def _hypervisors(self, between: Iterable[Any]) -> Kvm:
        """L0's, then those of the levels between, each a guest host of the one before."""
        runtime = self.parts.runtime
        kvm = Kvm("l0.kvm", self.parts.across(self.te.actor), runtime)
        for number, serve in enumerate(between, 1):
            port = kvm.add(f"l{number}", serve, _never_ends)
            kvm = Kvm(f"l{number}.kvm", self.parts.across(port), runtime)
        return kvm

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        await self._seats[host].perform(operation)

    def books(self) -> Iterable[Book]:
        return (*self.rig.books(), *(seat.book for seat in self._seats))


def _never_ends(cause: str) -> Any:
    raise AssertionError(f"a hypervisor of the chain ended: {cause}")


class _Seat:
    """One guest host: its software, its actor, and what happens to it."""

    def __init__(self, stage: GuestHosts, number: int) -> None:
        self._stage = stage
        self._number = number
        self._lives = 0
        self._left_over = False
        self._error: Exception | None = None
        depth = stage.parts.scenario.depth
        self.name = f"l{depth}.{number}"
        self.book = Book(stage.ledger, f"l{depth}")
        self._say = stage.parts.transcript(number)
        self._guests = Guests(self.name, stage.parts.runtime)
        self._port = stage.kvm.add(
            self.name, stage.rig.below(number)[0], lambda cause: stage.rig.end(number, cause)
        )
        self._host = self._boot()

    def _boot(self) -> SecureHost:
        parts = self._stage.parts
        self._lives += 1
        software = parts.software(
            self._stage.rig,
            self._number,
            self.name,
            self._lives,
            image=parts.image,
            book=self.book,
            record=self._say,
        )
        host = SecureHost(self.name, software.perform, parts.across(self._port), parts.runtime)
        host.actor.watch(self._died)
        return host

    def _died(self, notice: ActorDeath) -> None:
        """A host that fails is a host that died: the level below reclaims, and the run tells of what."""
        if notice.error is not None:
            self._error = notice.error
            self._stage.kvm.gone(self.name, "l1_crash")

    async def perform(self, operation: op.Operation | op.Event) -> None:
        """Do one operation. Raises what the host died of."""
        try:
            await self._perform(operation)
        except LevelGone:
            if self._error is None:
                raise
            raise self._error from None

    async def _perform(self, operation: op.Operation | op.Event) -> None:
        stage, kvm, number = self._stage, self._stage.kvm, self._number
        match operation:
            case op.LevelSwap():
                await kvm.control(self.name, lambda: stage.rig.swap(number, operation))
            case op.Reboot():
                self._end()
                self._tell({"op": "reset", "kind": "load-normal"})
                await kvm.control(self.name, lambda: stage.rig.reset(number, "load-normal"))
                self._left_over = stage.parts.scenario.strategy.teardown == "async"
                self._host = self._boot()
            case op.Death():
                self._end()
                self._tell({"op": "kill"})
                kvm.gone(self.name, "l1_crash")
                await reclaimed(kvm, self.name)
            case op.Operation():
                await self._sweep(EVERYTHING if isinstance(operation, op.Shutdown) else SWEPT)
                await self._guests.perform(self._host, operation)

    async def _sweep(self, pages: int) -> None:
        """Go on with what a reboot left over: some of it before each operation of the host's next life."""
        if self._left_over:
            rig, number = self._stage.rig, self._number
            self._left_over = bool(await self._stage.kvm.control(self.name, lambda: rig.sweep(number, pages)))

    def _tell(self, request: Json) -> None:
        if self._say is not None:
            self._say({"id": request["op"], **request}, {"id": request["op"], "ok": {}})

    def _end(self) -> None:
        self._guests.end()
        self._host.actor.stop()
        self.book.forget()


async def reclaimed(kvm: Kvm, host: str) -> None:
    """Wait until nothing of a guest host that is gone is left."""
    done = Reply()
    kvm.watch(host, lambda notice: done.deliver(notice, None))
    await done.wait()


class L0Software:
    """L0's own software on the machine. It has one kernel, so it does one operation after another."""

    def __init__(
        self, parts: Parts, rig: Rig, below: Port, seat: int | None, book: Book, record: Say | None = None
    ) -> None:
        pool = None if seat is not None else rig.chain[0].pool
        cpus = None if seat is not None else rig.own_cpus
        self.book = book
        self.rig = rig
        more = {"image": parts.image, "book": book, "pool": pool, "cpus": cpus, "record": record}
        self.software = parts.software(rig, seat, "l0", 1, **more)
        self.host = SecureHost("l0", self.software.perform, below, parts.runtime)
        self.guests = Guests("l0", parts.runtime)
        self._up = False

    async def perform(self, operation: op.Operation) -> None:
        """Do one operation; it boots once, whoever of the plan's hosts boots first."""
        if isinstance(operation, op.BootHost):
            if self._up:
                return
            self._up = True
        await self.guests.perform(self.host, operation)


class OwnGuests(Here):
    """L0 runs every guest of the plan as its own: the direct path."""

    def __init__(self, parts: Parts) -> None:
        self.rig = parts.compose(0)
        self.te = TrustedEntity(self.rig.below(0)[-1], parts.runtime)
        below, book = parts.across(self.te.actor), Book(parts.ledger, "l0")
        self._l0 = L0Software(parts, self.rig, below, 0, book, parts.transcript(0))

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        assert isinstance(operation, op.Operation), f"nothing is below L0: {operation}"
        await self._l0.perform(operation)

    def books(self) -> Iterable[Book]:
        return (self._l0.book,)


class HostedForOwners(Here):
    """Guest hosts ask L0's broker for the life of their guests; L0's software runs them: the hosted path."""

    def __init__(self, parts: Parts, l0: L0Software) -> None:
        self._parts = parts
        self._l0 = l0
        self.rig = l0.rig
        self._service_books = OwnerBooks(parts.ledger, "l0")
        count = parts.scenario.l1.count
        self._cids = [FIRST_CID + number for number in range(count)]
        self.machine = HostedGuests(dict.fromkeys(self._cids, l0.host.port), self._unpack)
        limits = _limits(parts.scenario)
        self.service = Service(limits, seed=parts.scenario.seed, book=self._service_books)
        self.broker = Broker(self.service, self.machine, self._now_ms, parts.runtime)
        holder = f"l{parts.scenario.depth}"
        self._owner_books = [Book(parts.ledger, holder) for _ in range(count)]
        self._epochs = [0] * count
        self._requesters: dict[int, Requester] = {}
        self._courses: dict[int, Course] = {}
        self._started: dict[int, Reply] = {}
        self._clock_ms = 0
        self._image = parts.comparison.pack_image(parts.image)

    def _now_ms(self) -> int:
        """The broker's time stands still within a run: no lease may run out for reasons of this machine."""
        return self._clock_ms

    def _unpack(self, data: bytes) -> None:
        """What L0 loads is what came over the interface."""
        self._l0.software.image = self._parts.comparison.unpack_image(data)

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        match operation:
            case op.BootHost():
                await self._l0.perform(operation)
                await self._boot(host)
            case op.Create(guest, memory_mib, vcpus):
                await self._create(host, guest, memory_mib, vcpus)
            case op.Load(guest):
                await self._courses[guest].go_on(LoadGuest)
            case op.Start(guest):
                await self._start(guest)
            case op.Destroy(guest) | op.Kill(guest):
                await self._requesters[host].end(guest)
                self._owner_books[host].drop("child")
            case op.Shutdown():
                await self._gone(host)
            case op.Reboot() | op.Death():
                await self._gone(host)
            case op.OnVcpu() | op.Reset():  # the guest's own doing: its owner is not asked
                await self._l0.perform(operation)
            case _:
                raise ValueError(f"the hosted path knows no {operation}")

    async def _boot(self, host: int) -> None:
        self._epochs[host] += 1
        who = Identity(self._cids[host], self._epochs[host])
        parts = self._parts
        requester = self._requesters[host] = Requester(who, self.broker, parts.ledger, parts.scenario.depth)
        await requester.begin(self._image)

    async def _create(self, host: int, guest: int, memory_mib: int, vcpus: int) -> None:
        """Ask for a start; it stops behind the creation until the plan comes to loading."""
        course = self._courses[guest] = self.machine.course(self._cids[host], guest)
        started = self._started[guest] = Reply()

        def over(value: object, error: BaseException | None) -> None:
            course.end()
            started.deliver(value, error)

        self._owner_books[host].add("child")
        self._requesters[host].start(guest, self._image, vcpus, memory_mib, over)
        await course.go_on(CreateGuest)

    async def _start(self, guest: int) -> None:
        await self._courses.pop(guest).go_on(StartGuest)
        await self._started.pop(guest).wait()

    async def _gone(self, host: int) -> None:
        """The boot of an owner is over: L0 reclaims, with no word from it."""
        requester = self._requesters.pop(host)
        for _ in requester.children:
            self._owner_books[host].drop("child")
        await self.broker.actor.ask(RequesterGone(requester.who))

    def books(self) -> Iterable[Book]:
        return (self._l0.book, *self._service_books.books.values(), *self._owner_books)


class MixedStage(Here):
    """Nested and hosted guests at once on one L0."""

    def __init__(self, parts: Parts, hosted: Mapping[int, frozenset[int]]) -> None:
        guest = parts.scenario.guest
        count = sum(len(guests) for guests in hosted.values())
        self._hosted_guests = hosted
        self._nested = GuestHosts(parts, spare=2 * count * guest.memory_mib * MIB + (64 << 20))
        self.rig = self._nested.rig
        below = parts.across(self._nested.te.actor)
        l0 = L0Software(parts, self.rig, below, None, Book(parts.ledger, "l0"))
        self._hosted = HostedForOwners(parts, l0)

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        if isinstance(operation, op.ForGuest):
            hosted = operation.guest in self._hosted_guests[host]
            await (self._hosted if hosted else self._nested).perform(host, operation)
            return
        await self._nested.perform(host, operation)
        await self._hosted.perform(host, operation)

    def books(self) -> Iterable[Book]:
        return (*self._nested.books(), *self._hosted.books())


def _limits(scenario: Scenario) -> Limits:
    """Quotas that the scenario's guests fit: each owner as many as the plan gives it."""
    guest, guests = scenario.guest, scenario.guest.per_l1
    share = Share(
        children=guests,
        vcpus=guests * guest.vcpus,
        memory_mib=guests * guest.memory_mib,
        image_bytes=2 * (guest.image_pages + 4) * 4096,
        images=2,
        idempotency_keys=max(128, 4 * guests * (2 + scenario.run.reboots)),
    )
    return Limits(
        requesters=max(64, scenario.l1.count),
        each=share,
        in_flight=max(64, 2 * guests),
        tombstones=max(64, guests),
        cid_count=max(65_536, 4 * guests * scenario.l1.count),
    )


async def stage(parts: Parts, plan: Workload, processes: int, nursery: trio.Nursery) -> Stage:
    """The stage of a path; processes that it needs live in `nursery`."""
    if plan.path == DIRECT:
        return OwnGuests(parts)
    if plan.path == NESTED and processes > 1:
        from actors.compare.elsewhere import GuestHostsElsewhere

        elsewhere = GuestHostsElsewhere(parts, processes)
        await elsewhere.start(nursery)
        return elsewhere
    if plan.path == NESTED:
        return GuestHosts(parts)
    if plan.path == MIXED:
        return MixedStage(parts, {host.number: host.hosted for host in plan.hosts})
    rig = parts.compose(0)
    te = TrustedEntity(rig.below(0)[-1], parts.runtime)
    l0 = L0Software(parts, rig, parts.across(te.actor), 0, Book(parts.ledger, "l0"))
    return HostedForOwners(parts, l0)
