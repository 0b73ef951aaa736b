"""Put a machine and its guest hosts together on s390: `protocol.nesting.composition` says how.

At depth 0 the K machines have one source of handles, as if their hosts were siblings on one. A hypervisor
initialises its Ultravisor as a host does. Frames are handed out scattered, by seed: contiguity would hide
mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.s390.audit import leaks
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.linked import LinkedUltravisor, Server
from protocol.arch.s390.machine import Handles, Machine
from protocol.arch.s390.profiles import MIB, Profile
from protocol.arch.s390.structs import EXECUTED, INIT, block
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting import composition
from protocol.nesting.composition import SOFTWARE_CPUS, Seat, Storey, Wanted
from protocol.nesting.guest_host import Hypervisor, scattered
from protocol.plan.operations import LevelSwap

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested, Strategy

    Level = Machine | Nested

TWO_GIB = 1 << 31
FIRST_FREE = 256  # frames: the first MiB of every host is its own
SCRATCH = 0x10000  # where a hypervisor that boots builds its control block
RESETS = ("modified-clear", "load-normal", "load-clear")


@dataclass(slots=True)
class Rig(composition.Rig[Hypervisor[Any]]):
    """A composition on s390."""

    resets = RESETS

    strategy: Strategy | None = None
    handles: Handles | None = field(default=None, repr=False)

    def check(self, wanted: Wanted) -> None:
        composition.Rig.check(self, wanted)
        if wanted.memory < MIB or wanted.memory % PAGE:
            raise ValueError(
                f"memory of {wanted.memory} bytes: allowed are whole pages, at least {MIB} bytes"
            )

    def cpus_of(self, count: int) -> list[Cpu]:
        return [Cpu(number, running=number == 0) for number in range(count)]

    def machine(self, number: int, storey: Storey, cpus: list[Cpu]) -> Machine:
        if self.handles is None:
            self.handles = Handles(self.seed)
        return Machine(storey.profile, storey.size, cpus, CALLS, self.ledger, self.seed, handles=self.handles)

    def storeys(self, wanted: Wanted) -> list[Storey]:
        hosts, memory, cpus, spare = wanted
        profile = self.profile
        sizes = [_size(profile, hosts * room(profile, memory, cpus, profile.max_configs, memory))]
        counts = [
            hosts * (cpus + 1)
        ]  # one for each CPU of a sibling, one for the hypervisor's own work on it
        for _ in range(self.depth - 1):
            carried = room(profile, sizes[-1], counts[-1], profile.max_configs * hosts, memory)
            sizes.append(_size(profile, carried))
            counts.append(counts[-1] + 1)
        if spare:
            sizes[-1] += -(-spare // MIB) * MIB
            counts[-1] += SOFTWARE_CPUS
        wide = profile.below(hosts, sizes[-1])
        return [Storey(size, count, wide) for size, count in zip(sizes[::-1], counts[::-1], strict=True)]

    def hypervisor(self, number: int, level: Any, wanted: Wanted) -> Step[Hypervisor[Any]]:
        """Initialise its Ultravisor with one CPU running; the rest of it is for its guests."""
        profile = level.profile
        base = (level.size - profile.base_len) // MIB * MIB
        issuer = Issuer(level, level.cpus[0], SCRATCH)
        outcome = yield from issuer.uvc(block(0x48, 0x000F, INIT, base, profile.base_len))
        assert outcome.rc == EXECUTED, f"L{number} cannot initialise its Ultravisor: {outcome}"
        for cpu in level.cpus:
            cpu.running = True
        return Hypervisor(number, self.seen(level), Pool(FIRST_FREE, (base >> PAGE_SHIFT) - FIRST_FREE))

    def guest_host(self, own: list[Cpu], number: int, life: int, storey: Storey) -> Nested:
        from protocol.arch.s390.nesting import Nested  # where there is one: a start is quick

        below = self.chain[-1]
        place = f"{below.level + 1}.{number}.{life}"
        frames = scattered(below.pool, storey.size >> PAGE_SHIFT, Random(f"{self.seed}:frames:{place}"))
        if life > 1:  # others have used them
            below.memory.clear(frames)
        width = len(own) + 1
        kvm = below.memory.cpus[number * width : (number + 1) * width]
        strategy = self.strategy
        if strategy is not None and storey.profile is not self.profile:
            strategy = strategy.for_hypervisor()
        return Nested(below, frames, own, kvm, CALLS, storey.profile, self.ledger, strategy, self.seed, place)

    def linked(self, level: Any) -> LinkedUltravisor:
        return LinkedUltravisor(level, level.cpus)

    def served(self, level: Any) -> Server:
        return Server(level)

    def reset_level(self, level: Level, kind: str) -> Step[None]:
        """A reset of a host is diag 308."""
        if isinstance(level, Machine):
            level.reset(clear_memory=kind == "load-clear")
        else:
            yield from level.reset(clear_memory=kind == "load-clear")

    def power_off(self, machine: Machine) -> None:
        machine.reset(clear_memory=True)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        from protocol.arch.s390.nesting.memory import swap

        level, done = self.seats[seat].level, 0
        assert not isinstance(level, Machine), "nobody is below L0"
        held = np.flatnonzero(level.page_owner != 0)
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
        return leaks(self)

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        found = {"configs": 0, "cpus": 0, "pages": 0}
        for machine in self.machines:
            found["configs"] += len(machine.configs)
            found["cpus"] += len(machine.secure_cpus)
            found["pages"] += int(np.count_nonzero(machine.owner))
        return found


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
    rig = Rig(profile, depth, seed, ledger or Ledger(), apart, strategy=strategy)
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    rig.build(Wanted(hosts, memory, profile.cpus if cpus is None else cpus, spare))
    return rig


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


__all__ = ["RESETS", "Rig", "Seat", "compose", "room"]
