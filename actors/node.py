"""A process with guest hosts and what is above them: L1s with their software, or L1's hypervisor and L2s.

It is started with what it inherits: for each L1 a link to L0's hypervisor, a connection for accesses that
trap and the file of its RAM; and one link to whoever drives the run. Messages carry calls and exits, memory
is the mapping. When a link to L0 or to the driver ends, the machine or the run is gone, and this process
ends.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import trio

from actors.describe import describe
from actors.host import SecureHost, keeping_vmms
from actors.kvm import Control, Kvm
from actors.ram import RamFile
from actors.remote_memory import RemoteMemory
from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.link import Link
from actors.runtime.port import Deliver, Directory, Port
from actors.runtime.tracing import Tracer
from actors.runtime.transport.pki import Credentials
from actors.runtime.transport.tls import dial, only
from actors.runtime.transport.unix import adopt, adopt_blocking
from protocol.arch import load
from protocol.codec import Codec
from protocol.effects import Effect, Issue, Step, issue
from protocol.errors import OperationFailed
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.roles import DRIVER, MACHINE, may_ask
from protocol.trace.join import pieces
from protocol.tracking import Book, summary

TRAP_S = 60.0  # L0 says its first word and answers a trap sooner, or it hangs: its death ends links at once
NUMBERS = 1 << 40  # of spans for each process of a run
PIECES = 500  # of traces, in one frame
NODE = "node"  # the actor that the driver tells what is to happen to hosts
OPERATIONS = (
    op.Pages, op.BootHost, op.Shutdown, op.Create, op.Load, op.Start, op.Touch, op.Share, op.Exits, op.Change,
    op.Swap, op.Attest, op.AddSecret, op.Reset, op.Dump, op.Destroy, op.Kill,
    op.Certify, op.Leave, op.Unload, op.Carry, op.Arrive,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phase:
    """Count in this phase from now on."""

    name: str


@dataclass(frozen=True, slots=True)
class Boot:
    """The host on `seat` comes up: new software, its life number `life`."""

    seat: int
    life: int


@dataclass(frozen=True, slots=True)
class End:
    """The host on `seat` is gone, with whatever it was doing."""

    seat: int


@dataclass(frozen=True, slots=True)
class Above:
    """The hypervisor in this node does something to the guest host on `seat`: reset, end, sweep `pages`."""

    seat: int
    what: str
    pages: int = 0


@dataclass(frozen=True, slots=True)
class SwapUnder:
    """The hypervisor in this node puts other frames under secure pages of the guest host on `seat`."""

    seat: int
    event: op.LevelSwap


@dataclass(frozen=True, slots=True)
class Tally:
    """Say what was counted here: counts by phase, contention, and peaks of books by holder."""


@dataclass(frozen=True, slots=True)
class Traces:
    """Say what was traced here, from piece `first` on, as much as fits a frame."""

    first: int


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Which hosts live here. Memory in bytes, of a host at `depth`; `l1_frames` and `l1_cpus`: of each L1.

    At depth 1 each of `seats` is an L1; above it there is one L1, which carries all of them.
    """

    arch: str
    depth: int
    seats: tuple[int, ...]
    l1_frames: int
    l1_cpus: int
    memory_bytes: int
    cpus: int
    profile: str
    seed: int
    strategy: dict[str, str]
    image_pages: int
    image: str | None = None
    proves: bool = False  # guests will be asked for evidence
    traced: int = 0  # the number of this process among those whose messages are followed; 0: they are not

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> NodeConfig:
        given = json.loads(text)
        return cls(**given | {"seats": tuple(given["seats"])})


class Inherited(NamedTuple):
    """What a node has of one L1: descriptors."""

    kvm: int
    traps: int
    ram: int


def control_codec() -> Codec:
    """What the driver of a run and a node say to each other."""
    return Codec((*OPERATIONS, Phase, Boot, End, Above, SwapUnder, op.LevelSwap, Tally, Traces))


