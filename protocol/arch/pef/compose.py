"""Put a machine and its guest hosts together on POWER: `protocol.nesting.composition` says how.

The hosts at the keyboard have the secure memory and the LPIDs that were asked for at every depth, so whatever
lies below them has more. Memory is handed out in pages of 64 KiB, scattered by seed. What is spare lies
at the end of L0's memory, for guests of its own, which have as much secure memory and as many LPIDs as all
hosts at the top together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from protocol.arch.pef.audit import leaks
from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.kvm.own import NOTHING, Own
from protocol.arch.pef.linked import LinkedPef, Server
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import SMALL_PAGES, Lpids
from protocol.arch.pef.profiles import CPUS, MEMORY_MIB, MIB, MIN_MEMORY_MIB, V1, Profile
from protocol.arch.pef.tables import PAGE
from protocol.arch.pef.tpm import Tpm
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting import composition
from protocol.nesting.composition import SOFTWARE_CPUS, Seat, Storey, Wanted
from protocol.nesting.guest_host import Hypervisor

RESETS = ("system",)
FIRST_FREE = 16 * SMALL_PAGES  # frames: the first MiB of every host is its own

Level = Machine | Nested


@dataclass(slots=True)
class Rig(composition.Rig[Hypervisor[Any]]):
    """A composition on POWER. `api` is the nesting API of its levels; see `Profile` for `reflected`.

    `own` is what L0 has for guests of its own beside its guest hosts.
    """

    reflected: bool = True
    api: str = V1
    own: Own = field(default=NOTHING)
    lpids: dict[tuple[int, int], Lpids] = field(default_factory=dict)  # of each seat of a level

    resets = RESETS

    def check(self, wanted: Wanted) -> None:
        composition.Rig.check(self, wanted)
        if wanted.memory < MIN_MEMORY_MIB * MIB or wanted.memory % PAGE:
            least = f"whole pages, at least {MIN_MEMORY_MIB} MiB"
            raise ValueError(f"memory of {wanted.memory} bytes: allowed are {least}")

    def cpus_of(self, count: int) -> list[Cpu]:
        return [Cpu(number) for number in range(count)]

    def machine(self, number: int, storey: Storey, cpus: list[Cpu]) -> Machine:
        return Machine(storey.profile, storey.size, cpus, CALLS, self.ledger, self.seed, number)

    def storeys(self, wanted: Wanted) -> list[Storey]:
        """Each level has a CPU more than those that its guest hosts run on: for its own work on them."""
        hosts, memory, cpus, spare = wanted
        wide = self.profile.below(hosts)
        below = [Storey(_room(memory, hosts), hosts * (cpus + 1), wide)]
        for _ in range(self.depth - 1):
            below.insert(0, Storey(_room(below[0].size, 1), below[0].cpus + 1, wide))
        if spare:
            l0, twice = below[0], wide.below(2)
            end = l0.size + -(-spare // PAGE) * PAGE
            self.own = Own(range(l0.size, end), range(wide.lpids, twice.lpids))
            below[0] = Storey(end, l0.cpus + SOFTWARE_CPUS, twice)
        return below

    def hypervisor(self, number: int, level: Any, wanted: Wanted) -> Step[Hypervisor[Any]]:
        """It boots without a call: the ultravisor is up, and memory is its own."""
        yield from ()
        size = level.size - (0 if number else len(self.own.memory))
        return Hypervisor(number, self.seen(level), Pool(FIRST_FREE, (size >> PAGE_SHIFT) - FIRST_FREE))

    def guest_host(self, own: list[Cpu], number: int, life: int, storey: Storey) -> Nested:
        """Its share of LPIDs and CPUs is that of its seat."""
        below = self.chain[-1]
        place = f"{below.level + 1}.{number}.{life}"
        frames = _scattered(below.pool, storey.size // PAGE, Random(f"{self.seed}:frames:{place}"))
        if life > 1:  # others have used them
            below.memory.clear(frames)
        width = len(own) + 1
        kvm = below.memory.cpus[number * width : (number + 1) * width]
        its: Profile = storey.profile
        lpids = self._lpids_of(below.level, number, its.lpids - 1)
        return Nested(below, frames, own, kvm, CALLS, its, self.ledger, lpids, self.reflected, self.api)

    def _lpids_of(self, level: int, number: int, share: int) -> Lpids:
        """Those of a seat on a level: who takes the seat next finds what the last one gave back."""
        seat = level, number
        if seat not in self.lpids:
            self.lpids[seat] = Lpids(range(1 + number * share, 1 + (number + 1) * share))
        return self.lpids[seat]

    def build_upper(self, level: Any, wanted: Wanted) -> Step[None]:
        """L1 in another process knows the machine's TPM as its owner does: here, by the seed."""
        level.tpm = Tpm(self.seed).public
        yield from composition.Rig.build_upper(self, level, wanted)

    def linked(self, level: Any) -> LinkedPef:
        return LinkedPef(level, level.cpus, level.profile, level.tpm_public())

    def served(self, level: Any) -> Server:
        return Server(level)

    def power_off(self, machine: Machine) -> None:
        machine.reset(clear_memory=True)

    def leaks(self) -> list[Any]:
        return leaks(self)

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        found = {"svms": 0, "units": 0, "records": 0}
        for machine in self.machines:
            found["svms"] += len(machine.svms)
            found["units"] += machine.secure.units - machine.secure.free_units
        found["records"] = sum(len(level.records) for level in self.emulations())
        found["lpids"] = sum(lpids.given for lpids in self.lpids.values())
        return found


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
    rig = Rig(
        profile,
        depth,
        seed,
        ledger or Ledger(),
        apart,
        reflected=reflected and profile.reflected,
        api=api or profile.api,
    )
    rig.build(Wanted(hosts, memory, count))
    return rig


def _room(memory: int, hosts: int) -> int:
    """Bytes of a hypervisor that carries `hosts` of `memory` bytes.

    Shadow tables take no more than the guest host's own tables do, which are in its memory.
    """
    return hosts * 2 * memory + 16 * MIB


def _scattered(pool: Pool, pages: int, random: Random) -> np.ndarray:
    """Frames of `pages` pages of 64 KiB: each page is in one piece below, no two are neighbours by intent."""
    try:  # one run is quick to take
        firsts = pool.take_run(pages * SMALL_PAGES) + SMALL_PAGES * np.arange(pages)
    except OutOfFrames:
        firsts = np.array([pool.take_run(SMALL_PAGES) for _ in range(pages)], np.int64)
    np.random.default_rng(random.getrandbits(64)).shuffle(firsts)
    return (firsts[:, None] + np.arange(SMALL_PAGES)).ravel()


__all__ = ["RESETS", "Level", "Rig", "Seat", "compose"]
