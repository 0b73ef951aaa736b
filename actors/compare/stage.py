"""The actors of one path, put together: who does the operations of a plan, and who is below.

A stage takes operations of host k, one after another, while those of other hosts may be under way. What a
path does with them is its own: on the nested path the guest hosts do them, on the hosted path they ask L0
for the life of their guests, and L0's software, in each owner's share of memory, does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from actors.guest import SecureGuest, asking
from actors.host import SecureHost, keeping_vmms
from actors.kvm import Kvm
from actors.runtime.actor import Actor, ActorDeath, Perform, Runtime
from actors.runtime.mailbox import Reply
from actors.runtime.port import Port
from actors.runtime.tracing import Tracer
from actors.runtime.transport.memory import connect
from actors.te import TrustedEntity
from protocol.arch.contract import Comparison, Rig, Software
from protocol.codec import Codec
from protocol.errors import LevelGone
from protocol.hosting import Service
from protocol.ledger import Ledger
from protocol.nesting.sizes import sizes_of
from protocol.plan import operations as op
from protocol.plan.scenario import Scenario
from protocol.trace.join import Piece
from protocol.tracking import Book

Json = dict[str, Any]
Say = Callable[[Json, Json], None]

MIB = 1 << 20
SWEPT = 32  # pages of an ended guest released behind its host's back before each of its operations
EVERYTHING = 1 << 30


class Stage(Protocol):
    """What a run needs of a path."""

    @property
    def rig(self) -> Rig: ...

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        """Do one operation of host `host`, to its end."""
        ...

    def books(self) -> Iterable[Book]: ...

    def actors(self) -> Iterator[tuple[str, Actor]]:
        """Whoever acts in this process, each with the role it plays."""
        ...

    @property
    def hosting(self) -> Service | None:
        """What the broker answers from, on paths that have one."""
        ...

    async def enter_phase(self, name: str) -> None:
        """Whoever counts elsewhere counts in this phase from now on."""
        ...

    async def tally(self) -> list[Json]:
        """What was counted elsewhere."""
        ...

    async def traces(self) -> list[list[Piece]]:
        """What was traced elsewhere, by process."""
        ...

    async def close(self) -> None:
        """The run is over: end whatever lives elsewhere, and give back what it held."""
        ...


class Here:
    """The part of a stage all of which is in this process: it counts in the run's own ledger."""

    hosting: Service | None = None

    async def enter_phase(self, name: str) -> None:
        pass

    async def tally(self) -> list[Json]:
        return []

    async def traces(self) -> list[list[Piece]]:
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
    tracer: Tracer | None = None  # follows messages to other processes, too
    codec: Codec = field(init=False)

    def __post_init__(self) -> None:
        self.codec = Codec(self.comparison.wire)

    def across(self, port: Port) -> Port:
        """A port as it looks over the scenario's transport."""
        return connect(port, self.scenario.transport, self.codec.encode, self.codec.decode)

    def compose(self, depth: int, spare: int = 0) -> Rig:
        return self.comparison.compose(sizes_of(self.scenario, depth), self.ledger, spare)

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
        self._ask: Perform | None = None

    async def perform(self, host: SecureHost, operation: op.Operation) -> None:
        """What a guest does it asks of its host; everything else the host does."""
        if not isinstance(operation, op.OnVcpu) or isinstance(operation, op.Swap):
            await host.perform(operation)
            return
        guest = self._guests.get(operation.guest)
        if guest is None:
            name = f"{self._name}.guest{operation.guest}"
            self._ask = self._ask or asking(host.port)
            guest = self._guests[operation.guest] = SecureGuest(name, self._ask, self._runtime)
        await guest.perform(operation)

    def actors(self) -> Iterator[tuple[str, Actor]]:
        for guest in self._guests.values():
            yield "guest", guest.actor

    def end(self) -> None:
        """Their host is gone."""
        for guest in self._guests.values():
            guest.actor.stop()
        self._guests.clear()
        self._ask = None


class GuestHosts(Here):
    """Hosts that are VMs, with everything below them: the nested path."""

    def __init__(self, parts: Parts, spare: int = 0) -> None:
        self.parts = parts
        self.rig = parts.compose(parts.scenario.depth, spare)
        self.ledger = parts.ledger
        serve = self.rig.below(0)
        self.te = TrustedEntity(serve[-1], parts.runtime)
        self._kvms: list[Kvm] = []
        self.kvm = self._hypervisors(serve[-2:0:-1])
        self._seats = [_Seat(self, number) for number in range(parts.scenario.l1.count)]

    def _hypervisors(self, between: Iterable[Any]) -> Kvm:
        """L0's, then those of the levels between, each a guest host of the one before."""
        runtime = self.parts.runtime
        kvm = Kvm("l0.kvm", self.parts.across(self.te.actor), runtime)
        self._kvms.append(kvm)
        for number, serve in enumerate(between, 1):
            port = kvm.add(f"l{number}", serve, _never_ends)
            kvm = Kvm(f"l{number}.kvm", self.parts.across(port), runtime)
            self._kvms.append(kvm)
        return kvm

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        await self._seats[host].perform(operation)

    def books(self) -> Iterable[Book]:
        return (*self.rig.books(), *(seat.book for seat in self._seats))

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "te", self.te.actor
        for kvm in self._kvms:
            yield "kvm", kvm.actor
        for seat in self._seats:
            yield from seat.actors()


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
        perform = keeping_vmms(software.perform, self.book)
        host = SecureHost(self.name, perform, parts.across(self._port), parts.runtime)
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
                kind = stage.parts.comparison.reboot
                self._tell({"op": "reset", "kind": kind})
                await kvm.control(self.name, lambda: stage.rig.reset(number, kind))
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

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "host", self._host.actor
        yield from self._guests.actors()

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
    """L0's own software on the machine. It has one kernel, so it does one operation after another.

    `own`: the guests are its own; else their VMMs are records of the hosting service.
    """

    def __init__(
        self,
        parts: Parts,
        rig: Rig,
        below: Port,
        seat: int | None,
        book: Book,
        record: Say | None = None,
        own: bool = False,
    ) -> None:
        pool = None if seat is not None else rig.chain[0].pool
        cpus = None if seat is not None else rig.own_cpus
        self.book = book
        self.rig = rig
        more = {"image": parts.image, "book": book, "pool": pool, "cpus": cpus, "record": record}
        self.software = parts.software(rig, seat, "l0", 1, **more)
        perform = keeping_vmms(self.software.perform, book) if own else self.software.perform
        self.host = SecureHost("l0", perform, below, parts.runtime)
        self.guests = Guests("l0", parts.runtime)
        self._up = False

    async def perform(self, operation: op.Operation) -> None:
        """Do one operation; it boots once, whoever of the plan's hosts boots first."""
        if isinstance(operation, op.BootHost):
            if self._up:
                return
            self._up = True
        await self.guests.perform(self.host, operation)

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "host", self.host.actor
        yield from self.guests.actors()


class OwnGuests(Here):
    """L0 runs every guest of the plan as its own: the direct path."""

    def __init__(self, parts: Parts) -> None:
        self.rig = parts.compose(0)
        self.te = TrustedEntity(self.rig.below(0)[-1], parts.runtime)
        below, book = parts.across(self.te.actor), Book(parts.ledger, "l0")
        self._l0 = L0Software(parts, self.rig, below, 0, book, parts.transcript(0), own=True)

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        assert isinstance(operation, op.Operation), f"nothing is below L0: {operation}"
        await self._l0.perform(operation)

    def books(self) -> Iterable[Book]:
        return (self._l0.book,)

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "te", self.te.actor
        yield from self._l0.actors()
