"""Put a machine and its hosts together in one process.

Depth 0 is the machine itself: K hosts are K machines. Guest hosts are not composed yet: a depth above 0 is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.profiles import MIB, Profile
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.store import PAGE

Level = Machine

MAX_DEPTH = 0
MAX_HOSTS = 64


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its CPUs, its memory."""

    number: int
    level: Level
    cpus: list[Cpu]
    memory_bytes: int


@dataclass(slots=True)
class Rig:
    """A composition."""

    profile: Profile
    depth: int
    seed: int
    seats: list[Seat]
    ledger: Ledger
    machines: list[Machine]

    def reset(self, seat: int) -> Step[None]:
        """The power cycle of the host on `seat`."""
        yield from ()
        self.seats[seat].level.reset()

    def guest_key(self, seat: int, context: int) -> bytes:
        """The message key of VMPL0 of an SNP guest, which has it from its secrets page:

        a console plays that guest.
        """
        found = self.machines[seat].platform.contexts[context // PAGE]
        return found.vmpcks[0]

    def kill(self, seat: int) -> Step[None]:
        """A machine that dies is powered on again."""
        return self.reset(seat)


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
    _allowed(depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger(), [])
    for number in range(hosts):
        own = [Cpu(n) for n in range(count)]
        machine = Machine(profile, memory, own, CALLS, rig.ledger, seed + number)
        rig.machines.append(machine)
        rig.seats.append(Seat(number, machine, own, memory))
    return rig


def _allowed(depth: int, hosts: int, memory: int, cpus: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth {depth}: allowed is 0 (guest hosts of this architecture are not built yet)")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts: allowed are 1 to {MAX_HOSTS}")
    if memory < 2 * MIB or memory % PAGE:
        raise ValueError(f"memory of {memory} bytes: allowed are whole pages, at least {2 * MIB} bytes")
    if cpus < 1:
        raise ValueError(f"{cpus} CPUs: allowed is 1 or more")
