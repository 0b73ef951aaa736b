"""L0's side of guest hosts in processes of their own: RAM files, traps, links, and their death.

The machine, its Trusted Entity and L0's hypervisor live here; guest hosts, their software and their own
guests over there. The end of a child, for whatever reason, is the sudden death of the guest hosts in it: L0
reclaims everything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.kvm import End, Kvm
from actors.node import NODE, NodeConfig, control_codec
from actors.ram import MachineRam, RamFile
from actors.remote_memory import TrapServer
from actors.runtime.link import Link
from actors.runtime.mailbox import Reply
from actors.runtime.port import Directory
from actors.runtime.process import Child, start
from actors.runtime.transport.pki import Authority
from actors.runtime.transport.tls import Exchange, Peer, only
from actors.runtime.transport.unix import Pair
from protocol.codec import Codec
from protocol.errors import RemoteProtocolError
from protocol.roles import HOSTS, may_ask

RECEIVE_BYTES = 1 << 16
COMES_UP_S = 120.0  # a node says hello when the hypervisors in it are up; if it ends before that, links end


@dataclass(slots=True)
class Remote:
    """Where nodes open their links over TCP with TLS, and the certificates that they get."""

    exchange: Exchange
    authority: Authority
    address: tuple[str, int] = ("", 0)

    def text(self, name: str) -> str:
        """What a node has to know: address, certificate, key, authority."""
        given = self.authority.issue(HOSTS, name)
        return json.dumps([*self.address, str(given.certificate), str(given.key), str(given.authority)])


@dataclass(slots=True)
class ApartL1:
    """One L1 elsewhere, as L0 holds it."""

    name: str
    level: Any
    ram: MachineRam
    file: RamFile
    codec: Codec
    link: Link
    kvm: Pair | None  # None: it is opened from there
    traps: Pair

    async def gone(self, kvm: Kvm, keeps_frames: Callable[[], bool] = lambda: False) -> None:
        """Wait until nothing of it is left at L0, and give its file back.

        `keeps_frames`: whether the next guest host on its seat gets the same frames.
        """
        reclaimed = Reply()
        kvm.watch(self.name, lambda notice: reclaimed.deliver(notice, None))
        await reclaimed.wait()
        if keeps_frames():
            self.ram.evict()
        self.level.moved_out()
        self.ram.close()


@dataclass(slots=True)
class ApartNode:
    """One process with L1s. `control` reaches its hosts: `control.ask("host.0", operation)`."""

    child: Child
    control: Link
    l1s: list[ApartL1] = field(default_factory=list)

    async def tell(self, message: object) -> Any:
        """Have something done to the hosts of this node."""
        return await self.control.ask(NODE, message)

    async def gone(self, kvm: Kvm) -> None:
        """Wait until nothing of its hosts is left, the process included."""
        await self.child.ended.wait()
        for l1 in self.l1s:
            await l1.gone(kvm)


def settle(
    rig: Any,
    seat: int,
    kvm: Kvm,
    name: str,
    codec: Codec,
    end: End | None = None,
    stream: trio.abc.Stream | None = None,
) -> ApartL1:
    """Give the L1 on `seat` its file, and a port to L0's hypervisor that only its link reaches.

    `end` is what L0 does when it is gone, if nobody else is to have its place. The link runs over `stream`,
    or over a pair of sockets of which the L1 inherits one.
    """
    level = rig.seats[seat].level
    file = RamFile.create(len(level.slots))
    ram = MachineRam(rig.machines[0].storage, file, level.slots.copy())
    level.live_in(ram, file.attention)
    directory = Directory()
    directory.add("kvm", kvm.add(name, rig.below(seat)[0], end or (lambda cause: rig.end(seat, cause))))
    pair = None if stream is not None else Pair()
    serve = only(may_ask(HOSTS), directory.serve)
    over = stream or (pair.stream() if pair is not None else None)
    assert over is not None
    link = Link(over, serve, encode=codec.encode, decode=codec.decode, hello_s=COMES_UP_S)
    return ApartL1(name, level, ram, file, codec, link, pair, Pair())


async def start_node(
    nursery: trio.Nursery,
    config: NodeConfig,
    l1s: list[ApartL1],
    kvm: Kvm,
    name: str = "node",
    remote: Remote | None = None,
) -> ApartNode:
    """Start the process of these L1s. It is killed when `nursery` ends.

    Its links are inherited, or with `remote` opened by it. RAM and traps are inherited either way: a guest
    host runs on its L0's machine.
    """
    words = control_codec()
    control = None if remote is not None else Pair()
    command = [sys.executable, "-m", "actors.node", "--config", config.text(), "--name", name]
    for l1 in l1s:
        command += [f"--l1={l1.kvm.theirs if l1.kvm else -1},{l1.traps.theirs},{l1.file.fd}"]
    if control is not None:
        command += ["--control", str(control.theirs)]
        stream: trio.abc.Stream = control.stream()
    else:
        assert remote is not None
        command += ["--dial", remote.text(name)]
        stream = remote.exchange.expect(f"{name}.control", Peer(HOSTS, name))
    pairs = [pair for l1 in l1s for pair in (l1.kvm, l1.traps) if pair is not None]
    pairs += [control] if control is not None else []
    child = await start(nursery, name, command, pairs, [l1.file.fd for l1 in l1s])
    link = Link(stream, encode=words.encode, decode=words.decode, hello_s=COMES_UP_S)
    node = ApartNode(child, link, l1s)
    if remote is not None:
        nursery.start_soon(_stop_expecting, child, remote, name)
    for l1 in l1s:
        nursery.start_soon(serve_traps, l1, child.kill)
        nursery.start_soon(until_death, l1, kvm)
    nursery.start_soon(node.control.run)
    return node


async def _stop_expecting(child: Child, remote: Remote, name: str) -> None:
    """Links of a process that ended before it opened them are at their end, too."""
    await child.ended.wait()
    await remote.exchange.forget(name)


async def until_death(l1: ApartL1, kvm: Kvm) -> None:
    """The end of the link is the death of the L1, whoever caused it."""
    await l1.link.run()
    kvm.gone(l1.name, "l1_crash")


async def serve_traps(l1: ApartL1, violated: Callable[[], None]) -> None:
    """Answer accesses that trap until the host ends, or sends what is none: then `violated` ends it."""
    server = TrapServer(l1.level, l1.codec)
    async with l1.traps.stream() as stream:
        try:
            while data := await stream.receive_some(RECEIVE_BYTES):
                await stream.send_all(server.feed(data))
        except RemoteProtocolError:
            violated()
        except trio.BrokenResourceError:
            pass  # the same as an end
