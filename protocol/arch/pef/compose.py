"""Put a machine and its hosts together in one process.

Depth 0 is the machine itself: K hosts are K machines. The hosts at the keyboard have the memory, the CPUs and
the secure memory that were asked for at every depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.profiles import CPUS, MEMORY_MIB, MIB, MIN_MEMORY_MIB, Profile
from protocol.arch.pef.tables import PAGE
from protocol.effects import Step
from protocol.ledger import Ledger

MAX_DEPTH = 0
MAX_HOSTS = 64
RESETS = ("system",)


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its CPUs, its memory."""

    number: int
    level: Machine
    cpus: list[Cpu]
    memory_bytes: int
    lives: int = 1  # how many hosts have sat here, one after the other


@dataclass(slots=True)
class Rig:
    """A composition."""

    profile: Profile
    depth: int
    seed: int
    seats: list[Seat]
    ledger: Ledger
    machines: list[Machine] = field(default_factory=list)

    def reset(self, seat: int, kind: str) -> Step[None]:
        """The host on `seat` reboots."""
        if kind not in RESETS:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(RESETS)}")
        yield from ()
        self.seats[seat].level.reset()

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place."""
        place = self.seats[seat]
        place.lives += 1
        yield from ()
        place.level.reset(clear_memory=True)


def compose(
    profile: Profile,
    depth: int = 0,
    hosts: int = 1,
    memory_bytes: int | None = None,
    cpus: int | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> Rig:
    """`hosts` secure hosts at `depth`. Raises ValueError for what cannot be."""
    memory = MEMORY_MIB * MIB if memory_bytes is None else memory_bytes
    count = CPUS if cpus is None else cpus
    _allowed(depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger())
    for number in range(hosts):
        own = [Cpu(which) for which in range(count)]
        machine = Machine(profile, memory, own, CALLS, rig.ledger, seed)
        rig.machines.append(machine)
        rig.seats.append(Seat(number, machine, own, memory))
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
