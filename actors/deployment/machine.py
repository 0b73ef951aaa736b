"""The part that holds a Trusted Entity, L0's KVM and its hosting broker: this process *is* the machine.

Its death is a power failure: secure state is gone, its L1s end, hosted children are lost, what was in flight
is unknown, and whoever takes its place has a higher epoch.

An L1 in a process of its own comes to the machine's seats: it says which seat and which of its lives, and
gets its configuration with three descriptors: its link, its traps, the file of its RAM. Whoever comes under
a higher epoch has the place of the one before, whose link is closed and whose entities are reclaimed first;
whoever comes under a lower one is turned away. The end of the link is the sudden death of that L1.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from actors.apart import ApartL1, serve_traps, settle, until_death
from actors.broker import Broker, RequesterGone
from actors.compare.paths import FIRST_CID, limits_of
from actors.compare.stage import MIB, L0Software, Parts
from actors.deployment import words
from actors.deployment.parts import Part
from actors.deployment.process import Live, Process
from actors.fleet.serve import TENANT_EPOCH, Shard
from actors.hosted import NumberedGuests
from actors.hosting.channels import ChannelServer
from actors.hosting.programs import Programs
from actors.hosting.reception import Reception
from actors.images import image_of
from actors.kvm import Control, Kvm
from actors.node import Boot, Node, NodeConfig
from actors.runtime.actor import Actor
from actors.runtime.port import Deliver, ignore
from actors.runtime.transport.address import Peer
from actors.runtime.transport.unix import is_ours, listen, send_files
from actors.te import TrustedEntity
from protocol.arch import load
from protocol.codec import Codec
from protocol.effects import Effect, Issue, Step, issue
from protocol.errors import OperationalError, RemoteProtocolError
from protocol.hosting import Identity, Service
from protocol.hosting.evidence import KeySigner, Trust
from protocol.hosting.limits import Offer
from protocol.ledger import Ledger
from protocol.nesting.sizes import STRATEGY, sizes_of
from protocol.plan import operations as op
from protocol.tracking import Book, OwnerBooks
from protocol.wire import FrameDecoder, pack_frame

HELLO_S = 5.0
HELLO_BYTES = 1024


@dataclass(slots=True)
class Seated:
    """An L1 on its seat. Cancelling `scope` ends it; `gone` is set when nothing of it is left."""

    l1: ApartL1
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: trio.Event = field(default_factory=trio.Event)


class Machine:
    """One L0, whole but for L1s that live elsewhere."""

    def __init__(self, process: Process, part: Part) -> None:
        deployment = process.deployment
        self.process, self.part = process, part
        self.scenario = replace(process.scenario, seed=deployment.seed + part.machine)
        arch = load(deployment.arch)
        assert arch.comparison is not None, f"{deployment.arch} has no comparison"
        self.arch, self.comparison = arch, arch.comparison
        self.ledger = Ledger(self.comparison.prices.entry)
        self.ledger.phase = "run"
        self.words = {name: getattr(self.scenario.strategy, name) for name in STRATEGY}
        self.violations: Counter[str] = Counter()
        self._seated: dict[int, Seated] = {}
        self._turns = [trio.Lock() for _ in range(self.scenario.l1.count)]
        self._nodes: dict[int, Node] = {}  # of hosts in this very process, by seat
        self._epochs = [0] * self.scenario.l1.count

    # -- coming up

    async def bring_up(self) -> None:
        """The machine boots, and its broker is ready."""
        scenario, process = self.scenario, self.process
        data = None
        if scenario.guest.image is not None:
            data = await trio.Path(scenario.guest.image).read_bytes()
        self.image = image_of(self.comparison, scenario, data)
        parts = Parts(self.arch.name, scenario, self.comparison, self.ledger, process.runtime, self.image)
        self.rig = self._composed()
        self.te = TrustedEntity(self.rig.below(0)[-1], process.runtime)
        self.kvm = Kvm("l0.kvm", self.te.actor, process.runtime)
        self.l0 = L0Software(parts, self.rig, self.te.actor, None, Book(self.ledger, "l0"))
        await self.l0.perform(op.BootHost())
        self._hosting()
        machine = Actor(words.MACHINE, self._handle, process.runtime, perform=self._perform)
        process.directory(self.part).add(words.MACHINE, machine)
        process.cast(self.actors)
        process.locks.append(self.rig.locks)
        if reason := getattr(self.comparison, "no_locks", ""):
            process.no_locks[self.arch.name] = reason
        collector = process.collector
        collector.attach(self.arch.name, "mixed", self.ledger, Live(self.books), depth=scenario.depth)
        collector.attach_service(self.arch.name, self.service)

    def _composed(self) -> Any:
        scenario, guest = self.scenario, self.scenario.guest
        requesters = scenario.l1.count + 1 + len(self.process.deployment.tenants)
        hosted = requesters * guest.per_l1  # of every L1, of one requester more, of every tenant
        spare = 2 * hosted * guest.memory_mib * MIB + 64 * MIB
        return self.comparison.lower(sizes_of(scenario, scenario.depth), self.ledger, spare)

    def _hosting(self) -> None:
        scenario, process = self.scenario, self.process
        count, tenants = scenario.l1.count, process.deployment.tenants
        self.cids = [FIRST_CID + number for number in range(count + 1)]  # the last one for everybody else
        first = FIRST_CID + count + 1
        known = {name: Identity(first + number, TENANT_EPOCH) for number, name in enumerate(tenants)}
        served = [*self.cids, *(who.cid for who in known.values())]
        hosts = dict.fromkeys(served, self.l0.host.port)
        self.owners = OwnerBooks(self.ledger, "l0")
        name, place, nursery = self.part.name, process.place, process.nursery
        signer = KeySigner(ec.generate_private_key(ec.SECP384R1()))  # of this life: a machine forgets all
        place.write(place.host_key(name), signer.public_key())
        self.service = Service(
            limits_of(scenario),
            seed=scenario.seed,
            book=self.owners,
            offer=Offer(channels=f"unix:{place.channels(name, '{cid}')}"),
            trust=Trust(secrets.token_bytes(32), signer),
        )
        self.guests = NumberedGuests(hosts, self._unpack)
        programs = Programs(self.guests, nursery, self.service.console_wrote)
        self.broker = Broker(self.service, programs, _now_ms, process.runtime)
        self.reception = Reception(self.broker, ChannelServer(self.broker, programs.dial))
        process.requesters[name] = self.requester
        process.shards[name] = Shard(name, process.epoch(self.part), self.broker, known)
        nursery.start_soon(self.broker.run)
        for seat, cid in enumerate(self.cids):
            who = partial(self._who, seat)
            control = listen(place.hosting(name, f"l1-{seat}" if seat < count else ""))
            nursery.start_soon(self.reception.requests, control, who)
            nursery.start_soon(self.reception.channels, listen(place.channels(name, cid)), who)
        for tenant in known.values():  # they ask by way of the fleet, and open channels here
            who = partial(self._let_in, tenant)
            nursery.start_soon(self.reception.channels, listen(place.channels(name, tenant.cid)), who)

    def _unpack(self, data: bytes) -> None:
        """Any file will do: one that is no image is made into one that this machine can open."""
        try:
            image = self.comparison.unpack_image(data)
        except ValueError:
            image = self.comparison.image(self.scenario.seed, self.scenario.guest.image_pages, data)
        self.l0.software.image = image

    # -- the hosting interface: who asks is said by the path on which it came

    def identity(self, seat: int) -> Identity:
        outsider = seat == self.scenario.l1.count
        epoch = self.process.epoch(self.part) if outsider else self._epochs[seat]
        return Identity(self.cids[seat], epoch)

    def _who(self, seat: int, peer: Peer) -> Identity | None:
        """Who comes on the sockets of a seat: its present boot, in a process of the same user."""
        return self._let_in(self.identity(seat), peer)

    def _let_in(self, who: Identity, peer: Peer) -> Identity | None:
        return who if peer.uid in (0, os.getuid()) and self._answers(who) else None

    def _answers(self, who: Identity) -> bool:
        """Whether that boot has begun, and this machine may answer at all."""
        return who.epoch >= 1 and self.process.fence.holds()

    async def requester(self, seat: int, stream: trio.abc.Stream) -> None:
        """One connection of somebody who may speak for the guest host on `seat`."""
        if not 0 <= seat <= self.scenario.l1.count:
            raise RemoteProtocolError("order", f"no guest host {seat} here")
        who = self.identity(seat)
        if self._answers(who):
            await self.reception.attend(who, stream)
        else:
            await trio.aclose_forcefully(stream)

    def _requester_gone(self, seat: int) -> None:
        who = self.identity(seat)
        self.reception.end(who)
        self.broker.actor.submit(RequesterGone(who), ignore)

    # -- seats, for L1s in processes of their own

    async def serve_seats(self) -> None:
        listener = listen(self.process.place.seat(self.part.name))
        self.process.nursery.start_soon(trio.serve_listeners, self._comes, [listener])

    async def _comes(self, stream: trio.SocketStream) -> None:
        """One L1 comes, with a good name or without."""
        async with stream:
            try:
                with trio.fail_after(HELLO_S):
                    seat, epoch = self._opened(await _one_frame(stream))
                async with self._turns[seat]:
                    await self._admit(seat, epoch, stream)
            except RemoteProtocolError as violation:
                self.violations[violation.reason] += 1
                self.process.log.warning("turned away", reason=violation.reason, detail=violation.detail)
            except trio.TooSlowError:
                self.violations["order"] += 1
            except (trio.BrokenResourceError, OSError):
                pass  # it is gone again

    def _opened(self, frame: object) -> tuple[int, int]:
        match frame:
            case {"seat": int(seat), "epoch": int(epoch)} if 0 <= seat < len(self.rig.seats):
                return seat, epoch
        raise RemoteProtocolError("shape", f"no guest host of this machine: {str(frame)[:60]}")

    async def _admit(self, seat: int, epoch: int, stream: trio.SocketStream) -> None:
        if epoch <= self._epochs[seat] or not is_ours(stream):
            raise RemoteProtocolError("order", f"epoch {epoch}, and {self._epochs[seat]} was here already")
        if seat in self._seated:  # whoever sits here loses the place
            self._seated[seat].scope.cancel()
            await self._seated[seat].gone.wait()
        self._epochs[seat] = epoch
        codec, end = Codec(self.comparison.wire), partial(self._end, seat)
        l1 = settle(self.rig, seat, self.kvm, f"l1.{seat}", codec, end)
        self._seated[seat] = seated = Seated(l1)
        self.process.log.info("guest host seated", seat=seat, epoch=epoch)
        ended = self.process.link(f"l1-{seat}", "host", l1.link)
        self.process.nursery.start_soon(self._keep, seat, seated, ended)
        assert l1.kvm is not None
        try:
            config = pack_frame([self.config(seat).text()])
            files = [l1.kvm.theirs, l1.traps.theirs, l1.file.fd]
            await send_files(stream.socket, config, files)
        finally:
            l1.kvm.handed_over()
            l1.traps.handed_over()

    def _end(self, seat: int, _cause: str) -> Step[None]:
        """What is left of the guest host goes, and its seat is for the next."""
        step: Step[None] = self.rig.kill(seat)
        return step

    async def _keep(self, seat: int, seated: Seated, ended: Callable[[], None]) -> None:
        """Serve one L1 until it is gone, whoever ended it; then take everything back."""
        l1 = seated.l1
        with seated.scope:
            async with trio.open_nursery() as both:
                both.start_soon(serve_traps, l1, seated.scope.cancel)
                await until_death(l1, self.kvm)
                both.cancel_scope.cancel()
        self.kvm.gone(l1.name, "l1_crash")
        if l1.link.violation is not None:
            self.violations[l1.link.violation.reason] += 1
        self.process.log.info("guest host gone", seat=seat, epoch=self._epochs[seat])
        self._requester_gone(seat)
        await l1.gone(self.kvm, lambda: self.rig.seats[seat].level is l1.level)
        del self._seated[seat]
        ended()
        seated.gone.set()

    def config(self, seat: int) -> NodeConfig:
        """What the L1 on `seat` has to know."""
        scenario, first = self.scenario, self.rig.seats[seat]
        depth = scenario.depth
        return NodeConfig(
            arch=self.arch.name,
            depth=depth,
            seats=(seat,) if depth == 1 else tuple(range(scenario.l1.count)),
            l1_frames=first.memory_bytes >> 12,
            l1_cpus=len(first.cpus),
            memory_bytes=scenario.l1.memory_mib * MIB,
            cpus=scenario.l1.cpus,
            profile=scenario.profile,
            seed=scenario.seed,
            strategy=self.words,
            image_pages=scenario.guest.image_pages,
            image=scenario.guest.image,
            proves=bool(scenario.run.attestations),
        )

    # -- L1s in this very process

    async def seat_here(self) -> None:
        """Bring up every L1 here: what is asked of L0 goes by message, memory is the emulation itself."""
        process, rig = self.process, self.rig
        for seat in range(len(rig.seats)):
            self._epochs[seat] = process.epoch(self.part)
            port = self.kvm.add(f"l1.{seat}", rig.below(seat)[0], partial(rig.end, seat))
            node = Node(self.config(seat), process.directory(self.part), process.runtime, process.nursery)
            process.nursery.start_soon(node.actor.run)
            await node.bring_up([rig.seats[seat].level], [port])
            self._nodes |= dict.fromkeys(node.config.seats, node)
            process.directory(self.part).add(f"node.{seat}", node.actor)
            process.cast(node.actors)
            process.locks.append(node.locks)
            process.collector.attach(
                self.arch.name, "nested", node.ledger, Live(node.books), depth=self.scenario.depth
            )
            for number in node.config.seats:
                await node.actor.ask(Boot(number, process.epoch(self.part)))

    # -- what it is asked

    def _handle(self, message: object) -> object:
        match message:
            case words.ResetHost(seat) if 0 <= seat < self.scenario.l1.count:
                return issue("reset", seat)
            case words.GuestDoes(child, act):
                return issue("act", replace(act, guest=self.guests.guest_of(child)))
            case words.Audit():
                return self.audit()
            case words.Guests(seat) if seat in self._nodes:
                return self._nodes[seat].guests(seat)
            case words.Counted():
                return self.counted()
        raise RemoteProtocolError("kind", f"not asked of a machine: {type(message).__name__}")

    def _perform(self, effect: Effect, deliver: Deliver) -> None:
        assert isinstance(effect, Issue)
        (argument,) = effect.arguments
        if effect.operation == "act":
            self.l0.host.port.submit(argument, deliver)
            return
        name = f"l1.{argument}"
        step: partial[Step[None]] = partial(self.rig.reset, argument, self.comparison.reboot)
        self.kvm.actor.submit(Control(name, step), deliver, name)

    def counted(self) -> dict[str, int]:
        """What L0 counted, and hosts in this very process."""
        total: Counter[str] = Counter()
        ledgers = {id(node.ledger): node.ledger for node in self._nodes.values()}
        for ledger in (self.ledger, *ledgers.values()):
            for counts in ledger.phases().values():
                total.update(counts)
        return dict(total)

    def audit(self) -> dict[str, Any]:
        """The books of L0 against the machine, and what the machine holds."""
        return {
            "leaks": [str(leak) for leak in self.rig.leaks()],
            "remains": dict(self.rig.remains()),
            "children": sum(self.service.statistics().children.values()),
            "seated": len(self._seated),
        }

    def numbers(self) -> dict[str, int]:
        """What the supervisor's table shows."""
        exits = sum(n for key, n in self.ledger.counts().items() if key[0] == "exits")
        held = self.rig.remains()
        return {"exits": exits, **held, "violations": sum(self.violations.values())}

    def books(self) -> Iterator[Book]:
        yield from self.rig.books()
        yield self.l0.book
        yield from self.owners.books.values()

    def actors(self) -> Iterator[tuple[str, Actor]]:
        yield "te", self.te.actor
        yield "kvm", self.kvm.actor
        yield "broker", self.broker.actor
        yield from self.l0.actors()


def _now_ms() -> int:
    return int(trio.current_time() * 1000)


async def _one_frame(stream: trio.SocketStream) -> object:
    decoder = FrameDecoder(HELLO_BYTES)
    while data := await stream.receive_some(HELLO_BYTES):
        for frame in decoder.feed(data):
            return frame
    raise RemoteProtocolError("truncated", "no frame came")


async def machine(process: Process, part: Part) -> None:
    """Be this machine until the process ends."""
    made = Machine(process, part)
    await made.bring_up()
    if process.deployment.placement == "together":
        await made.seat_here()
    else:
        await made.serve_seats()
    process.ready(part, f"epoch {process.epoch(part)}", made.numbers)
    with suppress(OperationalError):
        await trio.sleep_forever()