class Node:
    """The hosts of this process, and the actor that the driver speaks to."""

    def __init__(
        self, config: NodeConfig, directory: Directory, runtime: Runtime, nursery: trio.Nursery
    ) -> None:
        self._nursery = nursery
        self.config = config
        self._directory = directory
        self._runtime = runtime
        comparison = load(config.arch).comparison
        assert comparison is not None, f"{config.arch} has no comparison"
        self.comparison: Any = comparison
        self.ledger = Ledger(comparison.prices.entry)
        self.actor = Actor(NODE, self._handle, runtime, perform=self._perform)
        self._top: Kvm | None = None
        data = None
        if config.image is not None:
            with open(config.image, "rb") as file:
                data = file.read()
        image = comparison.image(config.seed, config.image_pages, data)
        self._image = comparison.proving(image) if config.proves else image
        self._rigs: dict[int, tuple[Any, int, Port]] = {}  # seat -> its rig, its place there, who is below
        self._hosts: dict[int, SecureHost] = {}
        self._software: dict[int, Any] = {}
        self._books: dict[int, Book] = {}
        self.links: list[Link] = []  # to L0, one for each L1
        self.tracer: Tracer | None = None
        if config.traced:
            seed = f"{config.seed}:node"
            first = config.traced * NUMBERS
            self.tracer = Tracer(runtime, self.ledger.divert, describe, seed, first=first)

    async def bring_up(self, memories: Sequence[OwnMemory], below: Sequence[Port]) -> None:
        """Compose what is above each L1, which stands on messages."""
        config = self.config
        for number, (memory, port) in enumerate(zip(memories, below, strict=True)):
            seats = config.seats if config.depth > 1 else config.seats[number : number + 1]
            level = self.comparison.linked(memory, config.l1_cpus)
            sizes = Sizes(
                config.profile,
                config.depth,
                len(seats),
                config.memory_bytes,
                config.cpus,
                config.seed,
                config.strategy,
            )
            step: Step[Any] = self.comparison.upper(level, sizes, self.ledger)
            starter = SecureHost("l1", lambda step: step, port, self._runtime)
            rig = await starter.perform(step)
            top = self._top = self._hypervisors(rig, port)
            for place, seat in enumerate(seats):
                self._rigs[seat] = rig, place, self._port(rig, place, seat, top, port)

    def _hypervisors(self, rig: Any, port: Port) -> Kvm | None:
        """Those above L0: L1's, then those of the levels between."""
        kvm = None
        for number in range(1, self.config.depth):
            if kvm is not None:
                serve = rig.below(0)[self.config.depth - number]
                port = kvm.add(f"l{number}", serve, _never_ends)
            kvm = Kvm(f"l{number}.kvm", port, self._runtime)
        return kvm

    def _port(self, rig: Any, place: int, seat: int, top: Kvm | None, port: Port) -> Port:
        if top is None:
            return port
        return top.add(self._name(seat), rig.below(place)[0], lambda cause: rig.end(place, cause))

    def _name(self, seat: int) -> str:
        return f"l{self.config.depth}.{seat}"

    def _handle(self, message: object) -> object:
        match message:
            case Phase(name):
                self.ledger.phase = name
            case Boot(seat, life):
                self._end(seat)
                self._boot(seat, life)
            case End(seat):
                self._end(seat)
            case Above(seat, what, pages):
                return issue(what, seat, pages)
            case SwapUnder(seat, event):
                return issue("swap", seat, event)
            case Tally():
                return {
                    "phases": self.ledger.phases(),
                    "contention": dict(self.ledger.contention),
                    "tracking": self._tracking(),
                }
            case Traces(first):
                return self._traces(first)
            case _:
                raise OperationFailed(f"nothing that a node does: {type(message).__name__}")
        return None

    def _perform(self, effect: Effect, deliver: Deliver) -> None:
        """Have the topmost hypervisor of this node do something to one of its guest hosts."""
        assert isinstance(effect, Issue)
        seat, detail = effect.arguments
        rig, place, _ = self._rigs[seat]
        name = self._name(seat)
        if self._top is None:
            raise OperationFailed("no hypervisor lives here")
        if effect.operation == "end":
            self._top.watch(name, lambda _: deliver(None, None))
            self._top.gone(name, "l1_crash")
            return
        steps: dict[str, Callable[[], Step[Any]]] = {
            "swap": partial(rig.swap, place, detail),
            "sweep": partial(rig.sweep, place, detail),
            "reset": partial(rig.reset, place, self.comparison.reboot),
        }
        if effect.operation not in steps:
            raise OperationFailed(f"no act of a hypervisor: {effect.operation}")
        control = Control(name, steps[effect.operation])
        self._top.actor.submit(control, deliver, name)

    def _end(self, seat: int) -> None:
        """The host is gone; if there is none, nothing changes."""
        host = self._hosts.pop(seat, None)
        self._software.pop(seat, None)
        if host is not None:
            host.actor.stop()
            self._directory.remove(f"host.{seat}")
            self._books[seat].forget()

    def _boot(self, seat: int, life: int) -> None:
        config = self.config
        if seat not in self._rigs:
            raise OperationFailed(f"no seat {seat} here; there are {', '.join(map(str, self._rigs))}")
        rig, place, port = self._rigs[seat]
        book = self._books.setdefault(seat, Book(self.ledger, f"l{config.depth}"))
        name = self._name(seat)
        software = self.comparison.software(
            rig,
            place,
            Random(f"{config.seed}:{name}:{life}"),
            pages=config.strategy.get("pages", "two_fault"),
            bulk=False,
            image=self._image,
            book=book,
        )
        self._software[seat] = software
        host = self._hosts[seat] = SecureHost(name, keeping_vmms(software.perform, book), port, self._runtime)
        self._nursery.start_soon(host.actor.run)  # what it dies of, this process dies of
        self._directory.add(f"host.{seat}", host.port)

    def guests(self, seat: int) -> tuple[int, ...] | None:
        """The secure guests of a host here; None while there is no host."""
        software = self._software.get(seat)
        return None if software is None else tuple(sorted(software.guests))

    def _traces(self, first: int) -> list[Any]:
        every = [] if self.tracer is None else list(pieces(self.tracer.adopted.values()))
        return [list(piece) for piece in every[first : first + PIECES]]

    def books(self) -> list[Book]:
        """Every book here: hosts' own, and those of hypervisors."""
        rigs = {id(rig): rig for rig, _, _ in self._rigs.values()}
        return [book for rig in rigs.values() for book in rig.books()] + list(self._books.values())

    def locks(self) -> Iterator[tuple[str, str]]:
        """Who holds what in the levels that live here."""
        for rig in {id(rig): rig for rig, _, _ in self._rigs.values()}.values():
            yield from rig.locks()

    def actors(self) -> Iterator[tuple[str, Actor]]:
        """Whoever acts here, each with its role."""
        if self._top is not None:
            yield "kvm", self._top.actor
        for host in self._hosts.values():
            yield "host", host.actor

    def _tracking(self) -> list[Any]:
        """(holder, peaks by plane) of every book."""
        return [[book.holder, summary(book)] for book in self.books()]


