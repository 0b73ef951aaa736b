"""The nested path with its guest hosts in processes of their own, dealt to them in turn.

The same operations, the same counts: L0, its machine and its emulations are in this process; software and
hypervisors above are in the nodes. Each node counts what happens there; at the end the sums are those of
one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from actors.apart import ApartL1, ApartNode, Remote, settle, start_node
from actors.compare.stage import EVERYTHING, SWEPT, Json, Parts, reclaimed
from actors.kvm import Kvm
from actors.node import Above, Boot, End, NodeConfig, Phase, SwapUnder, Tally, Traces
from actors.runtime.actor import Actor
from actors.runtime.transport.pki import Authority
from actors.runtime.transport.tls import Exchange, Peer
from actors.te import TrustedEntity
from protocol.codec import Codec
from protocol.hosting import Service
from protocol.nesting.sizes import sizes_of
from protocol.plan import operations as op
from protocol.roles import HOSTS, MACHINE
from protocol.trace.join import Piece
from protocol.tracking import Book

MIB = 1 << 20


class GuestHostsElsewhere:
    """The nested path over `processes` processes: this one, and at least one more."""

    hosting: Service | None = None

    def __init__(self, parts: Parts, processes: int) -> None:
        self._parts = parts
        self._sizes = sizes_of(parts.scenario, parts.scenario.depth)
        self.rig: Any = parts.comparison.lower(self._sizes, parts.ledger)
        self.te = TrustedEntity(self.rig.below(0)[-1], parts.runtime)
        self.kvm = Kvm("l0.kvm", self.te.actor, parts.runtime)
        nodes = min(processes - 1, len(self.rig.seats))
        self._dealt = [range(first, len(self.rig.seats), nodes) for first in range(nodes)]
        self._nodes: list[ApartNode] = []
        self._node_of: dict[int, ApartNode] = {}
        self._lives = [0] * self._sizes.hosts
        self._left_over: set[int] = set()
        self._keys: TemporaryDirectory[str] | None = None

    def actors(self) -> Iterator[tuple[str, Actor]]:
        """Those of this process: guest hosts and their guests are the others'."""
        yield "te", self.te.actor
        yield "kvm", self.kvm.actor

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the processes; every host comes up in its own."""
        codec = Codec(self._parts.comparison.wire)
        remote = await self._reached(nursery) if self._parts.scenario.transport == "tcp" else None
        for number, dealt in enumerate(self._dealt):
            name = f"node-{number}"
            l1s = []
            for place, seat in enumerate(dealt):
                expected = None
                if remote is not None:
                    expected = remote.exchange.expect(f"{name}.{place}", Peer(HOSTS, name))
                l1s.append(settle(self.rig, seat, self.kvm, f"l1.{seat}", codec, stream=expected))
            seats = tuple(dealt) if self._parts.scenario.depth == 1 else tuple(range(len(self._lives)))
            for l1 in l1s:
                l1.link.tracer = self._parts.tracer
            node = await start_node(nursery, self._config(seats, l1s), l1s, self.kvm, name, remote)
            node.control.tracer = self._parts.tracer
            self._nodes.append(node)
            self._node_of |= dict.fromkeys(seats, node)
        for host in range(len(self._lives)):
            await self._boot(host)
        if self._parts.scenario.depth > 1:  # L1's hypervisor came up by messages, which belong to no phase
            self.rig.stands()

    async def _reached(self, nursery: trio.Nursery) -> Remote:
        """Take links over TLS on the loopback, under an authority of this run alone."""
        self._keys = TemporaryDirectory(prefix="nestbed-")
        authority = Authority.create(Path(self._keys.name), days=1)
        exchange = Exchange(authority.issue(MACHINE, "l0", ["127.0.0.1"]))
        return Remote(exchange, authority, await exchange.listen(nursery, "127.0.0.1"))

    def _config(self, seats: tuple[int, ...], l1s: list[ApartL1]) -> NodeConfig:
        scenario = self._parts.scenario
        first = self.rig.seats[0]
        return NodeConfig(
            arch=self._parts.arch,
            depth=scenario.depth,
            seats=seats,
            l1_frames=l1s[0].file.frames,
            l1_cpus=len(first.cpus),
            memory_bytes=self._sizes.memory_bytes,
            cpus=scenario.l1.cpus,
            profile=scenario.profile,
            seed=scenario.seed,
            strategy=dict(self._sizes.strategy),
            image_pages=scenario.guest.image_pages,
            image=scenario.guest.image,
            proves=bool(scenario.run.attestations),
            traced=0 if self._parts.tracer is None else len(self._nodes) + 1,
        )

    async def _boot(self, host: int) -> None:
        self._lives[host] += 1
        await self._node_of[host].tell(Boot(host, self._lives[host]))

    async def enter_phase(self, name: str) -> None:
        """From now on everybody counts in this phase."""
        for node in self._nodes:
            await node.tell(Phase(name))

    async def perform(self, host: int, operation: op.Operation | op.Event) -> None:
        node = self._node_of[host]
        match operation:
            case op.LevelSwap():
                await self._swap(host, operation)
            case op.Reboot():
                await node.tell(End(host))
                await self._below(host, "reset")
                await self._boot(host)
            case op.Death():
                await node.tell(End(host))
                await self._below(host, "end")
            case op.Operation():
                await self._sweep(host, EVERYTHING if isinstance(operation, op.Shutdown) else SWEPT)
                await node.control.ask(f"host.{host}", operation)
            case _:
                raise ValueError(f"no act of a host elsewhere: {operation}")

    async def _swap(self, host: int, event: op.LevelSwap) -> None:
        if self._parts.scenario.depth > 1:
            await self._node_of[host].tell(SwapUnder(host, event))
        else:
            await self.kvm.control(f"l1.{host}", lambda: self.rig.swap(host, event))

    async def _below(self, host: int, what: str) -> None:
        """What the hypervisor below a host does to it: L0's is here, any other lives with its guest hosts."""
        if what == "reset" and self._sizes.strategy["teardown"] == "async":
            self._left_over.add(host)
        if self._parts.scenario.depth > 1:
            await self._node_of[host].tell(Above(host, what))
        elif what == "reset":
            kind = self._parts.comparison.reboot
            await self.kvm.control(f"l1.{host}", lambda: self.rig.reset(host, kind))
        else:
            self.kvm.gone(f"l1.{host}", "l1_crash")
            await reclaimed(self.kvm, f"l1.{host}")

    async def _sweep(self, host: int, pages: int) -> None:
        if host not in self._left_over:
            return
        if self._parts.scenario.depth > 1:
            left = await self._node_of[host].tell(Above(host, "sweep", pages))
        else:
            left = await self.kvm.control(f"l1.{host}", lambda: self.rig.sweep(host, pages))
        if not left:
            self._left_over.discard(host)

    async def tally(self) -> list[Json]:
        """What every node counted."""
        return [await node.tell(Tally()) for node in self._nodes]

    async def traces(self) -> list[list[Piece]]:
        """What was traced in every node, fetched frame by frame."""
        return [await self._traces_of(node) for node in self._nodes]

    async def _traces_of(self, node: ApartNode) -> list[Piece]:
        found: list[Piece] = []
        while part := await node.tell(Traces(len(found))):
            found += [Piece(*piece) for piece in part]
        return found

    async def close(self) -> None:
        for node in self._nodes:
            node.child.kill()
            await node.gone(self.kvm)
        if self._keys is not None:
            self._keys.cleanup()

    def books(self) -> Iterable[Book]:
        return tuple(self.rig.books())
