"""Put a machine and its guest hosts together in one process, at any depth.

Depth 0 is the machine itself: K hosts are K machines. At depth d there is one machine; L0 brings its
platform up as a host does and runs L1, which does the same and runs L2, and so on. The K siblings sit side
by side on the last hypervisor. The hosts at the keyboard have the memory, the CPUs, the ASIDs and the
handles that were asked for at every depth, so whatever lies below them is larger.

The memory of a guest host comes in blocks of 2 MiB, scattered by seed: contiguity would hide mistakes. In
the profile `scattered` no two of its pages are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.cpu import MFDM, RMP_BASE, RMP_END, SME, SNP_EN, SYSCFG, VM_HSAVE_PA, VMPL_EN, Cpu
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.linked import LinkedSev, Server
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.profiles import MIB, Profile
from protocol.arch.sev.seat import Seat
from protocol.arch.sev.structs import CHIP_ID_LEN, PAGE, RMP_HEAD
from protocol.effects import Step, run
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting.guest_host import Hypervisor
from protocol.plan.operations import LevelSwap
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested
    from protocol.arch.sev.nesting.port import FlushLock

    Level = Machine | Nested

MAX_DEPTH = 4
MAX_HOSTS = 64
BLOCK = 2 * MIB
BLOCK_PAGES = BLOCK // PAGE
RMP_AT = BLOCK  # where a hypervisor of the chain puts its RMP
KERNEL = 8 * MIB  # of a hypervisor, behind its RMP: the trusted region and what its driver keeps
SHADOWS = 16 * MIB  # for one guest host: shadow tables, control blocks, buffers


@dataclass(slots=True)
class Floor:
    """One hypervisor of the chain and what it stands on.

    `frames` are those of its guest hosts, seat by seat. `at_work` is the hypervisor for each of them, with a
    pool of its own: what one of them leaves in a frame is never met by another.
    """

    level: Level
    at_work: list[Hypervisor[Any]]
    rmp: int
    frames: list[np.ndarray]
    chip: bytes
    lock: FlushLock


@dataclass(slots=True)
class Rig:
    """A composition. `floors` has the hypervisors from L0 up; at depth 0 there are none."""

    profile: Profile
    depth: int
    seed: int
    seats: list[Seat]
    ledger: Ledger
    machines: list[Machine]
    floors: list[Floor] = field(default_factory=list)
    apart: bool = False  # what is asked of a level goes by message

    def seen(self, level: Level) -> Any:
        """A level as its host meets it."""
        return LinkedSev(level) if self.apart else level

    def below(self, seat: int) -> tuple[Server, ...]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine."""
        levels = (self.seats[seat].level, *(floor.level for floor in reversed(self.floors)))
        return tuple(Server(level) for level in levels)

    @property
    def chain(self) -> list[Hypervisor[Any]]:
        return [floor.at_work[0] for floor in self.floors]

    @property
    def own_cpus(self) -> range:
        """CPUs of L0 for software of its own beside its guest hosts: none are set apart."""
        return range(0)

    def reset(self, seat: int, kind: str = "power") -> Step[None]:
        """The power cycle of the host on `seat`: of the machine, or of the VM. `kind` makes no difference."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        else:
            yield from level.reset()

    def kill(self, seat: int) -> Step[None]:
        """A host that dies without a word; a fresh one takes its place, in the same frames."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        else:
            yield from level.reset("l1_crash")

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        else:
            yield from level.reset(cause)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """No level here swaps pages of a host's guests."""
        raise ValueError("swapping by the level below is not built for SNP guests")

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """A teardown here leaves nothing for later."""
        yield from ()
        return 0

    def leaks(self) -> list[Any]:
        """The books of every level held against the one below: what only one of the two has."""
        from protocol.arch.sev.audit import leaks

        return list(leaks(self))

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        """What guests hold in the machine, by kind, and what levels lent below for the hosts at the top."""
        found = {"sev_guests": 0, "gctx": 0, "secure_pages": 0, "lent_pages": 0}
        for machine in self.machines:
            found["sev_guests"] += len(machine.platform.guests)
            found["gctx"] += len(machine.platform.contexts)
            found["secure_pages"] += int(np.count_nonzero(machine.rmp.asid))
        for level in (*(floor.level for floor in self.floors), *(seat.level for seat in self.seats)):
            if not isinstance(level, Machine):
                found["lent_pages"] += int(np.count_nonzero(level.real))
        return found

    def guest_key(self, seat: int, context: int) -> bytes:
        """The message key of VMPL0 of an SNP guest, which has it from its secrets page:

        a console plays that guest.
        """
        frame = self.machine_frame(seat, context // PAGE)
        return self.machines[seat if not self.depth else 0].platform.contexts[frame].vmpcks[0]

    def machine_frame(self, seat: int, frame: int) -> int:
        """Where a frame of the host on `seat` lies on the machine."""
        for level in (self.seats[seat].level, *(floor.level for floor in reversed(self.floors))):
            if not isinstance(level, Machine):
                frame = level.frame_below(frame)
        return frame

    def books(self) -> Iterator[Book]:
        """What each level keeps about its guest hosts."""
        for level in (*(floor.level for floor in self.floors), *(seat.level for seat in self.seats)):
            if not isinstance(level, Machine):
                yield level.book
                yield from level.page_books


def compose(
    profile: Profile,
    depth: int = 0,
    hosts: int = 1,
    memory_bytes: int | None = None,
    cpus: int | None = None,
    seed: int = 0,
    ledger: Ledger | None = None,
    apart: bool = False,
) -> Rig:
    """`hosts` secure hosts at `depth`, with all that lies below. Raises ValueError for what cannot be."""
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    count = profile.cpus if cpus is None else cpus
    _allowed(depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger(), [], apart=apart)
    if depth == 0:
        for number in range(hosts):
            own = _cpus(count)
            machine = Machine(profile, memory, own, CALLS, rig.ledger, seed + number)
            rig.machines.append(machine)
            rig.seats.append(Seat(number, machine, own, memory))
        return rig
    _below(rig, hosts, memory, count)
    for number in range(hosts):
        own = _cpus(count)
        level = _guest_host(rig, rig.floors[-1], own, number, profile, count)
        rig.seats.append(Seat(number, level, own, memory))
    _books_apart(rig)
    return rig


def _books_apart(rig: Rig) -> None:
    """Levels between: pages of each host at the top stand in a book of their own.

    How many there were at once would else depend on the order between the hosts.
    """
    frames = rig.floors[-1].frames
    for floor in reversed(rig.floors[1:]):
        floor.level.keep_apart(frames)  # type: ignore[union-attr]
        frames = [floor.level.slots[own] for own in frames]  # type: ignore[union-attr]


def _allowed(depth: int, hosts: int, memory: int, cpus: int) -> None:
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth {depth}: allowed are 0 to {MAX_DEPTH}")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"{hosts} hosts: allowed are 1 to {MAX_HOSTS}")
    if memory < BLOCK or memory % MIB:
        raise ValueError(f"memory of {memory} bytes: allowed are whole MiB, at least {BLOCK // MIB}")
    if cpus < 1:
        raise ValueError(f"{cpus} CPUs: allowed is 1 or more")


def _cpus(count: int) -> list[Cpu]:
    return [Cpu(number) for number in range(count)]


def _below(rig: Rig, hosts: int, memory: int, cpus: int) -> None:
    """The machine and the hypervisors L0 to L(depth - 1), each with its platform up and ready to run the
    next.
    """
    sizes, counts, profiles = [_size(hosts, memory)], [hosts * cpus], [rig.profile.below(hosts)]
    for _ in range(rig.depth - 1):
        sizes.append(_size(1, sizes[-1]))
        counts.append(counts[-1])
        profiles.append(profiles[-1].below(1))
    sizes.reverse()
    profiles.reverse()
    machine = Machine(profiles[0], sizes[0], _cpus(counts[0]), CALLS, rig.ledger, rig.seed)
    rig.machines.append(machine)
    level: Level = machine
    for number in range(rig.depth):
        if number:
            level = _guest_host(
                rig, rig.floors[-1], _cpus(counts[number]), 0, profiles[number], counts[number]
            )
        last = number == rig.depth - 1
        guests, size = (hosts, memory) if last else (1, sizes[number + 1])
        rig.floors.append(_floor(rig, number, level, guests, size))
    rig.ledger.reset()


def _floor(rig: Rig, number: int, level: Level, guests: int, size: int) -> Floor:
    """Boot L(number): its RMP, its platform, a save area for each CPU; the rest is for its guest hosts."""
    from protocol.arch.sev.nesting.port import FlushLock

    rmp_len = _rmp_len(level.size)
    kernel = [RMP_AT + rmp_len, RMP_AT + rmp_len + KERNEL]

    def allocate(length: int, align: int) -> int:
        at = -(-kernel[0] // align) * align
        kernel[0] = at + length
        assert kernel[0] <= kernel[1], "the kernel of a hypervisor has no memory left"
        return at

    for cpu in level.cpus:
        for msr, value in (
            (RMP_BASE, RMP_AT),
            (RMP_END, RMP_AT + rmp_len - 1),
            (SYSCFG, SME | SNP_EN | VMPL_EN | MFDM),
        ):
            run(level.wrmsr(cpu, msr, value))
    driver = Driver(Hands(Seat(0, level, level.cpus, level.size), number + 1), allocate)
    run(driver.probe())
    for cpu in level.cpus:
        run(level.wrmsr(cpu, VM_HSAVE_PA, allocate(PAGE, PAGE)))
    chip = allocate(PAGE, PAGE)
    run(driver.lent((chip,), "GET_ID", pa=chip, len=CHIP_ID_LEN))
    pools = [Pool((kernel[1] + guest * SHADOWS) // PAGE, SHADOWS // PAGE) for guest in range(guests)]
    first = -(-(kernel[1] + guests * SHADOWS) // BLOCK) * BLOCK_PAGES
    frames = _scattered(rig, number, first, guests, size // PAGE)
    seen = rig.seen(level)
    at_work: list[Hypervisor[Any]] = [Hypervisor(number, seen, pool) for pool in pools]
    return Floor(level, at_work, RMP_AT, frames, driver.read(chip, CHIP_ID_LEN), FlushLock())


def _scattered(rig: Rig, number: int, first: int, guests: int, pages: int) -> list[np.ndarray]:
    """Frames of the guest hosts, from frame `first` on: whole blocks in any order, or single pages."""
    mixer = np.random.default_rng(Random(f"{rig.seed}:{number}").getrandbits(64))
    if rig.profile.scattered:
        frames = first + mixer.permutation(guests * pages)
        while (np.diff(frames) == 1).any():
            here = np.flatnonzero(np.diff(frames) == 1)
            frames[here], frames[here - 1] = frames[here - 1].copy(), frames[here].copy()
        return np.split(frames, guests)
    each = -(-pages // BLOCK_PAGES)
    blocks = first + BLOCK_PAGES * mixer.permutation(guests * each)
    listed = (blocks[:, None] + np.arange(BLOCK_PAGES)).ravel()
    return [part[:pages] for part in np.split(listed, guests)]


def _guest_host(rig: Rig, floor: Floor, own: list[Cpu], number: int, profile: Profile, width: int) -> Nested:
    """A guest host on a floor: its share of frames, CPUs and ASIDs."""
    from protocol.arch.sev.nesting import Nested

    below = floor.level
    lower, upper = profile.min_sev_asid - 1, profile.asids - profile.min_sev_asid + 1
    asids = 1 + number * lower, below.profile.min_sev_asid + number * upper
    return Nested(
        floor.at_work[number],
        floor.frames[number],
        own,
        below.cpus[number * width : (number + 1) * width],
        CALLS,
        profile,
        rig.ledger,
        rig.seed * 1000 + floor.at_work[0].level * MAX_HOSTS + number + 1,
        floor.rmp,
        floor.chip,
        asids,
        floor.lock,
    )


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
