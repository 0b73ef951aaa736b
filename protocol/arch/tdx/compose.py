"""Put a machine and its guest hosts together in one process, at any depth.

Depth 0 is the machine itself: K hosts are K machines of one seed each. At depth d there is one machine; L0
brings its module up as a host does and runs L1, which does the same and runs L2, and so on. The K siblings
sit side by side on the last hypervisor. The hosts at the keyboard have the memory, the CPUs and the KeyIDs
that were asked for at every depth, so whatever lies below them is larger.

A hypervisor keeps its first GiBs for itself and the PAMTs; all others are for guest hosts, and every page
of them may be given to a TD. They are handed out as whole GiBs, out of order by seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.cpu import Lp, registers
from protocol.arch.tdx.linked import LinkedTdx, Server
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.profiles import GIB, KIB, MIB, MIN_MEMORY_MIB, Profile, Range
from protocol.arch.tdx.status import RAX
from protocol.arch.tdx.structs import U64, TdmrInfo
from protocol.effects import Fault, Step, run
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.plan.operations import LevelSwap
from protocol.tracking import Book

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested
    from protocol.arch.tdx.nesting.frames import Hypervisor

    Level = Machine | Nested

MAX_DEPTH = 4
MAX_HOSTS = 64
RESETS = ("boot",)
SYS_INIT, LP_INIT, SYS_CONFIG, SYS_KEY_CONFIG, TDMR_INIT = 33, 35, 45, 31, 36
POINTERS, DESCRIPTION = 4 * MIB, 4 * MIB + PAGE  # where a hypervisor that boots writes what CONFIG reads
OWN_FROM = 64 * MIB  # above SEAMRR: first PAMTs, then frames for what emulation needs
PAMT_OF_A_GIB = (16, 8 * KIB, 4 * MIB)  # of its entries for 1G, 2M and 4K
EMULATION = 64 * MIB  # frames for shadows, at least


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its LPs, its memory."""

    number: int
    level: Level
    lps: list[Lp]
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
    chain: list[Hypervisor] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)  # that the hypervisors stand on
    apart: bool = False  # what is asked of a level goes by message
    haunting: list[tuple[int, Nested]] = field(
        default_factory=list
    )  # seats' hosts that left something behind
    at_work: list[Hypervisor] = field(default_factory=list)  # the last one for each seat, if it is that, too

    # -- what a comparison asks ------------------------------------------------------------------------

    def seen(self, level: Level) -> Any:
        """A level as its host meets it."""
        return LinkedTdx(level) if self.apart else level

    def below(self, seat: int) -> tuple[Server, ...]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine."""
        return tuple(Server(level) for level in (self.seats[seat].level, *reversed(self.levels)))

    @property
    def own_cpus(self) -> range:
        """CPUs of L0 for software of its own beside its guest hosts: none are set apart."""
        return range(0)

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        else:
            yield from level.death(cause)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """No level here swaps pages of a host's guests."""
        raise ValueError("swapping by the level below is not built for TDs")

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """A teardown here leaves nothing for later."""
        yield from ()
        return 0

    def leaks(self) -> list[Any]:
        """The books of every level held against the machine's: what only one of the two has."""
        from protocol.arch.tdx.audit import audit

        found: list[Any] = audit(self)["leaks"]
        return found

    def exposed(self, needle: bytes) -> list[int]:
        """Frames of the machine from which a host could read `needle`."""
        return [frame for machine in self.machines for frame in machine.storage.exposed(needle)]

    def remains(self) -> dict[str, int]:
        """What TDs hold in the machine, by kind."""
        found: Counter[str] = Counter()
        for machine in self.machines:
            found["tds"] += len(machine.tds)
            found["vcpus"] += len(machine.vcpus)
            found.update(machine.platform.pages())
            found.update(machine.platform.key_states())
        return dict(found)

    def books(self) -> Iterator[Book]:
        """What each level keeps about its guest hosts."""
        for level in (*self.levels, *(seat.level for seat in self.seats)):
            if not isinstance(level, Machine):
                yield level.book
                yield from level.page_books

    # -- the end of a host -----------------------------------------------------------------------------

    def reset(self, seat: int, kind: str) -> Step[None]:
        """The host on `seat` restarts. Calls of its that are parked have ended before."""
        if kind not in RESETS:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(RESETS)}")
        level = self.seats[seat].level
        if isinstance(level, Machine):
            level.reset()
        elif level.gone:
            yield from self.kill(seat)
        else:
            yield from level.reset()

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place.

        Raises OutOfFrames where the module below keeps a page of a host that is gone: its GiB is missing,
        until a later try finds the page free.
        """
        place = self.seats[seat]
        place.lives += 1
        if isinstance(place.level, Machine):
            place.level.reset()
            return
        if not place.level.gone:
            self.haunting.append((seat, place.level))
        for each in list(self.haunting):
            yield from each[1].death()
            if not each[1].lost:
                self.haunting.remove(each)
        for lp in place.lps:
            lp.reset()
        try:
            place.level = _guest_host(self, place.lps, place.number, place.memory_bytes, self.profile)
        except OutOfFrames:
            kept = sum(len(level.lost_frames) for _, level in self.haunting)
            raise OutOfFrames(
                f"no memory for a fresh host: the module below keeps {kept} pages of hosts that are gone; "
                "try again when it is done with them"
            ) from None


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
    _allowed(profile, depth, hosts, memory, count)
    rig = Rig(profile, depth, seed, [], ledger or Ledger("vmresume"), apart=apart)
    if depth == 0:
        for number in range(hosts):
            own = lps(profile, count)
            machine = Machine(profile, memory, own, CALLS, rig.ledger, seed + number)
            rig.machines.append(machine)
            rig.seats.append(Seat(number, machine, own, memory))
        return rig
    _below(rig, hosts, memory, count)
    if apart:
        rig.ledger.reset()  # what is compared begins when the hosts at the top boot
        _pools_apart(rig, hosts)
    for number in range(hosts):
        own = lps(profile, count)
        level = _guest_host(rig, own, number, memory, profile)
        rig.seats.append(Seat(number, level, own, memory))
    if apart:
        _books_apart(rig)
    return rig


def _pools_apart(rig: Rig, hosts: int) -> None:
    """Each host at the top has frames of its own for what its emulation needs.

    A frame that was a table of one is never met by another: what is zapped would else depend on their order.
    """
    last = rig.chain[-1]
    each = last.pool.free // hosts
    rig.at_work = [replace(last, pool=Pool(last.pool.take_run(each), each)) for _ in range(hosts)]


def _books_apart(rig: Rig) -> None:
    """Levels between keep what each host at the top has in a book of its own."""
    parts: list[list[int]] = [seat.level.gibs for seat in rig.seats]  # type: ignore[union-attr]
    for level in reversed(rig.levels[1:]):
        level.keep_apart(parts)  # type: ignore[union-attr]
        parts = [[level.gibs[gib] for gib in gibs] for gibs in parts]  # type: ignore[union-attr]


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


# -- what lies below -------------------------------------------------------------------------------


def _below(rig: Rig, hosts: int, memory: int, cpus: int) -> None:
    """The machine and the hypervisors L0 to L(depth - 1), each with its module up."""
    profiles, packages = [rig.profile], [[lp.package for lp in lps(rig.profile, cpus)]]
    sizes, carried = [memory], hosts
    for _ in range(rig.depth):
        gibs = carried * -(-sizes[-1] // GIB)
        sizes.append((first_gib(gibs) + gibs) * GIB)
        # Each LP of a guest host runs on one of its own, and the level's own work needs one in each
        # package.
        packages.append((packages[-1] + list(range(rig.profile.packages))) * carried)
        profiles.append(profiles[-1].below(carried, sizes[-1] // MIB, len(packages[-1])))
        carried = 1
    for number in range(rig.depth):
        profile, size = profiles.pop(), sizes.pop()
        own = [Lp(at, package) for at, package in enumerate(packages.pop())]
        if not number:
            rig.machines.append(Machine(profile, size, own, CALLS, rig.ledger, rig.seed))
            rig.levels.append(rig.machines[0])
        else:
            rig.levels.append(_guest_host(rig, own, 0, size, profile))
        rig.chain.append(run(_hypervisor(rig, number, rig.levels[-1])))


def first_gib(gibs: int) -> int:
    """The first GiB for guest hosts, if there are `gibs` of them: below lie the PAMTs and what is needed."""
    need = OWN_FROM + gibs * sum(PAMT_OF_A_GIB) + len(PAMT_OF_A_GIB) * PAGE + EMULATION
    return -(-need // GIB)


def _hypervisor(rig: Rig, number: int, level: Level) -> Step[Hypervisor]:
    """Boot L(number): section 6.1. One TDMR covers all that is for guest hosts."""
    from protocol.arch.tdx.nesting.frames import Hypervisor

    total = level.size // GIB
    gibs = next(count for count in range(total, 0, -1) if first_gib(count) + count <= total)
    first = total - gibs
    at, areas = OWN_FROM, []
    for each in PAMT_OF_A_GIB:
        length = -(-gibs * each // PAGE) * PAGE
        areas.append(Range(at, length))
        at += length
    info = TdmrInfo(first * GIB, gibs * GIB, (areas[0], areas[1], areas[2]), ())
    level.write(POINTERS, U64.pack(DESCRIPTION))
    level.write(DESCRIPTION, info.pack())
    global_key = level.profile.first_private + level.profile.tdx_keyids - 1
    yield from _must(level, level.lps[0], rax=SYS_INIT)
    for lp in level.lps:
        yield from _must(level, lp, rax=LP_INIT)
    yield from _must(level, level.lps[0], rax=SYS_CONFIG, rcx=POINTERS, rdx=1, r8=global_key)
    for lp in {lp.package: lp for lp in level.lps}.values():
        yield from _must(level, lp, rax=SYS_KEY_CONFIG)
    for _ in range(gibs):
        yield from _must(level, level.lps[0], rax=TDMR_INIT, rcx=first * GIB)
    order = list(range(first, total))
    Random(f"{rig.seed}:gibs:{number}").shuffle(order)
    gibs_pool = Pool(0, 0)
    gibs_pool.give(order)
    keyids = range(level.profile.first_private, global_key)
    pool = Pool(at >> PAGE_SHIFT, first * GIB - at >> PAGE_SHIFT)
    return Hypervisor(number, rig.seen(level), pool, gibs=gibs_pool, hkids=list(reversed(keyids)))


def _must(level: Level, lp: Lp, **named: int) -> Step[None]:
    out = yield from level.call(lp, registers(**named))
    assert not isinstance(out, Fault), f"a hypervisor cannot boot: {named} -> {out}"
    assert not out[RAX], f"a hypervisor cannot boot: {named} -> {out[RAX]:#x}"


def _guest_host(rig: Rig, own: list[Lp], number: int, memory: int, profile: Profile) -> Nested:
    """A guest host on the last hypervisor of the chain."""
    from protocol.arch.tdx.nesting import Nested

    below = rig.at_work[number] if rig.at_work else rig.chain[-1]
    packages = rig.profile.packages
    width = len(own) + packages
    under = below.memory.lps[number * width : (number + 1) * width]
    gibs = below.gibs.take_many(-(-memory // GIB)).tolist()
    return Nested(below, gibs, memory, own, under[:-packages], under[-packages:], CALLS, profile, rig.ledger)
