"""Put a machine and its guest hosts together on Intel: `protocol.nesting.composition` says how.

A hypervisor brings its module up as a host does. The hosts at the keyboard have the memory, the CPUs and the
KeyIDs that were asked for at every depth, so whatever lies below them is larger. A hypervisor keeps its first
GiBs for itself and the PAMTs; all others are for guest hosts, and every page of them may be given to a TD.
They are handed out as whole GiBs, out of order by seed; what is spare of them is for TDs of L0's own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.arch.tdx.audit import audit
from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.cpu import Lp, registers
from protocol.arch.tdx.linked import LinkedTdx, Server
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.profiles import GIB, KIB, MIB, MIN_MEMORY_MIB, Profile, Range
from protocol.arch.tdx.status import RAX
from protocol.arch.tdx.structs import U64, TdmrInfo
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.pool import OutOfFrames, Pool
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting import composition
from protocol.nesting.composition import SOFTWARE_CPUS, Seat, Storey, Wanted

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested
    from protocol.arch.tdx.nesting.frames import Hypervisor

    Level = Machine | Nested

RESETS = ("boot",)
SYS_INIT, LP_INIT, SYS_CONFIG, SYS_KEY_CONFIG, TDMR_INIT = 33, 35, 45, 31, 36
POINTERS, DESCRIPTION = 4 * MIB, 4 * MIB + PAGE  # where a hypervisor that boots writes what CONFIG reads
OWN_FROM = 64 * MIB  # above SEAMRR: first PAMTs, then frames for what emulation needs
PAMT_OF_A_GIB = (16, 8 * KIB, 4 * MIB)  # of its entries for 1G, 2M and 4K
EMULATION = 64 * MIB  # frames for shadows, at least
GIB_FRAMES = GIB >> PAGE_SHIFT


@dataclass(slots=True)
class Rig(composition.Rig["Hypervisor"]):
    """A composition on Intel. `packages` says by the number of a level's LPs in which package each is."""

    packages: dict[int, list[int]] = field(default_factory=dict)
    haunting: list[tuple[int, Nested]] = field(default_factory=list)  # hosts of seats that left something
    buried_now: list[Nested] = field(default_factory=list)  # those of them that somebody asks for just now

    max_depth = 4
    resets = RESETS

    def check(self, wanted: Wanted) -> None:
        composition.Rig.check(self, wanted)
        packages = self.profile.packages
        if wanted.memory < MIN_MEMORY_MIB * MIB or wanted.memory % PAGE:
            raise ValueError(
                f"memory of {wanted.memory} bytes: allowed are whole pages, at least {MIN_MEMORY_MIB} MiB"
            )
        if wanted.cpus < packages:
            raise ValueError(f"{wanted.cpus} CPUs: allowed is at least one for each of {packages} packages")

    # -- what is where -----------------------------------------------------------------------------

    def cpus_of(self, count: int) -> list[Lp]:
        """The LPs of a host, in its packages one after the other, or as a level below needs them."""
        usual = [number * self.profile.packages // count for number in range(count)]
        return [Lp(number, package) for number, package in enumerate(self.packages.get(count, usual))]

    def machine(self, number: int, storey: Storey, cpus: list[Lp]) -> Machine:
        return Machine(storey.profile, storey.size, cpus, CALLS, self.ledger, self.seed + number)

    def storeys(self, wanted: Wanted) -> list[Storey]:
        """Each LP of a guest host runs on one of its own, and the level's own work needs one in each package.

        Software of L0's own has as many KeyIDs as all hosts at the top together.
        """
        carried, size, spare = wanted.hosts, wanted.memory, -(-wanted.spare // GIB)
        packages = [lp.package for lp in self.cpus_of(wanted.cpus)]
        each, below = list(range(self.profile.packages)), list[Storey]()
        profile = self.profile
        for left in reversed(range(self.depth)):
            gibs = carried * -(-size // GIB) + (0 if left else spare)
            size = (first_gib(gibs) + gibs) * GIB
            packages = (packages + each) * carried
            profile = profile.below(carried, size // MIB, len(packages))
            carried = 1
            if spare and not left:
                packages = packages + [number % len(each) for number in range(SOFTWARE_CPUS)]
                profile = profile.with_own(wanted.hosts * (self.profile.tdx_keyids - 1))
            self.packages[len(packages)] = packages
            below.insert(0, Storey(size, len(packages), profile))
        return below

    def hypervisor(self, number: int, level: Any, wanted: Wanted) -> Step[Hypervisor]:
        """Boot L(number): section 6.1. One TDMR covers all that is for guest hosts, and for its own TDs."""
        from protocol.arch.tdx.nesting.frames import Hypervisor

        gibs = _gibs(level.size)
        first, at = level.size // GIB - gibs, OWN_FROM
        areas = []
        for each in PAMT_OF_A_GIB:
            length = -(-gibs * each // PAGE) * PAGE
            areas.append(Range(at, length))
            at += length
        info = TdmrInfo(first * GIB, gibs * GIB, (areas[0], areas[1], areas[2]), ())
        keyids = range(level.profile.first_private, level.profile.first_private + level.profile.tdx_keyids)
        yield from _bring_up(level, info, keyids[-1])
        lent, left = self._dealt(number, level.size, wanted)
        own = Pool(0, 0)
        for gib in left:
            own.give_run(gib * GIB_FRAMES, GIB_FRAMES)
        pool = Pool(at >> PAGE_SHIFT, first * GIB - at >> PAGE_SHIFT)
        for_guests = len(keyids) - 1 - level.profile.own_keyids
        return Hypervisor(
            number,
            self.seen(level),
            pool,
            gibs=lent,
            hkids=list(reversed(keyids[:for_guests])),
            key_share=for_guests,
            own=own,
            own_keys=list(reversed(keyids[for_guests:-1])),
            pools=self._pools(pool, wanted.hosts),
        )

    def _dealt(self, number: int, size: int, wanted: Wanted) -> tuple[Pool, list[int]]:
        """The GiBs of L(number) that are for guest hosts, and those that are left."""
        gibs = _gibs(size)
        first = size // GIB - gibs
        order = list(range(first, first + gibs))
        Random(f"{self.seed}:gibs:{number}").shuffle(order)
        needed = wanted.hosts * -(-wanted.memory // GIB)
        lent = Pool(0, 0)
        lent.give(order[:needed])
        return lent, order[needed:]

    def _pools(self, pool: Pool, hosts: int) -> list[Pool]:
        """Where hosts are compared, each has frames of its own for what its emulation needs.

        A frame that was a table of one is never met by another: what is zapped would else depend on their
        order.
        """
        each = pool.free // hosts
        return [Pool(pool.take_run(each), each) for _ in range(hosts)] if self.apart else []

    def guest_host(self, own: list[Lp], number: int, life: int, storey: Storey) -> Nested:
        from protocol.arch.tdx.nesting import Nested  # where there is one: a start is quick

        kvm = self.chain[-1]
        below = replace(kvm, pool=kvm.pools[number]) if kvm.pools else kvm
        packages = self.profile.packages
        width = len(own) + packages
        under = below.memory.lps[number * width : (number + 1) * width]
        gibs = below.gibs.take_many(-(-storey.size // GIB)).tolist()
        return Nested(
            below,
            gibs,
            storey.size,
            own,
            under[:-packages],
            under[-packages:],
            CALLS,
            storey.profile,
            self.ledger,
        )

    def build_lower(self, wanted: Wanted) -> None:
        """L0 keeps apart what each host at the top has of L1, though it meets L1 alone."""
        self.check(wanted)
        depth, storeys = self.depth, self.storeys(wanted)
        composition.Rig.build_lower(self, wanted)
        if depth == 1:
            return
        pool, _ = self._dealt(depth - 1, storeys[-1].size, wanted)
        each = -(-wanted.memory // GIB)
        parts = [pool.take_many(each).tolist() for _ in range(wanted.hosts)]
        for number in range(depth - 2, 0, -1):
            above = storeys[number + 1]
            pool, _ = self._dealt(number, storeys[number].size, Wanted(1, above.size, above.cpus))
            gibs = pool.take_many(above.size // GIB).tolist()
            parts = [[gibs[gib] for gib in part] for part in parts]
        self.seats[0].level.keep_apart(parts)

    def build_upper(self, level: Any, wanted: Wanted) -> Step[None]:
        """The LPs of L1 are in packages, too, which nobody told this process yet."""
        self.check(wanted)
        self.storeys(wanted)
        for lp, known in zip(level.lps, self.cpus_of(len(level.lps)), strict=True):
            lp.package = known.package
        yield from composition.Rig.build_upper(self, level, wanted)

    def stands(self) -> None:
        """What is compared begins when the hosts at the top boot."""
        if self.apart:
            self.ledger.reset()

    def seated(self) -> None:
        """Where hosts are compared, levels between keep a book of its own for each at the top."""
        if not self.apart or not self.chain:
            return
        parts: list[list[int]] = [seat.level.gibs for seat in self.seats]
        for level in reversed(self.levels[1:]):  # the lowest is the machine, or asked by message
            level.keep_apart(parts)
            parts = [[level.gibs[gib] for gib in gibs] for gibs in parts]

    def linked(self, level: Any) -> LinkedTdx:
        return LinkedTdx(level)

    def served(self, level: Any) -> Server:
        return Server(level)

    # -- what a comparison asks ---------------------------------------------------------------------

    def leaks(self) -> list[Any]:
        """The books of every level held against the machine's: what only one of the two has."""
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
        for below in {id(level.below): level.below for level in self.emulations()}.values():
            found["keys_given"] += below.key_share - len(below.hkids)
        return dict(found)

    def measurements(self) -> list[str]:
        """MRTD of all TDs on the machine, in hex."""
        return [td.mrtd.hex() for machine in self.machines for td in machine.tds.values()]

    # -- the end of a host --------------------------------------------------------------------------

    def reset(self, seat: int, kind: str) -> Step[None]:
        """A host for which there was no memory is tried again."""
        level = self.seats[seat].level
        if kind in self.resets and not self.is_machine(level) and level.gone:
            yield from self.kill(seat)
        else:
            yield from composition.Rig.reset(self, seat, kind)

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place.

        Raises OutOfFrames where the module below keeps a page of a host that is gone: its GiB is missing,
        until a later try finds the page free.
        """
        level = self.seats[seat].level
        if self.is_machine(level):
            self.power_off(level)
            return
        if not level.gone:
            self.haunting.append((seat, level))
            yield from self._bury((seat, level))
        for each in list(self.haunting):
            if each in self.haunting and each[1] not in self.buried_now:
                yield from self._bury(each)
        try:
            self.seat_anew(seat)
        except OutOfFrames:
            kept = sum(len(gone.lost_frames) for _, gone in self.haunting)
            raise OutOfFrames(
                f"no memory for a fresh host: the module below keeps {kept} pages of hosts that are gone; "
                "try again when it is done with them"
            ) from None

    def _bury(self, each: tuple[int, Nested]) -> Step[None]:
        """Ask for what a host left behind. Two hosts may end at the same time: one of them asks for each."""
        level = each[1]
        self.buried_now.append(level)
        try:
            yield from level.death()
        finally:
            self.buried_now.remove(level)
        if not level.lost:
            self.haunting.remove(each)


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
    rig = Rig(profile, depth, seed, ledger or Ledger("vmresume"), apart)
    memory = profile.memory_mib * MIB if memory_bytes is None else memory_bytes
    rig.build(Wanted(hosts, memory, profile.cpus if cpus is None else cpus, spare))
    return rig


# -- a hypervisor comes up -------------------------------------------------------------------------


def first_gib(gibs: int) -> int:
    """The first GiB for guest hosts, if there are `gibs` of them: below lie the PAMTs and what is needed."""
    need = OWN_FROM + gibs * sum(PAMT_OF_A_GIB) + len(PAMT_OF_A_GIB) * PAGE + EMULATION
    return -(-need // GIB)


def _gibs(size: int) -> int:
    """How many GiBs of a level are for others."""
    total = size // GIB
    return next(count for count in range(total, 0, -1) if first_gib(count) + count <= total)


def _bring_up(level: Any, info: TdmrInfo, global_key: int) -> Step[None]:
    level.write(POINTERS, U64.pack(DESCRIPTION))
    level.write(DESCRIPTION, info.pack())
    yield from _must(level, level.lps[0], rax=SYS_INIT)
    for lp in level.lps:
        yield from _must(level, lp, rax=LP_INIT)
    yield from _must(level, level.lps[0], rax=SYS_CONFIG, rcx=POINTERS, rdx=1, r8=global_key)
    for lp in {lp.package: lp for lp in level.lps}.values():
        yield from _must(level, lp, rax=SYS_KEY_CONFIG)
    for _ in range(info.size // GIB):
        yield from _must(level, level.lps[0], rax=TDMR_INIT, rcx=info.base)


def _must(level: Any, lp: Lp, **named: int) -> Step[None]:
    out = yield from level.call(lp, registers(**named))
    assert not isinstance(out, Fault), f"a hypervisor cannot boot: {named} -> {out}"
    assert not out[RAX], f"a hypervisor cannot boot: {named} -> {out[RAX]:#x}"


__all__ = ["RESETS", "Rig", "Seat", "compose"]
