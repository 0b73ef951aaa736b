"""Twelve processes and ten thousand secure guests: a machine, and eleven guest hosts in their own processes.

Each guest has 1 MiB and one CPU, is loaded, verified and started through its host's own process, the link to
L0 and the Ultravisor there, and then has nothing to do. What is told is the memory of all processes together:
proportional set sizes, so pages that several map count once; RAM files and secure pages are in. Beside it
stands what the whole may take.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from actors.deployment import words
from actors.deployment.linked import linked
from actors.deployment.parts import parts_of
from actors.deployment.place import Place
from actors.deployment.process import Assignment
from actors.deployment.settings import Deployment, scenario_of
from actors.deployment.supervise import Deployed
from benchmarks.progress import Progress
from benchmarks.run import Case
from protocol.plan.operations import BootHost, Create, Destroy, Load, Operation, Start

HOSTS = 11
GUESTS = 10_000
ROOM = 2 << 30  # bytes that all of it may take
AT_ONCE = 4  # guests of one host that come up at the same time
OPERATION_S = 120.0
COMES_UP_S = 180.0
SET = {
    "profile": "full",
    "guest.memory_mib": "1",
    "guest.vcpus": "1",
    "guest.image_pages": "2",
    "guest.touch_pages": "1",
    "guest.share_pages": "1",
    "run.swap_pages": "0",
    "run.page_changes": "0",
    "run.level_swaps": "0",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What it took. Bytes and seconds."""

    processes: int
    guests: int
    before: int  # bytes of the processes before the first guest
    memory: int
    seconds: float
    left: dict[str, int]  # what the machine still holds when all are destroyed


def proportional(pids: Iterable[int]) -> int:
    """Bytes of these processes in memory, shared pages divided by those who share them."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
    return total


def deployment_of(hosts: int, guests: int) -> Deployment:
    each = -(-guests // hosts)
    memory = 2200 + 9 * each // 4  # a guest is 1 MiB, what is donated for it another, and its tables
    sizes = SET | {"l1.count": str(hosts), "guest.per_l1": str(each), "l1.memory_mib": str(memory)}
    return Deployment.model_validate({"load": None, "set": sizes})


async def _lived(deployed: Deployed, hosts: int, guests: int) -> Found:
    pids = [seen.life.process.pid for seen in deployed.seen.values() if seen.life is not None]
    pids += [os.getpid(), deployed.forker.pid or os.getpid()]
    place, each = deployed.assignment.place, guests // hosts
    done, said = count(1), Progress("guests", 4 * guests + hosts, "operations")

    async def on(host: int, operations: Iterable[Operation]) -> None:
        async with linked(place.control(f"l0-0.l1-{host}")) as link:
            for operation in operations:
                await link.ask(f"host.{host}", operation, timeout_s=OPERATION_S)
                said(next(done))

    async def all_of(host: int, *kinds: type) -> None:
        async with trio.open_nursery() as nursery:
            for first in range(AT_ONCE):
                numbers = range(first, each + (host < guests % hosts), AT_ONCE)
                made = (
                    kind(number, 1, 1) if kind is Create else kind(number)
                    for number in numbers
                    for kind in kinds
                )
                nursery.start_soon(on, host, made)

    for host in range(hosts):
        await on(host, [BootHost()])
    before, began = proportional(pids), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for host in range(hosts):
            nursery.start_soon(all_of, host, Create, Load, Start)
    seconds, memory = time.perf_counter() - began, proportional(pids)
    async with linked(place.control("l0-0")) as link:
        held = await link.ask(words.MACHINE, words.Audit(), timeout_s=OPERATION_S)
        assert not held["leaks"], held["leaks"]
        assert held["remains"]["configs"] == guests, held["remains"]
    async with trio.open_nursery() as nursery:
        for host in range(hosts):
            nursery.start_soon(all_of, host, Destroy)
    async with linked(place.control("l0-0")) as link:
        left = (await link.ask(words.MACHINE, words.Audit(), timeout_s=OPERATION_S))["remains"]
    return Found(len(pids) - 2, guests, before, memory, seconds, left)


async def held(hosts: int = HOSTS, guests: int = GUESTS) -> Found:
    """Bring it all up, look, and take it down."""
    with TemporaryDirectory() as folder:
        place = Place(Path(folder) / "run")
        place.prepare()
        deployment = deployment_of(hosts, guests)
        parts = parts_of(deployment, hosts)
        assignment = Assignment(deployment, scenario_of(deployment).scenario, parts, place, Path(), {})
        deployed = Deployed(assignment, lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployed.run)
            with trio.fail_after(COMES_UP_S):
                await deployed.ready.wait()
            found = await _lived(deployed, hosts, guests)
            nursery.cancel_scope.cancel()
        return found


def told(found: Found) -> str:
    """All of it in a line."""
    came = f"{found.processes} processes, {found.guests:,} guests in {found.seconds:.0f} s"
    return f"{came}: {found.before >> 20:,} MiB before them, {found.memory >> 20:,} MiB with them"


def memory() -> float:
    found = trio.run(held)
    print(told(found), file=sys.stderr)
    return found.memory / (1 << 20)


def cases() -> Iterable[Case]:
    yield Case("memory of 10,000 secure guests in 12 processes", "MiB", memory, lambda: ROOM / (1 << 20))


if __name__ == "__main__":
    all_of_it = trio.run(held)
    print(told(all_of_it))
    sys.exit(all_of_it.memory >= ROOM or any(all_of_it.left.values()))
