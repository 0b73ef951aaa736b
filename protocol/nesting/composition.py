"""Put a machine and its guest hosts together, at any depth: what is the same on every architecture.

Depth 0 is the machine itself: K hosts are K machines. At depth d there is one machine; L0 runs L1, which
runs L2, and so on, and the K siblings sit side by side on the last hypervisor. The hosts at the keyboard
have the memory and the CPUs that were asked for at every depth, so whatever lies below them is larger.

A composition is built whole, or in two halves that live in two processes: `build_lower` is L0 with its
machine, `build_upper` is L1 with everything above it, standing on a level that is asked by message. An
architecture says how large each level has to be, what a machine is, how a hypervisor boots, and what a guest
host on it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from protocol.effects import Issue, Step, run
from protocol.ledger import Ledger
from protocol.nesting.guest_host import Hypervisor
from protocol.nesting.linked import LinkedLevel
from protocol.nesting.locks import Holds
from protocol.plan.operations import LevelSwap
from protocol.tracking import Book

SOFTWARE_CPUS = 2  # of L0, for guests of its own beside guest hosts
H = TypeVar("H", bound=Hypervisor[Any])


@dataclass(slots=True)
class Seat:
    """One host at the keyboard: the level that it meets, its CPUs, its memory."""

    number: int
    level: Any
    cpus: list[Any]
    memory_bytes: int
    lives: int = 1  # how many hosts have sat here, one after the other


class Wanted(NamedTuple):
    """The hosts at the top, each with memory in bytes and CPUs; `spare` bytes more are L0's own."""

    hosts: int
    memory: int
    cpus: int
    spare: int = 0


class Storey(NamedTuple):
    """One level that a hypervisor stands on: bytes, CPUs, and the profile that carries what is above."""

    size: int
    cpus: int
    profile: Any


