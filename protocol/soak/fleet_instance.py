"""One process of a fleet: it claims a machine, keeps its lease, and starts guests for whoever asks.

What it does is the code of `protocol.fleet`; here is only what drives it: questions to the directory that may
stay without an answer, a clock of its own, and a broker that knows its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.fleet.directory import Get, Value
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.keeping import giving_back, renewal, tried
from protocol.fleet.lease import SILENT, Challenge, Claim
from protocol.fleet.placing import Answer
from protocol.fleet.starting import Start, started

if TYPE_CHECKING:
    from protocol.soak.fleet import Fleet

LENGTH_S = 4.0  # of a lease
ANSWER_MS = 600  # that the directory has
AGAIN_MS = 150  # that a broker takes for a start, at most
TRIES_MS = 1_000  # between two tries to claim a machine, at most
FULL = 0.2  # of the starts that find no room
Job = Generator[Any, Any, Any]


@dataclass(slots=True)
class Wait:
    job: Job
    then: Callable[[Any], None]
    until_ms: int
    silent: object  # what no answer means


@dataclass(slots=True)
class Instance:
    """`rate` and `offset_s`: its clock against the true one. `life` tells its processes apart."""

    name: str
    machine: str
    fleet: Fleet
    random: Random
    rate: float = 1.0
    offset_s: float = 0.0
    life: int = 1
    claim: Claim | None = None
    remembered: int = 0
    stopped_until: int = 0
    next_ms: int = 0
    guests: dict[str, int] = field(default_factory=dict)  # by number
    known: dict[str, int] = field(default_factory=dict)  # what its broker has answered, by number
    leaving: bool = False
    _challenge: Challenge | None = None
    _asking: bool = False  # a try or a renewal is under way
    _waits: dict[int, Wait] = field(default_factory=dict)
    _starts: list[tuple[str, Wait]] = field(default_factory=list)
    _locked: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    _numbers: int = 0

    # -- time and leases -------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.offset_s + self.fleet.now_ms / 1000 * self.rate

    def holds(self) -> bool:
        """What the code under test says of its lease."""
        return self.claim is not None and not self.claim.is_over(self.now())

    def has_lease(self) -> bool:
        """The same, as the checker counts it."""
        return self.claim is not None and self.now() <= self.claim.until

    @property
    def stopped(self) -> bool:
        return self.fleet.now_ms < self.stopped_until

    @property
    def quiet(self) -> bool:
        return not (self._waits or self._starts or self._asking)

    def wants(self) -> bool:
        if self.stopped:
            return False
        return bool(self._late()) or bool(self._starts) or self._lease_is_due()

    def _late(self) -> list[int]:
        return [number for number, wait in self._waits.items() if wait.until_ms <= self.fleet.now_ms]

    def _lease_is_due(self) -> bool:
        if self._asking or self.fleet.now_ms < self.next_ms:
            return False
        return self.claim is not None or not self.leaving or not self.fleet.free(self.machine)

    def act(self) -> None:
        late = self._late()
        if late:
            wait = self._waits.pop(late[0])
            self.fleet.tally.done["fleet_unknown_outcome"] += 1
            self._go_on(wait.job, wait.then, wait.silent)
        elif self._starts and (self.random.random() < 0.5 or not self._lease_is_due()):
            name, wait = self._starts.pop(0)
            self._go_on(wait.job, wait.then, self._broker(name))
        elif self.claim is not None:
            self._asking = True
            self.next_ms = self.fleet.now_ms + self.random.randrange(20, AGAIN_MS)
            self._go_on(renewal(self.claim, self.holder, self._mine, opened, self.now), self._renewed)
        else:
            self._asking = True
            self.next_ms = self.fleet.now_ms + self.random.randrange(TRIES_MS // 2, TRIES_MS)
            self._challenge = self._challenge or Challenge(LENGTH_S, self.now())
            steps = tried(self.machine, self._challenge, self._mine, self.remembered, opened, self.now)
            self._go_on(steps, self._claimed)

    @property
    def holder(self) -> str:
        return f"{self.name}.{self.life}"

    def _mine(self, _machine: str, epoch: int) -> bytes:
        return pack_entry(Entry(self.holder, epoch, children=4))

    def _claimed(self, won: Claim | None) -> None:
        self._asking = False
        if won is not None:
            self.claim, self.remembered = won, won.epoch
            self.fleet.tally.done["fleet_claimed"] += 1
            self.fleet.one_holder(self)
            if self.leaving:
                self.release()

    def _renewed(self, outcome: Any) -> None:
        self._asking = False
        if outcome.lost:
            self.fleet.tally.done["fleet_lost"] += 1
            self.end()
        elif outcome.accepted:
            assert self.claim is not None
            self.next_ms = max(self.next_ms, self.fleet.now_ms + int(self.claim.pause_s * 1000 / self.rate))
            self.fleet.one_holder(self)

    def release(self) -> None:
        """Its end in order: guests first, then the machine is given back."""
        claim = self.claim
        self.end()
        if claim is not None:
            self.fleet.ask(self, 0, giving_back(claim))

    def end(self) -> None:
        """The process is gone, with all that it ran; another one comes, which may know its last life."""
        self.life += 1
        self.claim = self._challenge = None
        self._asking = False
        self.guests, self.known, self._waits, self._starts, self._locked = {}, {}, {}, [], {}
        if self.random.random() < 0.5:
            self.remembered = 0
        self.next_ms = self.fleet.now_ms + self.random.randrange(100, 4000)

    # -- starts ----------------------------------------------------------------------------------------------

    def start(self, name: str, reply: Callable[[Answer], None]) -> None:
        """One request of a number at a time, as the service has it."""
        assert self.claim is not None
        claim = self.claim

        def ended(answer: object) -> None:
            waiting = self._locked.get(name)
            if waiting:
                waiting.pop(0)()
            else:
                self._locked.pop(name, None)
            if isinstance(answer, NotDelivered):
                answer = Answer(self.machine, claim.epoch)
            if isinstance(answer, Answer):  # else its lease is over, or a later life has the number
                self.serve(lambda: reply(answer))

        def begin() -> None:
            self._go_on(started(name, self.machine, claim.epoch, opened, self.holds), ended)

        if name in self._locked:
            self._locked[name].append(begin)
        else:
            self._locked[name] = []
            begin()

    def serve(self, answer: Callable[[], None]) -> None:
        """Answer, unless the lease is over."""
        if self.holds():
            self.fleet.serves(self)
            answer()

    def _broker(self, name: str) -> dict[str, Any]:
        if name not in self.known:
            if self.random.random() < FULL and not self.fleet.finishing:
                return {"t": "err", "b": {"name": "QUOTA"}}
            self.known[name] = self.guests[name] = self.fleet.guest_made()
            self.fleet.one_guest(name)
        return {"t": "ok", "b": {"child": self.known[name]}}

    # -- what is under way -----------------------------------------------------------------------------------

    def _go_on(self, job: Job, then: Callable[[Any], None], answer: object = None) -> None:
        try:
            effect = job.send(answer)
        except StopIteration as stop:
            then(stop.value)
        except (NotDelivered, RemoteProtocolError) as error:
            then(error)
        else:
            self._numbers += 1
            until = self.fleet.now_ms + ANSWER_MS
            if isinstance(effect, Start):
                self._starts.append((effect.name, Wait(job, then, until, None)))
                return
            silent = Value(SILENT) if isinstance(effect, Get) else 0
            self._waits[self._numbers] = Wait(job, then, until, silent)
            self.fleet.ask(self, self._numbers, effect)

    def told(self, life: int, number: int, answer: object) -> None:
        """The directory has answered."""
        wait = self._waits.pop(number, None) if life == self.life else None
        if wait is not None:
            self._go_on(wait.job, wait.then, answer)


def opened(value: Value) -> Entry | None:
    return open_entry(value.data) if value.revision > 0 else None
