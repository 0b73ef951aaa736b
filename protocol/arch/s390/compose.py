"""Put a machine and its guest hosts together in one process, at any depth.

Depth 0 is the machine itself: K hosts are K machines, with one host key and one source of handles. At depth
d there is one machine; L0 initialises its Ultravisor as a host does and runs L1, which does the same and
runs L2, and so on. The K siblings sit side by side on the last hypervisor. The hosts at the keyboard have
the memory, the CPUs and the limits that were asked for at every depth, so whatever lies below them is
larger.

Frames are handed out scattered, by seed: contiguity would hide mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.linked import LinkedUltravisor, Server
from protocol.arch.s390.machine import Handles, Machine
from protocol.arch.s390.profiles import MIB, Profile
from protocol.arch.s390.structs import EXECUTED, INIT, block
from protocol.effects import Step, run
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import Hypervisor, scattered
from protocol.plan.operations import LevelSwap
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested, Strategy

    Level = Machine | Nested

TWO_GIB = 1 << 31
FIRST_FREE = 256  # frames: the first MiB of every host is its own
SCRATCH = 0x10000  # where a hypervisor that boots builds its control block
RESETS = ("modified-clear", "load-normal", "load-clear")
SOFTWARE_CPUS = 2  # of L0, for guests of its own beside guest hosts
MAX_DEPTH = 8
MAX_HOSTS = 64


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
    machines: list[Machine]
    chain: list[Hypervisor[Any]] = field(default_factory=list)
    strategy: Strategy | None = None
    apart: bool = False
    levels: list[Level] = field(default_factory=list)  # what the hypervisors of the chain stand on

    def below(self, seat: int) -> tuple[Server, ...]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine."""
        return tuple(Server(level) for level in (self.seats[seat].level, *reversed(self.levels)))

    @property
    def own_cpus(self) -> range:
        """CPUs of L0 that no guest host runs on: those of its own software."""
        count = len(self.machines[0].cpus)
        return range(count - SOFTWARE_CPUS, count)

    def below_l0(self) -> tuple[Server, ...]:
        """The same for L0's own software, where there are hypervisors above."""
        return (Server(self.levels[0]),)

    def seen(self, level: Level | LinkedUltravisor) -> Any:
        """`level` as its host meets it: itself, or, where levels live apart, by messages."""
        if not self.apart or isinstance(level, LinkedUltravisor):
            return level
        return LinkedUltravisor(level, level.cpus)

    def reset(self, seat: int, kind: str) -> Step[None]:
        """A reset of the host on `seat` (diag 308). Calls of its that are parked have ended before."""
        level = self.seats[seat].level
        if kind not in RESETS:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(RESETS)}")
        if isinstance(level, Machine):
            level.reset(clear_memory=kind == "load-clear")
        else:
            yield from level.reset(clear_memory=kind == "load-clear")

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place."""
        place = self.seats[seat]
        if isinstance(place.level, Machine):
            place.level.reset(clear_memory=True)
            return
        yield from place.level.death()
        self.seat_anew(seat)

    def seat_anew(self, seat: int) -> None:
        """A fresh guest host takes the place of one that is dead."""
        place = self.seats[seat]
        place.lives += 1
        for cpu in place.cpus:
            cpu.reset()
        place.level = _guest_host(self, place.cpus, place.number, place.lives, place.memory_bytes)

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset(clear_memory=True)
            return
        yield from level.death(cause)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """The level below puts other frames under secure pages of the host; returns how many it did."""
        from protocol.arch.s390.nesting.memory import swap

        level, done = self.seats[seat].level, 0
        assert not isinstance(level, Machine), "nobody is below L0"
        held = np.flatnonzero(level.page_owner)
        for frame in held[event.picks(held.size)].tolist():
            done += yield from swap(level, frame)
        return done

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """Destroy pages that an asynchronous teardown of the host left over; returns how many are left."""
        from protocol.arch.s390.nesting.teardown import some_leftovers

        level = self.seats[seat].level
        assert not isinstance(level, Machine), "nobody is below L0"
        return (yield from some_leftovers(level, pages))

    def leaks(self) -> list[Any]:
        """The books of every level held against the one below: what only one of the two has."""
        from protocol.arch.s390.audit import leaks

        return leaks(self)

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        """What guests hold in the machine, by kind."""
        found = {"configs": 0, "cpus": 0, "pages": 0}
        for machine in self.machines:
            found["configs"] += len(machine.configs)
            found["cpus"] += len(machine.secure_cpus)
            found["pages"] += int(np.count_nonzero(machine.owner))
        return found

    def books(self) -> Iterator[Book]:
        """What each level keeps about its guest hosts."""
        for level in (*self.levels, *(seat.level for seat in self.seats)):
            if not isinstance(level, Machine | LinkedUltravisor):
                yield level.book


def compose(
    profile: Profile,
    depth: int = 0,
    hosts: int = 1,
    memory_bytes: int | None = None,
    cpus: int | None = None,
    seed: int = 0,
    strategy: Strategy | None = None,
    ledger: Ledger | None = None,
    apart: bool = False,
    spare: int = 0,
) -> Rig:
    """`hosts` secure hosts at `depth`, with all that lies below; L0 has `spare` bytes more than that takes.

    Raises ValueError for what cannot be.
    """
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    count = profile.cpus if cpus is None else cpus
    _allowed(depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger(), [], strategy=strategy, apart=apart)
    if depth == 0:
        handles = Handles(seed)  # as if they were siblings on one machine
        for number in range(hosts):
            own = _cpus(count)
            machine = Machine(profile, memory, own, CALLS, rig.ledger, seed, handles=handles)
            rig.machines.append(machine)
            rig.seats.append(Seat(number, machine, own, memory))
        return rig
    _below(rig, hosts, memory, count, spare)
    for number in range(hosts):
        own = _cpus(count)
        rig.seats.append(Seat(number, _guest_host(rig, own, number, 1, memory), own, memory))
    return rig


def _allowed(depth: int, hosts: int, memory: int, cpus: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth {depth}: allowed are 0 to {MAX_DEPTH}")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts: allowed are 1 to {MAX_HOSTS}")
    if memory < MIB or memory % PAGE:
        raise ValueError(f"memory of {memory} bytes: allowed are whole pages, at least {MIB} bytes")
    if cpus < 1:
        raise ValueError(f"{cpus} CPUs: allowed is 1 or more")


def _cpus(count: int) -> list[Cpu]:
    return [Cpu(number, running=number == 0) for number in range(count)]


def _below(rig: Rig, hosts: int, memory: int, cpus: int, spare: int) -> None:
    """The machine and the hypervisors L0 to L(depth - 1), each initialised and ready to run the next."""
    sizes, counts, wide = _stack(rig.profile, rig.depth, hosts, memory, cpus, spare)
    machine = Machine(wide, sizes[0], _cpus(counts[0]), CALLS, rig.ledger, rig.seed)
    rig.machines.append(machine)
    level: Level = machine
    for number in range(rig.depth):
        if number:
            level = _guest_host(rig, _cpus(counts[number]), 0, 1, sizes[number], wide)
        rig.levels.append(level)
        rig.chain.append(run(_hypervisor(rig, number, level, level)))


def _stack(
    profile: Profile, depth: int, hosts: int, memory: int, cpus: int, spare: int
) -> tuple[list[int], list[int], Profile]:
    """Memory and CPUs of L0 to L(depth - 1), and the profile that carries the hosts at the top."""
    sizes = [_size(profile, hosts * room(profile, memory, cpus, profile.max_configs, memory))]
    counts = [hosts * (cpus + 1)]  # one for each CPU of a sibling, one for the hypervisor's own work on it
    for _ in range(depth - 1):
        carried = room(profile, sizes[-1], counts[-1], profile.max_configs * hosts, memory)
        sizes.append(_size(profile, carried))
        counts.append(counts[-1] + 1)
    if spare:
        sizes[-1] += -(-spare // MIB) * MIB
        counts[-1] += SOFTWARE_CPUS
    sizes.reverse()
    counts.reverse()
    return sizes, counts, profile.below(hosts, sizes[0])


def _hypervisor(rig: Rig, number: int, level: Level, seen: Any) -> Step[Hypervisor[Any]]:
    """Boot L(number): initialise its Ultravisor with one CPU running; the rest of it is for its guests.

    `seen` is the level as its boot reaches it.
    """
    profile = level.profile
    base = (level.size - profile.base_len) // MIB * MIB
    issuer = Issuer(seen, level.cpus[0], SCRATCH)
    outcome = yield from issuer.uvc(block(0x48, 0x000F, INIT, base, profile.base_len))
    assert outcome.rc == EXECUTED, f"L{number} cannot initialise its Ultravisor: {outcome}"
    for cpu in level.cpus:
        cpu.running = True
    return Hypervisor(number, rig.seen(level), Pool(FIRST_FREE, (base >> PAGE_SHIFT) - FIRST_FREE))


# -- in two processes: L0 with its machine, and L1 with everything above it ---------------------


def lower(
    profile: Profile,
    depth: int,
    hosts: int,
    memory_bytes: int,
    cpus: int,
    seed: int,
    strategy: Strategy | None = None,
    ledger: Ledger | None = None,
    spare: int = 0,
) -> Rig:
    """L0's half of a composition with `hosts` at `depth` >= 1: its seats are L1's, whatever runs there."""
    if depth == 1:
        return compose(profile, 1, hosts, memory_bytes, cpus, seed, strategy, ledger, apart=True, spare=spare)
    rig = Rig(profile, 1, seed, [], ledger or Ledger(), [], strategy=strategy, apart=True)
    sizes, counts, wide = _stack(profile, depth, hosts, memory_bytes, cpus, spare)
    machine = Machine(wide, sizes[0], _cpus(counts[0]), CALLS, rig.ledger, seed)
    rig.machines.append(machine)
    rig.levels.append(machine)
    rig.chain.append(run(_hypervisor(rig, 0, machine, machine)))
    own = _cpus(counts[1])
    rig.seats.append(Seat(0, _guest_host(rig, own, 0, 1, sizes[1], wide), own, sizes[1]))
    return rig


def upper(
    level: LinkedUltravisor,
    profile: Profile,
    depth: int,
    hosts: int,
    memory_bytes: int,
    cpus: int,
    seed: int,
    strategy: Strategy | None,
    ledger: Ledger,
) -> Step[Rig]:
    """The other half, on `level` of L1: at depth 1 the host itself, above it L1's hypervisor and so on."""
    rig = Rig(profile, depth, seed, [], ledger, [], strategy=strategy, apart=True)
    if depth == 1:
        rig.seats.append(Seat(0, level, list(level.cpus), memory_bytes))  # type: ignore[arg-type]
        return rig
    base: Any = level
    sizes, counts, base.profile = _stack(profile, depth, hosts, memory_bytes, cpus, 0)
    for number in range(1, depth):
        if number > 1:
            base = _guest_host(rig, _cpus(counts[number]), 0, 1, sizes[number], level.profile)
        rig.levels.append(base)
        rig.chain.append((yield from _hypervisor(rig, number, base, base)))
    for number in range(hosts):
        own = _cpus(cpus)
        rig.seats.append(Seat(number, _guest_host(rig, own, number, 1, memory_bytes), own, memory_bytes))
    return rig