@dataclass(slots=True)
class Rig(Generic[H]):
    """A composition. `chain` has the hypervisors from L0 up, `levels` what they stand on.

    At depth 0 there are none of either. `profile` is that of the hosts at the top. Levels that live `apart`
    are asked by message.
    """

    profile: Any
    depth: int
    seed: int
    ledger: Ledger
    apart: bool = False
    seats: list[Seat] = field(default_factory=list)
    machines: list[Any] = field(default_factory=list)
    chain: list[H] = field(default_factory=list)
    levels: list[Any] = field(default_factory=list)

    max_depth: ClassVar[int] = 8
    max_hosts: ClassVar[int] = 64
    resets: ClassVar[Sequence[str]]  # kinds, in the words of the console

    # -- what an architecture says

    @abstractmethod
    def storeys(self, wanted: Wanted) -> list[Storey]:
        """The levels below the hosts at the top, L0 first: as many as the composition is deep."""

    @abstractmethod
    def machine(self, number: int, storey: Storey, cpus: list[Any]) -> Any:
        """Machine `number` of this composition; there is more than one at depth 0 only."""

    @abstractmethod
    def cpus_of(self, count: int) -> list[Any]:
        """The CPUs of a host."""

    @abstractmethod
    def hypervisor(self, number: int, level: Any, wanted: Wanted) -> Step[H]:
        """L(number) boots on `level` and is ready to run guest hosts: `wanted` of them."""

    @abstractmethod
    def guest_host(self, own: list[Any], number: int, life: int, storey: Storey) -> Any:
        """A fresh guest host on the last hypervisor of the chain, its `number`-th seat."""

    @abstractmethod
    def linked(self, level: Any) -> LinkedLevel:
        """What a host holds of `level` if it is asked by message."""

    @abstractmethod
    def served(self, level: Any) -> Callable[[Issue], Step[Any]]:
        """The other end of that."""

    @abstractmethod
    def leaks(self) -> Sequence[Any]:
        """The books of every level held against the one below: what only one of the two has."""

    @abstractmethod
    def remains(self) -> Mapping[str, int]:
        """What secure guests and their hosts hold in the machine, by kind."""

    def check(self, wanted: Wanted) -> None:
        """Raises ValueError for hosts that cannot be."""
        if not 0 <= self.depth <= self.max_depth:
            raise ValueError(f"depth {self.depth}: allowed are 0 to {self.max_depth}")
        if not 1 <= wanted.hosts <= self.max_hosts:
            raise ValueError(f"{wanted.hosts} hosts: allowed are 1 to {self.max_hosts}")
        if wanted.cpus < 1:
            raise ValueError(f"{wanted.cpus} CPUs: allowed is 1 or more")

    def stands(self) -> None:
        """Everything below the hosts at the top is up; they come next."""

    def seated(self) -> None:
        """The hosts at the top are there."""

    # -- how it is built

    def build(self, wanted: Wanted) -> None:
        """The whole of it. Raises ValueError for what cannot be."""
        self.check(wanted)
        if not self.depth:
            for number in range(wanted.hosts):
                own = self.cpus_of(wanted.cpus)
                machine = self.machine(number, Storey(wanted.memory, wanted.cpus, self.profile), own)
                self.machines.append(machine)
                self.seats.append(Seat(number, machine, own, wanted.memory))
            return
        storeys = self.storeys(wanted)
        run(self._storeys(0, storeys, wanted))
        self.stands()
        self._take_seats(wanted)

    def build_lower(self, wanted: Wanted) -> None:
        """L0's half, `wanted` at the depth of the whole: its seats are L1's, whatever runs there."""
        if self.depth == 1:
            self.build(wanted)
            return
        self.check(wanted)
        first, second, *_ = self.storeys(wanted)  # what is spare is L0's
        l1 = Wanted(1, second.size, second.cpus)
        run(self._storeys(0, [first], l1))
        self.stands()
        own = self.cpus_of(second.cpus)
        self.depth = 1
        self.seats.append(Seat(0, self.guest_host(own, 0, 1, second), own, second.size))
        self.seated()

    def build_upper(self, level: Any, wanted: Wanted) -> Step[None]:
        """The other half, on `level` of L1: at depth 1 the host itself, else L1's hypervisor and so on."""
        if self.depth == 1:
            level.profile = self.profile
            self.seats.append(Seat(0, level, list(level.cpus), wanted.memory))
            return
        _, *storeys = self.storeys(wanted)
        level.profile = storeys[0].profile
        yield from self._storeys(1, storeys, wanted, level)
        self.stands()
        self._take_seats(wanted)

    def _storeys(self, first: int, storeys: list[Storey], top: Wanted, level: Any = None) -> Step[None]:
        """The hypervisors from L(first) up; `level` is what the first of them stands on, if it is there."""
        for number, storey in enumerate(storeys, first):
            if number == 0:
                level = self.machine(0, storey, self.cpus_of(storey.cpus))
                self.machines.append(level)
            elif number > first:
                level = self.guest_host(self.cpus_of(storey.cpus), 0, 1, storey)
            above = storeys[number - first + 1 :]
            carried = Wanted(1, above[0].size, above[0].cpus) if above else top
            self.levels.append(level)
            self.chain.append((yield from self.hypervisor(number, level, carried)))

    def _take_seats(self, wanted: Wanted) -> None:
        for number in range(wanted.hosts):
            own = self.cpus_of(wanted.cpus)
            level = self.guest_host(own, number, 1, Storey(wanted.memory, wanted.cpus, self.profile))
            self.seats.append(Seat(number, level, own, wanted.memory))
        self.seated()

    # -- who asks whom

    def seen(self, level: Any) -> Any:
        """A level as its host meets it: itself, or, where levels live apart, by messages."""
        return self.linked(level) if self.apart and not isinstance(level, LinkedLevel) else level

    def below(self, seat: int | None) -> tuple[Callable[[Issue], Step[Any]], ...]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine.

        None: L0's own software beside its guest hosts.
        """
        levels = self.levels[:1] if seat is None else [self.seats[seat].level, *reversed(self.levels)]
        return tuple(self.served(level) for level in levels)

    @property
    def own_cpus(self) -> range:
        """CPUs of L0 that no guest host runs on: those of its own software, where it has memory to spare."""
        count = len(self.machines[0].cpus)
        return range(count - SOFTWARE_CPUS, count)

    def is_machine(self, level: Any) -> bool:
        return any(level is machine for machine in self.machines)

    def emulations(self) -> Iterator[Any]:
        """The emulations in this process, those of the chain first."""
        for level in (*self.levels, *(seat.level for seat in self.seats)):
            if not self.is_machine(level) and not isinstance(level, LinkedLevel):
                yield level

    def books(self) -> Iterator[Book]:
        """What each level keeps about its guest hosts."""
        for level in self.emulations():
            yield level.book
            yield from getattr(level, "page_books", ())

    def locks(self) -> Iterator[tuple[str, str]]:
        """Who holds what just now, in words: guest hosts for their calls, hypervisors, L0 in the machine."""
        names = {id(seat.level): f"l{self.depth}.{seat.number}" for seat in self.seats}
        for level in self.emulations():
            holder = names.get(id(level), f"l{level.level}")
            yield from ((holder, lock) for lock in _held(level))
        for kernel in self.chain:
            yield from ((f"l{kernel.level}", lock) for lock in kernel.held())
        for machine in self.machines:
            yield from (("l0", lock) for lock in _held(machine))

    # -- what happens to a host

    def reset(self, seat: int, kind: str) -> Step[None]:
        """The host on `seat` restarts. Calls of its that are parked have ended before."""
        if kind not in self.resets:
            raise ValueError(f"no reset {kind!r}: allowed are {', '.join(self.resets)}")
        yield from self.reset_level(self.seats[seat].level, kind)

    def reset_level(self, level: Any, kind: str) -> Step[None]:
        """What a reset of `kind` does to the level that the host meets."""
        if self.is_machine(level):
            level.reset()
        else:
            yield from level.reset()

    def power_off(self, machine: Any) -> None:
        """A machine whose host died is as it was at the start."""
        machine.reset()

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word and a fresh one takes its place."""
        yield from self.end(seat, "l1_crash")
        if not self.is_machine(self.seats[seat].level):
            self.seat_anew(seat)

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        level = self.seats[seat].level
        if self.is_machine(level):
            self.power_off(level)
        else:
            yield from level.death(cause)

    def seat_anew(self, seat: int) -> None:
        """A fresh guest host takes the place of one that is dead."""
        place = self.seats[seat]
        place.lives += 1
        for cpu in place.cpus:
            cpu.reset()
        storey = Storey(place.memory_bytes, len(place.cpus), self.profile)
        place.level = self.guest_host(place.cpus, place.number, place.lives, storey)

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """The level below puts other frames under secure pages of the host; returns how many it did."""
        raise ValueError("levels below swap no pages of secure guests on this architecture")

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """Release at most `pages` that a reboot of the host left over; returns how many are still there.

        Where a teardown is always whole, it leaves nothing.
        """
        yield from ()
        return 0


def _held(level: Any) -> Iterable[str]:
    """What calls that are under way keep others away from. A level need not have `locks`."""
    holds: Holds | None = getattr(level, "locks", None)
    return () if holds is None else holds.held()
