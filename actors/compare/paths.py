"""The stage of each path: hosted and mixed, which need the broker, and who makes which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import trio

from actors.broker import Broker, RequesterGone
from actors.compare.stage import MIB, GuestHosts, Here, L0Software, OwnGuests, Parts, Stage
from actors.hosted import Course, HostedGuests
from actors.requester import Requester
from actors.runtime.actor import Actor
from actors.runtime.mailbox import Reply
from actors.runtime.tracing import tracing
from actors.te import TrustedEntity
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.limits import Offer, Share
from protocol.hosting.machine import CreateGuest, LoadGuest, StartGuest
from protocol.plan import operations as op
from protocol.plan.scenario import Scenario
from protocol.plan.workload import DIRECT, MIXED, NESTED, Workload
from protocol.tracking import Book, OwnerBooks

FIRST_CID = 3  # context ids 0 to 2 mean the hypervisor, the machine itself and its host


class HostedForOwners(Here):
    """Guest hosts ask L0's broker for the life of their guests; L0's software runs them: the hosted path."""

    def __init__(self, parts: Parts, te: TrustedEntity, l0: L0Software) -> None:
        self._parts = parts
        self._te = te
        self._l0 = l0
        self.rig = l0.rig
        self._service_books = OwnerBooks(parts.ledger, "l0")
        count = parts.scenario.l1.count
        self._cids = [FIRST_CID + number for number in range(count)]
        self.machine = HostedGuests(dict.fromkeys(self._cids, l0.host.port), self._unpack)
        limits = limits_of(parts.scenario)
        offer = Offer(dump=True, sealed=True)  # plans have dumps where they are sealed for the owner
        self.hosting = Service(limits, seed=parts.scenario.seed, book=self._service_books, offer=offer)
        self.broker = Broker(self.hosting, self.machine, self._now_ms, parts.runtime)
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
            case op.Dump(guest):
                await self._requesters[host].dump(guest)
            case op.Destroy(guest) | op.Kill(guest):
                await self._requesters[host].end(guest)
                with tracing(self._parts.runtime.tracer):
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
        scenario = parts.scenario
        relayed = scenario.strategy.requests == "relayed"
        requester = Requester(who, self.broker, parts.ledger, scenario.depth, relayed)
        self._requesters[host] = requester
        await requester.begin(self._image)

    async def _create(self, host: int, guest: int, memory_mib: int, vcpus: int) -> None:
        """Ask for a start; it stops behind the creation until the plan comes to loading."""
        course = self._courses[guest] = self.machine.course(self._cids[host], guest)
        started = self._started[guest] = Reply()

        def over(value: object, error: BaseException | None) -> None:
            course.end()
            started.deliver(value, error)

        with tracing(self._parts.runtime.tracer):
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
            with tracing(self._parts.runtime.tracer):
                self._owner_books[host].drop("child")
        await self.broker.actor.ask(RequesterGone(requester.who))

    def books(self) -> Iterable[Book]:
        return (self._l0.book, *self._service_books.books.values(), *self._owner_books)

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "te", self._te.actor
        yield "broker", self.broker.actor
        yield from self._l0.actors()


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
        self._hosted = HostedForOwners(parts, self._nested.te, l0)
        self.hosting = self._hosted.hosting

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        if isinstance(operation, op.ForGuest):
            hosted = operation.guest in self._hosted_guests[host]
            await (self._hosted if hosted else self._nested).perform(host, operation)
            return
        await self._nested.perform(host, operation)
        await self._hosted.perform(host, operation)

    def books(self) -> Iterable[Book]:
        return (*self._nested.books(), *self._hosted.books())

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield from self._nested.actors()
        yield from (played for played in self._hosted.actors() if played[0] != "te")


def limits_of(scenario: Scenario) -> Limits:
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
    return HostedForOwners(parts, te, l0)