def _guest_host(
    rig: Rig, own: list[Cpu], number: int, life: int, memory: int, profile: Profile | None = None
) -> Nested:
    """A fresh guest host on the last hypervisor of the chain."""
    from protocol.arch.s390.nesting import Nested

    below = rig.chain[-1]
    place = f"{below.level + 1}.{number}.{life}"
    frames = scattered(below.pool, memory >> PAGE_SHIFT, Random(f"{rig.seed}:frames:{place}"))
    if life > 1:  # others have used them
        below.memory.clear(frames)
    width = len(own) + 1
    kvm = below.memory.cpus[number * width : (number + 1) * width]
    strategy = rig.strategy
    if strategy is not None and profile is not None and profile is not rig.profile:
        strategy = strategy.for_hypervisor()
    return Nested(
        below, frames, own, kvm, CALLS, profile or rig.profile, rig.ledger, strategy, rig.seed, place
    )


# -- how large a level has to be ---------------------------------------------------------------


def _size(profile: Profile, carried: int) -> int:
    """Bytes of a host whose guest hosts take `carried` bytes; its own donation lies above 2 GiB."""
    need = (FIRST_FREE << PAGE_SHIFT) + carried + profile.base_len + MIB
    return -(-max(need, TWO_GIB + profile.base_len) // MIB) * MIB


def room(profile: Profile, memory: int, cpus: int, configs: int, largest: int) -> int:
    """Bytes that one guest host takes of the level below: its memory, what is lent for it, shadows of its
    guests.

    Its guests are at most `configs` of at most `largest` bytes. What is lent is as much as it donates, so
    never more than its memory. Shadows (SIE blocks, data pages, tables, SCAs) are bounded by that, too; a
    guest host that fills its memory with nothing but CPUs would need more, and finds no resources left.
    """
    guest_mib = -(-min(profile.max_storage, largest) // MIB)
    guests = min(configs, memory // profile.conf_base_len + 1)
    numbers = profile.max_cpu_id + 1
    lent = guests * (
        profile.conf_base_len + profile.variable_len(guest_mib * MIB) + numbers * profile.cpu_len
    )
    tables = 4 + 4 * (guest_mib // 2048 + 2) + guest_mib // 2 + 2
    shadows = guests * (4 + tables + 2 * numbers) * PAGE
    issuing = 4 * (cpus + 1) * PAGE + 64 * PAGE
    return memory + min(lent, memory) + min(shadows, memory + memory // 8) + issuing + MIB
