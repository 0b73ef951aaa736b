"""L0's machine as the hosting broker meets it: guests that are L0's own and belong to a guest host.

L0's software runs the guests. A guest is known to the broker by its child's id, to the software by the
number that its owner gave it in the label `guest`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from actors.given import whole
from actors.runtime.port import Deliver, Port
from protocol.errors import LevelGone, NotDelivered, OperationFailed, TeRefused
from protocol.hosting.machine import (
    CreateGuest,
    DestroyGuest,
    Died,
    DumpGuest,
    Found,
    Inventory,
    LoadGuest,
    MachineEffect,
    NeedMemory,
    NoImage,
    ResetGuest,
    StartGuest,
    StopGuest,
    TeError,
    Vanished,
)
from protocol.memory.pool import OutOfFrames
from protocol.plan.operations import Create, Destroy, Dump, Load, Operation, Reset, Start

GUESTS = 1 << 32  # numbers that an owner may give
GUEST = "guest"  # the label that says which of its guests the owner means


@dataclass(slots=True)
class Place:
    """Where a child runs: the host of its owner's share, and its number there."""

    owner: int
    host: Port
    guest: int
    running: bool = False
    dump: bytes = b""  # the last one, until it has been fetched to its end


STEPS = (CreateGuest, LoadGuest, StartGuest)


@dataclass(slots=True)
class Course:
    """How far a start may go: each step waits until the plan comes to it, and says when it is over."""

    wanted: set[type[MachineEffect]] = field(default_factory=set)
    waiting: dict[type[MachineEffect], Callable[[], None]] = field(default_factory=dict)
    over: dict[type[MachineEffect], trio.Event] = field(
        default_factory=lambda: {step: trio.Event() for step in STEPS}
    )

    async def go_on(self, step: type[MachineEffect]) -> None:
        """Let `step` be done, and wait until it is, or until the start has failed before it."""
        self.wanted.add(step)
        waiting = self.waiting.pop(step, None)
        if waiting is not None:
            waiting()
        await self.over[step].wait()

    def end(self) -> None:
        """The start is over, whatever the way."""
        for event in self.over.values():
            event.set()


class HostedGuests:
    """The port `machine` of the broker. `hosts` are L0's, by the context id of whose guests they run.

    `receive` takes the bytes of an image that came over the interface, before its guest is made.
    """

    def __init__(self, hosts: Mapping[int, Port], receive: Callable[[bytes], None]) -> None:
        self._hosts = hosts
        self._receive = receive
        self._places: dict[bytes, Place] = {}
        self._courses: dict[tuple[int, int], Course] = {}

    def course(self, owner: int, guest: int) -> Course:
        """Hold the next start of that guest of `owner` to the plan's course."""
        course = self._courses[owner, guest] = Course()
        return course

    # -- the broker's effects

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Do one thing to the guest of a child."""
        if isinstance(message, Inventory):
            deliver({child: Found(place.running) for child, place in self._places.items()}, None)
            return
        assert isinstance(message, MachineEffect)
        course = self._courses.get(self._whose(message))
        step = type(message)
        if course is None or step not in STEPS:
            self._perform(message, deliver)
            return

        def answered(value: object, error: BaseException | None) -> None:
            course.over[step].set()
            deliver(value, error)

        if step in course.wanted:
            self._perform(message, answered)
        else:
            course.waiting[step] = partial(self._perform, message, answered)

    def number(self, effect: CreateGuest) -> int:
        """What L0's software calls the guest: the number that its owner gave it; -1 if it gave none."""
        return _number(effect)

    def _whose(self, effect: MachineEffect) -> tuple[int, int]:
        """Owner and number of the guest that an effect is about."""
        if isinstance(effect, CreateGuest):
            return effect.owner_cid, _number(effect)
        place = self._places.get(effect.child)
        return (-1, -1) if place is None else (place.owner, place.guest)

    def _perform(self, effect: MachineEffect, deliver: Deliver) -> None:
        if isinstance(effect, CreateGuest):
            self._create(effect, deliver)
            return
        place = self._places.get(effect.child)
        if place is None:
            deliver(Vanished(), None)
            return
        match effect:
            case LoadGuest():
                self._do(place, Load(place.guest), deliver)
            case StartGuest():
                self._do(place, Start(place.guest), self._then(deliver, place, running=True))
            case ResetGuest():
                self._do(place, Reset(place.guest, clear=True), deliver)
            case StopGuest():
                # The guest's CPUs leave their run loop; its entities stay until it is destroyed.
                place.running = False
                deliver(None, None)
            case DumpGuest(_, offset, count):
                self._dump(place, offset, count, deliver)
            case DestroyGuest():
                del self._places[effect.child]
                self._do(place, Destroy(place.guest), deliver)
            case _:
                raise AssertionError(f"no step of a machine: {effect!r}")

    def _create(self, effect: CreateGuest, deliver: Deliver) -> None:
        host, number = self._hosts.get(effect.owner_cid), self.number(effect)
        if host is None or number < 0:
            deliver(Died(1), None)
            return
        try:
            self._receive(effect.image)
        except ValueError as error:
            deliver(NoImage(str(error)), None)
            return
        place = self._places[effect.child] = Place(effect.owner_cid, host, number)

        def answered(value: object, error: BaseException | None) -> None:
            if error is not None:
                self._places.pop(effect.child, None)
            deliver(*_told(value, error))

        host.submit(Create(place.guest, effect.spec.memory_mib, effect.spec.vcpus), answered)

    def _dump(self, place: Place, offset: int, count: int, deliver: Deliver) -> None:
        """From the beginning it is a dump of this moment; the other pieces are of the same one."""
        if offset:
            size, piece = len(place.dump), place.dump[offset : offset + count]
            if offset + count >= size:
                place.dump = b""
            deliver((size, piece), None)
            return

        def dumped(value: object, error: BaseException | None) -> None:
            if isinstance(value, bytes):
                place.dump = value
                value = (len(value), value[:count])
            deliver(*_told(value, error))

        place.host.submit(Dump(place.guest, keep=True), dumped)

    @staticmethod
    def _do(place: Place, operation: Operation, deliver: Deliver) -> None:
        place.host.submit(operation, lambda value, error: deliver(*_told(value, error)))

    @staticmethod
    def _then(deliver: Deliver, place: Place, running: bool) -> Deliver:
        def answered(value: object, error: BaseException | None) -> None:
            place.running = running and error is None
            deliver(value, error)

        return answered


class NumberedGuests(HostedGuests):
    """The same where owners know nothing of each other: L0 numbers the guests itself."""

    def number(self, effect: CreateGuest) -> int:
        taken = {place.guest for place in self._places.values()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def guest_of(self, child: bytes) -> int:
        """The number of the guest of `child`. Raises NotDelivered if none runs."""
        place = self._places.get(child)
        if place is None or not place.running:
            raise NotDelivered("no guest of that name runs")
        return place.guest


def _number(effect: CreateGuest) -> int:
    """What the owner calls the guest; -1 if it gave it no number."""
    label = effect.spec.labels.get(GUEST, "")
    number = whole(label, GUESTS)
    return -1 if number is None else number


def _told(value: object, error: BaseException | None) -> tuple[object, BaseException | None]:
    """How the host's answer is told to the broker: failures of the machine are values there."""
    if error is None:
        return value, None
    if isinstance(error, TeRefused):
        return TeError(error.call, error.rc, error.rrc), None
    if isinstance(error, LevelGone):
        return Vanished(), None
    if isinstance(error, OutOfFrames):
        return NeedMemory(1), None
    if isinstance(error, OperationFailed):
        return Died(1), None
    return None, error
