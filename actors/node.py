"""A process that holds a guest host and what is above it: L1 with its software, or its hypervisor and L2.

It is started with four things that it inherits: a link to L0's hypervisor, a connection for accesses that
trap, the file of its RAM, and a link to whoever drives the run. Messages carry calls and exits; memory is
the mapping. When the link to L0 ends, this host's machine is gone, and the process ends.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import trio

from actors.host import SecureHost
from actors.kvm import Kvm
from actors.ram import RamFile
from actors.remote_memory import RemoteMemory
from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.link import Link
from actors.runtime.port import Directory, Port
from actors.runtime.transport.unix import adopt, adopt_blocking
from protocol.arch import load
from protocol.codec import Codec
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.plan import operations as op

TRAP_S = 5.0  # an access that traps is answered sooner, or L0 is gone
OPERATIONS = (
    op.Pages, op.BootHost, op.Shutdown, op.Create, op.Load, op.Start, op.Touch, op.Share, op.Exits, op.Change,
    op.Swap, op.Reset, op.Destroy, op.Kill,
)  # fmt: skip
COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Which host lives here. Memory in bytes, of the host at `depth`; `frames` are those of L1."""

    arch: str
    depth: int
    frames: int
    l1_cpus: int
    memory_bytes: int
    cpus: int
    profile: str
    seed: int
    image_pages: int
    pages: str = "two_fault"

    def text(self) -> str:
        return json.dumps(asdict(self))


def control_codec() -> Codec:
    """What the driver of a run and a node say to each other."""
    return Codec(OPERATIONS)


async def serve(
    config: NodeConfig, kvm: trio.abc.Stream, control: trio.abc.Stream, memory: RemoteMemory
) -> None:
    """Live until L0 or the driver is gone."""
    comparison = load(config.arch).comparison
    assert comparison is not None
    codec = Codec(comparison.wire)
    directory = Directory()
    below = Link(kvm, encode=codec.encode, decode=codec.decode)
    driver_codec = control_codec()
    driver = Link(control, directory.serve, encode=driver_codec.encode, decode=driver_codec.decode)
    async with trio.open_nursery() as nursery, open_runtime() as runtime:

        async def until_the_end(link: Link) -> None:
            await link.run()
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_the_end, below)
        ledger = Ledger()
        directory.add(COUNTS, Actor(COUNTS, lambda _: ledger.flat(), runtime))
        host = await _bring_up(config, comparison, memory, below.port("kvm"), ledger, runtime)
        directory.add("host", host.port)
        nursery.start_soon(until_the_end, driver)
        await trio.sleep_forever()


async def _bring_up(
    config: NodeConfig, comparison: Any, memory: RemoteMemory, below: Port, ledger: Ledger, runtime: Runtime
) -> SecureHost:
    """Compose what is above L1, with L1 standing on messages; returns the host at the top."""
    level = comparison.linked(memory, config.l1_cpus)
    starter = SecureHost("l1", lambda step: step, below, runtime)
    step: Step[Any] = comparison.upper(
        level, config.profile, config.depth, config.memory_bytes, config.cpus, config.seed, ledger
    )
    rig = await starter.perform(step)
    port = below
    for number in range(1, config.depth):
        kvm = Kvm(f"l{number}.kvm", port, runtime)
        serve = rig.below(0)[config.depth - 1 - number]
        port = kvm.add(f"l{number + 1}", serve, lambda cause: rig.end(0, cause))
    software = comparison.software(
        rig,
        0,
        Random(f"{config.seed}:node"),
        pages=config.pages,
        bulk=False,
        image=comparison.image(config.seed, config.image_pages, None),
    )
    return SecureHost(f"l{config.depth}", software.perform, port, runtime)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m actors.node`: started by a supervisor, not by a person."""
    parser = argparse.ArgumentParser(prog="python -m actors.node", description=__doc__)
    parser.add_argument("--config", required=True, help="one JSON object, see NodeConfig")
    for name in ("kvm", "traps", "control", "ram"):
        parser.add_argument(f"--{name}", type=int, required=True, help="an inherited descriptor")
    given = parser.parse_args(arguments)
    config = NodeConfig(**json.loads(given.config))
    memory = RemoteMemory(RamFile.attach(given.ram, config.frames), adopt_blocking(given.traps, TRAP_S))

    async def run() -> None:
        await serve(config, adopt(given.kvm), adopt(given.control), memory)

    trio.run(run)


if __name__ == "__main__":
    main()
