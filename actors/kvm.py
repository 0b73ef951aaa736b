"""A hypervisor as an actor: it emulates the Trusted Entity for its guest hosts, on the level below.

Each guest host has a port of its own; who asks is said by the port and never by the message. A guest host
that is gone is torn down with no help from it: what is under way for it gets the answer that it waits for
and then OwnerGone; when the last of that has ended, the emulation's own teardown runs, and whoever asked
for notices is told.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from actors.runtime.actor import Actor, Runtime
from actors.runtime.port import Deliver, Port
from protocol.effects import Issue, Step, record
from protocol.errors import NestbedError, NotDelivered, OperationalError, OwnerGone, RemoteProtocolError

Serve = Callable[[Issue], Step[Any]]
End = Callable[[str], Step[None]]
Notify = Callable[["Reclaimed"], None]


class FromHost(NamedTuple):
    """One operation that the guest host `host` asks for."""

    host: str
    effect: Issue


@dataclass(frozen=True, slots=True)
class Control:
    """Something that the hypervisor does to a guest host by itself: swap its frames, reboot it."""

    host: str
    step: Callable[[], Step[Any]]


@dataclass(frozen=True, slots=True)
class TearDown:
    """Reclaim everything of a guest host that is gone."""

    host: str


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """A notice that nobody waits for: nothing of this guest host is left. `cause` says why it went."""

    host: str
    cause: str


@dataclass(slots=True)
class Seat:
    """A guest host as its hypervisor has it. `end(cause)` is the emulation's teardown."""

    serve: Serve
    end: End
    in_flight: int = 0
    cause: str = ""  # set once it is gone
    notify: list[Notify] = field(default_factory=list)


class Kvm:
    """The actor of one hypervisor. `below` takes what its emulations issue."""

    def __init__(self, name: str, below: Port, runtime: Runtime) -> None:
        self.actor = Actor(name, self._handle, runtime, perform=below.submit)
        self._seats: dict[str, Seat] = {}

    def add(self, host: str, serve: Serve, end: End) -> Port:
        """Take a guest host and return its port. Raises ValueError for a name that is taken."""
        if host in self._seats:
            raise ValueError(f"{self.actor.name} has a guest host {host} already")
        self._seats[host] = Seat(serve, end)
        return HostPort(self.actor, host)

    def watch(self, host: str, notify: Notify) -> None:
        """Have `notify` called once when nothing of `host` is left; at once if it is not here."""
        seat = self._seats.get(host)
        if seat is None:
            notify(Reclaimed(host, "unknown"))
        else:
            seat.notify.append(notify)

    def hosts(self) -> tuple[str, ...]:
        """Names of the guest hosts that are here, those in teardown among them."""
        return tuple(self._seats)

    def gone(self, host: str, cause: str) -> None:
        """Say that a guest host ended. The second time changes nothing."""
        seat = self._seats.get(host)
        if seat is None or seat.cause:
            return
        seat.cause = cause
        self.actor.abandon(host)
        if not seat.in_flight:
            self.actor.submit(TearDown(host), _begun)

    async def control(self, host: str, step: Callable[[], Step[Any]]) -> Any:
        """Do `step` to a guest host, in turn with what it asks for. Raises NotDelivered if it is not here."""
        return await self.actor.ask(Control(host, step), host)

    # -- one message

    def _handle(self, message: object) -> Step[Any]:
        match message:
            case FromHost():
                host, effect = message
                seat = self._seats.get(host)
                if seat is None or seat.cause:
                    seat = self._alive(host)
                return self._for(host, seat, seat.serve(effect))
            case Control(host, step):
                return self._for(host, self._alive(host), step())
            case TearDown(host):
                return self._tear_down(host)
        raise RemoteProtocolError("kind", f"not asked of a hypervisor: {type(message).__name__}")

    def _alive(self, host: str) -> Seat:
        seat = self._seats.get(host)
        if seat is None or seat.cause:
            raise NotDelivered(f"{self.actor.name} has no guest host {host}")
        return seat

    def _for(self, host: str, seat: Seat, step: Step[Any]) -> Step[Any]:
        """Do something for a guest host; the last to end after its death reclaims what it leaves."""
        seat.in_flight += 1
        answer, error = None, None
        try:
            answer = yield from step
        except NestbedError as raised:
            error = raised
        seat.in_flight -= 1
        if seat.cause and not seat.in_flight:
            yield from _heedless(self._tear_down(host))
        if error is not None:
            raise error
        return answer

    def _tear_down(self, host: str) -> Step[None]:
        seat = self._seats[host]
        yield from seat.end(seat.cause)
        del self._seats[host]
        for notify in seat.notify:
            notify(Reclaimed(host, seat.cause))


def _begun(_value: object, error: BaseException | None) -> None:
    # The mailbox has room for it: every peer's credits together are fewer than it holds.
    assert not isinstance(error, NotDelivered), "a teardown was lost"


def _heedless(step: Step[None]) -> Step[None]:
    """Drive `step` for an owner that is gone already: the news of that is not for it."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = step.send(answer) if error is None else step.throw(error)
        except StopIteration:
            return
        while True:
            try:
                answer, error = (yield effect), None
            except OwnerGone:
                continue  # it was not performed
            except OperationalError as raised:
                answer, error = None, raised
            break


class HostPort:
    """Where one guest host asks. A `Port`."""

    __slots__ = ("_actor", "_host")

    def __init__(self, actor: Actor, host: str) -> None:
        self._actor = actor
        self._host = host

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Ask for an operation, on behalf of the guest host that has this port."""
        if not isinstance(message, Issue):
            deliver(None, RemoteProtocolError("kind", f"not an operation: {type(message).__name__}"))
            return
        self._actor.submit(record(FromHost, (self._host, message)), deliver, self._host)