def _never_ends(cause: str) -> Step[None]:
    raise AssertionError(f"a hypervisor of the chain ended: {cause}")


async def settle_in(
    config: NodeConfig,
    of_l1: Sequence[Inherited],
    directory: Directory,
    runtime: Runtime,
    nursery: trio.Nursery,
    gone: Callable[[], None],
    streams: Sequence[trio.abc.Stream] = (),
) -> Node:
    """Bring up hosts on what was inherited; `gone` is called when L0 is. `streams`: links that were not."""
    node = Node(config, directory, runtime, nursery)
    nursery.start_soon(node.actor.run)
    codec = Codec(node.comparison.wire)
    memories = [
        RemoteMemory(RamFile.attach(fds.ram, config.l1_frames), adopt_blocking(fds.traps, TRAP_S), codec)
        for fds in of_l1
    ]

    async def until_the_end(link: Link) -> None:
        await link.run()
        gone()

    over = streams or [adopt(fds.kvm) for fds in of_l1]
    node.links = [Link(stream, encode=codec.encode, decode=codec.decode, hello_s=TRAP_S) for stream in over]
    for link in node.links:
        link.tracer = node.tracer
        nursery.start_soon(until_the_end, link)
    await node.bring_up(memories, [link.port("kvm") for link in node.links])
    directory.add(NODE, node.actor)
    return node


async def serve(
    config: NodeConfig, of_l1: Sequence[Inherited], control: int, name: str = "node", dialled: str = ""
) -> None:
    """Live until L0 or the driver is gone."""
    directory = Directory()
    words = control_codec()
    streams = [await dial_home(dialled, f"{name}.{number}") for number in range(len(of_l1) if dialled else 0)]
    driven = await dial_home(dialled, f"{name}.control") if dialled else adopt(control)
    async with trio.open_nursery() as nursery, open_runtime() as runtime:
        stop = nursery.cancel_scope.cancel
        node = await settle_in(config, of_l1, directory, runtime, nursery, stop, streams)
        serve_driver = only(may_ask(DRIVER), directory.serve)
        driver = Link(driven, serve_driver, encode=words.encode, decode=words.decode)
        driver.tracer = node.tracer
        await driver.run()
        nursery.cancel_scope.cancel()


async def dial_home(dialled: str, ticket: str) -> trio.abc.Stream:
    """Open a link to the process that started this one."""
    host, port, *paths = json.loads(dialled)
    credentials = Credentials(*map(Path, paths))
    return await dial(host, port, credentials, MACHINE, ticket)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m actors.node`: started by whoever drives a run, not by a person."""
    parser = argparse.ArgumentParser(prog="python -m actors.node", description=__doc__)
    parser.add_argument("--config", required=True, help="one JSON object, see NodeConfig")
    parser.add_argument("--name", default="node", help="what this process is called in its certificate")
    parser.add_argument("--l1", action="append", required=True, help="KVM,TRAPS,RAM: descriptors of one L1")
    parser.add_argument("--control", type=int, default=-1, help="the descriptor of the driver's link")
    parser.add_argument(
        "--dial", default="", help="open the links instead: address, certificate, key, authority"
    )
    given = parser.parse_args(arguments)
    of_l1 = [Inherited(*map(int, text.split(","))) for text in given.l1]
    trio.run(serve, NodeConfig.read(given.config), of_l1, given.control, given.name, given.dial)


if __name__ == "__main__":
    main()
