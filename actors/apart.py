"""L0's side of a guest host in a process of its own: its RAM file, its traps, its link, and its death.

The machine, its Trusted Entity and L0's hypervisor live here; the guest host, its software and its own
guests over there. The end of the child, for whatever reason, is the sudden death of that guest host: L0
reclaims everything.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from actors.kvm import Kvm
from actors.node import NodeConfig, control_codec
from actors.ram import MachineRam, RamFile
from actors.remote_memory import TrapServer
from actors.runtime.actor import Runtime
from actors.runtime.link import Link
from actors.runtime.port import Directory
from actors.runtime.process import Child, start
from actors.runtime.transport.unix import Pair
from actors.te import TrustedEntity
from protocol.arch import load
from protocol.codec import Codec
from protocol.errors import RemoteProtocolError
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT

RECEIVE_BYTES = 1 << 16
HOST = "l1"


class ApartHost:
    """One guest host elsewhere. `control` reaches its software: `control.ask("host", operation)`."""

    def __init__(self, rig: Any, kvm: Kvm, child: Child, control: Link, ram: MachineRam) -> None:
        self.rig = rig
        self.kvm = kvm
        self.child = child
        self.control = control
        self._ram = ram

    async def gone(self) -> None:
        """Wait until nothing of it is left, its process included."""
        done = trio.Event()
        self.kvm.watch(HOST, lambda _: done.set())
        await self.child.ended.wait()
        await done.wait()
        self.rig.seats[0].level.moved_out()
        self._ram.close()


async def start_apart(
    nursery: trio.Nursery,
    runtime: Runtime,
    arch: str,
    depth: int,
    memory_bytes: int,
    cpus: int,
    seed: int,
    image_pages: int,
    ledger: Ledger,
    profile: str = "small",
) -> ApartHost:
    """A machine here, and on it a guest host in a process of its own, with what is above it up to `depth`."""
    comparison: Any = load(arch).comparison
    rig = comparison.lower(profile, depth, memory_bytes, cpus, seed, ledger)
    seat = rig.seats[0]
    frames = seat.memory_bytes >> PAGE_SHIFT
    file = RamFile.create(frames)
    ram = MachineRam(rig.machines[0].storage, file, seat.level.slots.copy())
    seat.level.live_in(ram, file.attention)
    codec = Codec(comparison.wire)
    serve = rig.below(0)
    te = TrustedEntity(serve[-1], runtime)
    kvm = Kvm("l0.kvm", te.actor, runtime)
    directory = Directory()
    directory.add("kvm", kvm.add(HOST, serve[0], lambda cause: rig.end(0, cause)))
    pairs = {name: Pair() for name in ("kvm", "traps", "control")}
    link = Link(pairs["kvm"].stream(), directory.serve, encode=codec.encode, decode=codec.decode)
    words = control_codec()
    control = Link(pairs["control"].stream(), encode=words.encode, decode=words.decode)
    config = NodeConfig(arch, depth, frames, len(seat.cpus), memory_bytes, cpus, profile, seed, image_pages)
    command = [sys.executable, "-m", "actors.node", "--config", config.text()]
    child = await start(nursery, HOST, command, pairs, {"ram": file.fd})
    nursery.start_soon(_serve_traps, pairs["traps"].stream(), TrapServer(seat.level), child)
    nursery.start_soon(_until_death, link, kvm)
    nursery.start_soon(control.run)
    return ApartHost(rig, kvm, child, control, ram)


async def _until_death(link: Link, kvm: Kvm) -> None:
    """The end of the link is the death of the host, whoever caused it."""
    await link.run()
    kvm.gone(HOST, "l1_crash")


async def _serve_traps(stream: trio.SocketStream, server: TrapServer, child: Child) -> None:
    """Answer accesses that trap until the host ends, or sends what is none: then it is ended."""
    async with stream:
        try:
            while data := await stream.receive_some(RECEIVE_BYTES):
                await stream.send_all(server.feed(data))
        except RemoteProtocolError:
            child.kill()
        except trio.BrokenResourceError:
            pass  # the same as an end
