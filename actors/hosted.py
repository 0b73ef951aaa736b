"""L0's machine as the hosting broker meets it: guests that are L0's own and belong to a guest host.

Each requester has a share of L0's memory and a host of L0's software that runs its guests in it. A guest is
known to the broker by its child's id, to the host by the number that its owner gave it in the label
`guest`; one owner cannot name another's guest, because the share is chosen by who asked, as the transport
says it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from actors.runtime.port import Deliver, Port
from protocol.errors import LevelGone, OperationFailed, TeRefused
from protocol.hosting.machine import (
    CreateGuest,
    DestroyGuest,
    Died,
    LoadGuest,
    MachineEffect,
    NeedMemory,
    ResetGuest,
    StartGuest,
    StopGuest,
    TeError,
    Vanished,
)
from protocol.memory.pool import OutOfFrames
from protocol.plan.operations import Create, Destroy, Load, Operation, Reset, Start

GUEST = "guest"  # the label that says which of its guests the owner means


@dataclass(slots=True)
class Place:
    """Where a child runs: the host of its owner's share, and its number there."""

    owner: int
    host: Port
    guest: int
    running: bool = False


@dataclass(slots=True)
class Gate:
    """Holds a child's next step until the plan comes to it. Open by default."""

    open: bool = True
    waiting: list[tuple[MachineEffect, Deliver]] = field(default_factory=list)


class HostedGuests:
    """The port `machine` of the broker. `hosts` are L0's, by the context id of whose share they run."""

    def __init__(self, hosts: Mapping[int, Port]) -> None:
        self._hosts = hosts
        self._places: dict[bytes, Place] = {}
        self._gates: dict[tuple[int, int], dict[type, Gate]] = {}

    # -- the plan's order

    def hold(self, owner: int, guest: int) -> None:
        """Let the guest's load and start wait until `release` names them."""
        self._gates[owner, guest] = {LoadGuest: Gate(open=False), StartGuest: Gate(open=False)}

    def release(self, owner: int, guest: int, step: type[MachineEffect]) -> None:
        """The plan has come to that step of the guest."""
        gate = self._gates[owner, guest][step]
        gate.open = True
        waiting, gate.waiting = gate.waiting, []
        for effect, deliver in waiting:
            self._perform(effect, deliver)

    # -- the broker's effects

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Do one thing to the guest of a child."""
        assert isinstance(message, MachineEffect)
        place = self._places.get(message.child)
        if place is not None:
            gate = self._gates.get((place.owner, place.guest), {}).get(type(message))
            if gate is not None and not gate.open:
                gate.waiting.append((message, deliver))
                return
        self._perform(message, deliver)

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
            case DestroyGuest():
                del self._places[effect.child]
                self._do(place, Destroy(place.guest), deliver)
            case _:
                raise AssertionError(f"no step of a machine: {effect!r}")

    def _create(self, effect: CreateGuest, deliver: Deliver) -> None:
        host, label = self._hosts.get(effect.owner_cid), effect.spec.labels.get(GUEST, "")
        if host is None or not label.isdigit():
            deliver(TeError("create", 0), None)
            return
        place = self._places[effect.child] = Place(effect.owner_cid, host, int(label))

        def answered(value: object, error: BaseException | None) -> None:
            if error is not None:
                self._places.pop(effect.child, None)
            deliver(*_told(value, error))

        host.submit(Create(place.guest, effect.spec.memory_mib, effect.spec.vcpus), answered)

    @staticmethod
    def _do(place: Place, operation: Operation, deliver: Deliver) -> None:
        place.host.submit(operation, lambda value, error: deliver(*_told(value, error)))

    @staticmethod
    def _then(deliver: Deliver, place: Place, running: bool) -> Deliver:
        def answered(value: object, error: BaseException | None) -> None:
            place.running = running and error is None
            deliver(value, error)

        return answered


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
