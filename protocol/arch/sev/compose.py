"""Put a machine and its guest hosts together on AMD: `protocol.nesting.composition` says how.

A hypervisor brings its platform up as a host does. The hosts at the keyboard have the ASIDs and the handles
that were asked for at every depth, so whatever lies below them has more. The memory of a guest host comes in
blocks of 2 MiB, scattered by seed: contiguity would hide mistakes. In the profile `scattered` no two of its
pages are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.sev.audit import leaks
from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.cpu import MFDM, RMP_BASE, RMP_END, SME, SNP_EN, SYSCFG, VM_HSAVE_PA, VMPL_EN, Cpu
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.asids import FlushLock
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.linked import LinkedSev, Server
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.profiles import MIB, Profile
from protocol.arch.sev.structs import CHIP_ID_LEN, PAGE, RMP_HEAD
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting import composition
from protocol.nesting.composition import SOFTWARE_CPUS, Seat, Storey, Wanted
from protocol.nesting.guest_host import Hypervisor

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

    Level = Machine | Nested

BLOCK = 2 * MIB
BLOCK_PAGES = BLOCK // PAGE
RMP_AT = BLOCK  # where a hypervisor of the chain puts its RMP
KERNEL = 8 * MIB  # of a hypervisor, behind its RMP: the trusted region and what its driver keeps
RESETS = ("power",)
SHADOWS = 16 * MIB  # for one guest host: shadow tables, control blocks, buffers


@dataclass(slots=True)
class Kvm(Hypervisor[Any]):
    """A hypervisor of the chain. Its pool is for software of its own, and the rest is dealt beforehand.

    `frames` are those of its guest hosts, seat by seat, and `pools` what emulation has for each: what one of
    them leaves in a frame is never met by another.
    """

    rmp: int = RMP_AT
    chip: bytes = b""
    lock: FlushLock = field(default_factory=FlushLock)
    frames: list[np.ndarray] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)

    def held(self) -> tuple[str, ...]:
        return tuple(self.lock.held())


@dataclass(slots=True)
class Rig(composition.Rig[Kvm]):
    """A composition on AMD."""

    max_depth = 4
    resets = RESETS

    def check(self, wanted: Wanted) -> None:
        composition.Rig.check(self, wanted)
        if wanted.memory < BLOCK or wanted.memory % MIB:
            raise ValueError(
                f"memory of {wanted.memory} bytes: allowed are whole MiB, at least {BLOCK // MIB}"
            )

    def cpus_of(self, count: int) -> list[Cpu]:
        return [Cpu(number) for number in range(count)]

    def machine(self, number: int, storey: Storey, cpus: list[Cpu]) -> Machine:
        return Machine(storey.profile, storey.size, cpus, CALLS, self.ledger, self.seed + number)

    def storeys(self, wanted: Wanted) -> list[Storey]:
        """Software of L0's own has as many ASIDs as all hosts at the top together."""
        hosts, memory, cpus, spare = wanted
        below = [Storey(_size(hosts, memory), hosts * cpus, self.profile.below(hosts))]
        for _ in range(self.depth - 1):
            above = below[0]
            below.insert(0, Storey(_size(1, above.size), above.cpus, above.profile.below(1)))
        if spare:
            l0 = below[0]
            size, profile = l0.size + -(-spare // BLOCK) * BLOCK, l0.profile.with_own(hosts, self.profile)
            below[0] = Storey(size, l0.cpus + SOFTWARE_CPUS, profile)
        return below

    def hypervisor(self, number: int, level: Any, wanted: Wanted) -> Step[Kvm]:
        """Its RMP, its platform, a save area for each CPU; the rest is for its guest hosts."""
        rmp_len = _rmp_len(level.size)
        kernel = [RMP_AT + rmp_len, RMP_AT + rmp_len + KERNEL]

        def allocate(length: int, align: int) -> int:
            at = -(-kernel[0] // align) * align
            kernel[0] = at + length
            assert kernel[0] <= kernel[1], "the kernel of a hypervisor has no memory left"
            return at

        driver = Driver(Hands(Seat(0, level, level.cpus, level.size), number + 1), allocate)
        for cpu in level.cpus:
            yield from driver.write_msr(cpu.number, RMP_BASE, RMP_AT)
            yield from driver.write_msr(cpu.number, RMP_END, RMP_AT + rmp_len - 1)
            yield from driver.write_msr(cpu.number, SYSCFG, SME | SNP_EN | VMPL_EN | MFDM)
        yield from driver.probe()
        for cpu in level.cpus:
            yield from driver.write_msr(cpu.number, VM_HSAVE_PA, allocate(PAGE, PAGE))
        chip = allocate(PAGE, PAGE)
        yield from driver.lent((chip,), "GET_ID", pa=chip, len=CHIP_ID_LEN)
        hosts, memory, *_ = wanted
        pools = [Pool((kernel[1] + host * SHADOWS) // PAGE, SHADOWS // PAGE) for host in range(hosts)]
        first = -(-(kernel[1] + hosts * SHADOWS) // BLOCK) * BLOCK_PAGES
        frames = self._scattered(number, first, hosts, memory // PAGE)
        free = max(first, *(int(one.max()) + 1 for one in frames))
        pool = Pool(free, level.size // PAGE - free)
        return Kvm(
            number,
            self.seen(level),
            pool,
            lock=FlushLock(self.ledger.contention),
            chip=driver.read(chip, CHIP_ID_LEN),
            frames=frames,
            pools=pools,
        )

    def _scattered(self, number: int, first: int, guests: int, pages: int) -> list[np.ndarray]:
        """Frames of the guest hosts, from frame `first` on: whole blocks in any order, or single pages."""
        mixer = np.random.default_rng(Random(f"{self.seed}:{number}").getrandbits(64))
        if self.profile.scattered:
            frames = first + mixer.permutation(guests * pages)
            while (np.diff(frames) == 1).any():
                here = np.flatnonzero(np.diff(frames) == 1)
                frames[here], frames[here - 1] = frames[here - 1].copy(), frames[here].copy()
            return np.split(frames, guests)
        each = -(-pages // BLOCK_PAGES)
        blocks = first + BLOCK_PAGES * mixer.permutation(guests * each)
        listed = (blocks[:, None] + np.arange(BLOCK_PAGES)).ravel()
        return [part[:pages] for part in np.split(listed, guests)]

    def guest_host(self, own: list[Cpu], number: int, life: int, storey: Storey) -> Nested:
        """Its share of frames, CPUs and ASIDs is that of its seat."""
        from protocol.arch.sev.nesting import Nested  # where there is one: a start is quick

        kvm = self.chain[-1]
        below, width = kvm.memory, len(own)
        return Nested(
            replace(kvm, pool=kvm.pools[number]),
            kvm.frames[number],
            own,
            below.cpus[number * width : (number + 1) * width],
            CALLS,
            storey.profile,
            self.ledger,
            self.seed * 1000 + kvm.level * self.max_hosts + number + 1,
            kvm.rmp,
            kvm.chip,
            share_of_asids(below.profile, storey.profile, number),
            kvm.lock,
        )

    @property
    def own_asids(self) -> range:
        """ASIDs for software of L0's own: those of a range behind the shares of its guest hosts."""
        guests = [level.profile for level in self.levels[1:2] or [seat.level for seat in self.seats]]
        l0: Profile = self.levels[0].profile
        if self.profile.kind != "sev":
            return range(1 + sum(one.min_sev_asid - 1 for one in guests), l0.min_sev_asid)
        shared = sum(one.asids - one.min_sev_asid + 1 for one in guests)
        return range(l0.min_sev_asid + shared, l0.asids + 1)

    def stands(self) -> None:
        """What is counted begins when the hosts at the top come up."""
        self.ledger.reset()

    def seated(self) -> None:
        """Levels between: pages of each host at the top stand in a book of their own.

        How many there were at once would else depend on the order between the hosts.
        """
        frames = self.chain[-1].frames
        between = takewhile(lambda level: not isinstance(level, Machine | LinkedSev), reversed(self.levels))
        for level in between:
            level.keep_apart(frames)
            frames = [level.slots[own] for own in frames]

    def linked(self, level: Any) -> LinkedSev:
        return LinkedSev(level, level.cpus)

    def served(self, level: Any) -> Server:
        return Server(level)

    def kill(self, seat: int) -> Step[None]:
        """A fresh host takes the place of the dead one, in the same frames."""
        level = self.seats[seat].level
        if self.is_machine(level):
            level.reset()
        else:
            yield from level.reset("l1_crash")

    def leaks(self) -> list[Any]:
        return list(leaks(self))

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        """Beside guests: what levels lent below for the hosts at the top."""
        found = {"sev_guests": 0, "gctx": 0, "secure_pages": 0, "lent_pages": 0}
        for machine in self.machines:
            found["sev_guests"] += len(machine.platform.guests)
            found["gctx"] += len(machine.platform.contexts)
            found["secure_pages"] += int(np.count_nonzero(machine.rmp.asid))
        for level in self.emulations():
            found["lent_pages"] += int(np.count_nonzero(level.real))
        return found

    def measurements(self) -> list[str]:
        """The launch digests of all guests on the machine, in hex."""
        found: list[bytes] = []
        for machine in self.machines:
            found += [guest.digest for guest in machine.platform.guests.values()]
            found += [guest.digest for guest in machine.platform.contexts.values()]
        return [digest.hex() for digest in found]

    def guest_key(self, seat: int, context: int) -> bytes:
        """The message key of VMPL0 of an SNP guest, which has it from its secrets page:

        a console plays that guest.
        """
        frame = self.machine_frame(seat, context // PAGE)
        return self.machines[seat if not self.depth else 0].platform.contexts[frame].vmpcks[0]  # type: ignore[no-any-return]

    def machine_frame(self, seat: int, frame: int) -> int:
        """Where a frame of the host on `seat` lies on the machine."""
        for level in (self.seats[seat].level, *reversed(self.levels)):
            if not isinstance(level, Machine):
                frame = level.frame_below(frame)
        return frame


def compose(
    profile: Profile,
    depth: int = 0,
    hosts: int = 1,
    memory_bytes: int | None = None,
    cpus: int | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
    apart: bool = False,
    spare: int = 0,
) -> Rig:
    """`hosts` secure hosts at `depth`, with all that lies below. Raises ValueError for what cannot be."""
    rig = Rig(profile, depth, seed, ledger or Ledger(), apart)
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    rig.build(Wanted(hosts, memory, profile.cpus if cpus is None else cpus, spare))
    return rig


def share_of_asids(below: Profile, own: Profile, number: int) -> tuple[int, int]:
    """The first ASIDs below of guest host `number`: of the lower range, and of the upper."""
    lower, upper = own.min_sev_asid - 1, own.asids - own.min_sev_asid + 1
    return 1 + number * lower, below.min_sev_asid + number * upper


# -- how large a level has to be -----------------------------------------------------------------------


def _rmp_len(size: int) -> int:
    """Bytes of an RMP that covers `size` bytes of memory, on whole MiB."""
    return -(-(RMP_HEAD + 16 * (size // PAGE)) // MIB) * MIB


def _size(guests: int, memory: int) -> int:
    """Bytes of a host that carries that many guest hosts."""
    memory = -(-memory // BLOCK) * BLOCK
    carried = BLOCK + KERNEL + guests * (SHADOWS + memory) + 2 * BLOCK
    while carried < RMP_AT + _rmp_len(carried) + KERNEL + guests * (SHADOWS + memory) + 2 * BLOCK:
        carried += BLOCK
    return -(-carried // BLOCK) * BLOCK


__all__ = ["Rig", "Seat", "compose"]
