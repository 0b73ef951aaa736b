"""Put a machine and its hosts together in one process.

Depth 0 is the machine itself: K hosts are K machines of one seed each. The hosts at the keyboard have the
memory, the CPUs and the KeyIDs that were asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.cpu import Lp
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.profiles import MIB, MIN_MEMORY_MIB, Profile
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.store import PAGE

MAX_DEPTH = 0
MAX_HOSTS = 64
RESETS = ("boot",)


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its LPs, its memory."""

    number: int
    level: Machine
    lps: list[Lp]
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
        """The host on `seat` restarts. Calls of its that are parked have ended before."""
        if kind not in RESETS:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(RESETS)}")
        self.seats[seat].level.reset()
        yield from ()

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place."""
        place = self.seats[seat]
        place.lives += 1
        place.level.reset()
        yield from ()


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
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    count = profile.cpus if cpus is None else cpus
    _allowed(profile, depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger())
    for number in range(hosts):
        own = lps(profile, count)
        machine = Machine(profile, memory, own, CALLS, rig.ledger, seed + number)
        rig.machines.append(machine)
        rig.seats.append(Seat(number, machine, own, memory))
    return rig


def lps(profile: Profile, count: int) -> list[Lp]:
    """The LPs of a host, in its packages one after the other."""
    return [Lp(number, number * profile.packages // count) for number in range(count)]


def _allowed(profile: Profile, depth: int, hosts: int, memory: int, cpus: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth {depth}: allowed are 0 to {MAX_DEPTH}")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts: allowed are 1 to {MAX_HOSTS}")
    if memory < MIN_MEMORY_MIB * MIB or memory % PAGE:
        raise ValueError(f"memory of {memory} bytes: allowed are whole pages, at least {MIN_MEMORY_MIB} MiB")
    if cpus < profile.packages:
        raise ValueError(f"{cpus} CPUs: allowed is at least one for each of {profile.packages} packages")
