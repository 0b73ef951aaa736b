"""Put a machine and its guest hosts together in one process, at any depth.

Depth 0 is the machine itself: K hosts are K machines of one seed. At depth d there is one machine; L0 runs
L1, which runs L2, and so on, and the K siblings sit side by side on the last hypervisor. The hosts at the
keyboard have the memory, the CPUs, the secure memory and the LPIDs that were asked for at every depth, so
whatever lies below them is larger. Memory is handed out in pages of 64 KiB, scattered by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.linked import LinkedPef, Server
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import SMALL_PAGES
from protocol.arch.pef.profiles import CPUS, MEMORY_MIB, MIB, MIN_MEMORY_MIB, V1, Profile
from protocol.arch.pef.tables import PAGE
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import Hypervisor
from protocol.plan.operations import LevelSwap
from protocol.tracking import Book

MAX_DEPTH = 8
MAX_HOSTS = 64
RESETS = ("system",)
FIRST_FREE = 16 * SMALL_PAGES  # frames: the first MiB of every host is its own

Level = Machine | Nested


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its CPUs, its memory."""

    number: int
    level: Level
    cpus: list[Cpu]
    memory_bytes: int
    lives: int = 1  # how many hosts have sat here, one after the other


@dataclass(slots=True)
class Rig:
    """A composition. `chain` has the hypervisors from L0 up; at depth 0 there are none."""

    profile: Profile
    depth: int
    seed: int
    seats: list[Seat]
    ledger: Ledger
    machines: list[Machine] = field(default_factory=list)
    chain: list[Hypervisor[Any]] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)  # what the hypervisors of the chain stand on
    reflected: bool = True
    api: str = V1  # of nesting
    apart: bool = False  # what is asked of the level below goes by message

    def below(self, seat: int) -> tuple[Server, ...]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine."""
        return tuple(Server(level) for level in (self.seats[seat].level, *reversed(self.levels)))

    def seen(self, level: Level) -> Any:
        """`level` as its host meets it: itself, or, where levels live apart, by messages."""
        if not self.apart:
            return level
        return LinkedPef(level, level.cpus, level.profile, level.tpm_public())

    @property
    def own_cpus(self) -> range:
        """CPUs of L0 for software of its own beside its guest hosts: none are set apart."""
        return range(0)

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset(clear_memory=True)
        else:
            yield from level.death(cause)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """Nothing of a guest host is secure memory, so no level here swaps any."""
        raise ValueError("a level below swaps no secure pages on POWER: guest hosts have none")

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """A teardown here leaves nothing for later."""
        yield from ()
        return 0

    def leaks(self) -> list[Any]:
        """The books of every level held against the ultravisor's: what only one of the two has."""
        from protocol.arch.pef.audit import leaks

        return leaks(self)

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.memory.exposed(needle)]

    def remains(self) -> dict[str, int]:
        """What guests and their hosts hold in the machine, by kind."""
        found = {"svms": 0, "units": 0, "records": 0}
        for machine in self.machines:
            found["svms"] += len(machine.svms)
            found["units"] += machine.secure.units - machine.secure.free_units
        for level in (*self.levels, *(seat.level for seat in self.seats)):
            if isinstance(level, Nested):
                found["records"] += len(level.records)
        return found

    def reset(self, seat: int, kind: str) -> Step[None]:
        """The host on `seat` reboots."""
        if kind not in RESETS:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(RESETS)}")
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        else:
            yield from level.reset()

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place."""
        place = self.seats[seat]
        place.lives += 1
        if isinstance(place.level, Machine):
            place.level.reset(clear_memory=True)
            return
        yield from place.level.death()
        for cpu in place.cpus:
            cpu.reset()
        place.level = _guest_host(self, place.cpus, place.number, place.lives, place.memory_bytes)

    def books(self) -> Iterator[Book]:
        """What each level keeps about its guest hosts."""
        for level in (*self.levels, *(seat.level for seat in self.seats)):
            if isinstance(level, Nested):
                yield level.book


def compose(
    profile: Profile,
    depth: int = 0,
    hosts: int = 1,
    memory_bytes: int | None = None,
    cpus: int | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
    reflected: bool = True,
    apart: bool = False,
    api: str | None = None,
) -> Rig:
    """`hosts` secure hosts at `depth`. Raises ValueError for what cannot be."""
    memory = MEMORY_MIB * MIB if memory_bytes is None else memory_bytes
    count = CPUS if cpus is None else cpus
    _allowed(depth, hosts, memory, count)
    reflected = reflected and profile.reflected
    rig = Rig(
        profile, depth, seed, [], ledger or Ledger(), reflected=reflected, apart=apart, api=api or profile.api
    )
    if depth == 0:
        for number in range(hosts):
            own = _cpus(count)
            machine = Machine(profile, memory, own, CALLS, rig.ledger, seed, number)
            rig.machines.append(machine)
            rig.seats.append(Seat(number, machine, own, memory))
        return rig
    _below(rig, hosts, memory, count)
    for number in range(hosts):
        own = _cpus(count)
        rig.seats.append(Seat(number, _guest_host(rig, own, number, 1, memory), own, memory))
    return rig


def _allowed(depth: int, hosts: int, memory: int, cpus: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth {depth}: allowed are 0 to {MAX_DEPTH}")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts: allowed are 1 to {MAX_HOSTS}")
    if memory < MIN_MEMORY_MIB * MIB or memory % PAGE:
        raise ValueError(f"memory of {memory} bytes: allowed are whole pages, at least {MIN_MEMORY_MIB} MiB")
    if cpus < 1:
        raise ValueError(f"{cpus} CPUs: allowed is 1 or more")


def _cpus(count: int) -> list[Cpu]:
    return [Cpu(number) for number in range(count)]


def _below(rig: Rig, hosts: int, memory: int, cpus: int) -> None:
    """The machine and the hypervisors L0 to L(depth - 1)."""
    wide = rig.profile.below(hosts)
    sizes, counts = [_room(memory, hosts)], [hosts * (cpus + 1)]
    for _ in range(rig.depth - 1):
        sizes.insert(0, _room(sizes[0], 1))
        counts.insert(0, counts[0] + 1)
    machine = Machine(wide, sizes[0], _cpus(counts[0]), CALLS, rig.ledger, rig.seed)
    rig.machines.append(machine)
    level: Level = machine
    for number in range(rig.depth):
        if number:
            level = _guest_host(rig, _cpus(counts[number]), 0, 1, sizes[number], wide)
        rig.levels.append(level)
        frames = level.size >> PAGE_SHIFT
        rig.chain.append(Hypervisor(number, rig.seen(level), Pool(FIRST_FREE, frames - FIRST_FREE)))


def _room(memory: int, hosts: int) -> int:
    """Bytes of a hypervisor that carries `hosts` of `memory` bytes.

    Shadow tables take no more than the guest host's own tables do, which are in its memory.
    """
    return hosts * 2 * memory + 16 * MIB


def _guest_host(
    rig: Rig, own: list[Cpu], number: int, life: int, memory: int, profile: Profile | None = None
) -> Nested:
    """A fresh guest host on the last hypervisor of the chain."""
    below = rig.chain[-1]
    place = f"{below.level + 1}.{number}.{life}"
    frames = _scattered(below.pool, memory // PAGE, Random(f"{rig.seed}:frames:{place}"))
    if life > 1:  # others have used them
        below.memory.clear(frames)
    width = len(own) + 1
    kvm = below.memory.cpus[number * width : (number + 1) * width]
    its = profile or rig.profile
    lpids = range(1 + number * (its.lpids - 1), 1 + (number + 1) * (its.lpids - 1))
    return Nested(below, frames, own, kvm, CALLS, its, rig.ledger, lpids, rig.reflected, rig.api)


def _scattered(pool: Pool, pages: int, random: Random) -> np.ndarray:
    """Frames of `pages` pages of 64 KiB: each page is in one piece below, no two are neighbours by intent."""
    try:  # one run is quick to take
        firsts = pool.take_run(pages * SMALL_PAGES) + SMALL_PAGES * np.arange(pages)
    except OutOfFrames:
        firsts = np.array([pool.take_run(SMALL_PAGES) for _ in range(pages)], np.int64)
    np.random.default_rng(random.getrandbits(64)).shuffle(firsts)
    return (firsts[:, None] + np.arange(SMALL_PAGES)).ravel()
