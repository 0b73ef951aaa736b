"""A tenant of a fleet: it has guests placed by `placed`, asks again with the same number, and ends them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.errors import NotDelivered, OutcomeUnknown
from protocol.fleet.placing import Answer, Ask, List, NoRoom, Place, placed
from protocol.soak.options import Violation

if TYPE_CHECKING:
    from protocol.soak.fleet import Fleet

ANSWER_MS = 3_000
NUMBERS = 3  # at a time
KEEPS_MS = 6_000  # a guest, at most


@dataclass(slots=True)
class Number:
    """A number on its way: `machine` and `epoch` once a guest was promised."""

    name: str
    steps: Place | None = None
    asked: int = 0  # the question under way; 0 for none
    listing: bool = False  # it is who else is there
    until_ms: int = 0
    next_ms: int = 0
    machine: str = ""
    epoch: int = 0
    ending: bool = False


@dataclass(slots=True)
class Tenant:
    name: str
    fleet: Fleet
    random: Random
    numbers: list[Number] = field(default_factory=list)
    next_ms: int = 0
    _made: int = 0
    _asked: int = 0

    def wants(self) -> bool:
        now = self.fleet.now_ms
        if now < self.next_ms:
            return False
        more = len(self.numbers) < NUMBERS and not self.fleet.finishing
        return more or any((each.until_ms if each.asked else each.next_ms) <= now for each in self.numbers)

    def act(self) -> None:
        now = self.fleet.now_ms
        self.next_ms = now + self.random.randrange(20, 400)
        for each in self.numbers:
            if each.asked and each.until_ms <= now:
                self._tell(each, OutcomeUnknown("no answer"))
                return
        ready = [each for each in self.numbers if not each.asked and each.next_ms <= now]
        if ready:
            self._go_on(self.random.choice(ready))
        else:  # there is room for one more: `wants`
            self._made += 1
            self.numbers.append(Number(f"{self.name}.{self._made:024x}"))

    def _go_on(self, one: Number) -> None:
        if one.machine:
            self._ask(one, one.machine, "destroy")
        else:
            one.steps, one.listing = placed(), False
            self._step(one, None)

    def _step(self, one: Number, found: Any) -> None:
        assert one.steps is not None
        try:
            if one.listing and isinstance(found, Exception):
                raise found
            effect = one.steps.send(found)
        except StopIteration as end:
            self._placed(one, end.value)
        except (NotDelivered, OutcomeUnknown, NoRoom):
            one.next_ms = self.fleet.now_ms + self.random.randrange(200, 4_000)
        else:
            one.listing = isinstance(effect, List)
            if isinstance(effect, Ask):
                self._ask(one, effect.machine, "start")
            else:
                assert isinstance(effect, List), "a broker of the soak has the image"
                self._ask(one, "any", "list")

    def _placed(self, one: Number, answer: Answer) -> None:
        self.fleet.tally.done["fleet_placed"] += 1
        one.machine, one.epoch = answer.machine, answer.epoch
        one.next_ms = self.fleet.now_ms + self.random.randrange(KEEPS_MS)

    def _ask(self, one: Number, machine: str, verb: str) -> None:
        self._asked += 1
        one.asked, one.until_ms = self._asked, self.fleet.now_ms + ANSWER_MS
        if not self.fleet.question(self, machine, verb, one.name, self._asked):
            self._tell(one, NotDelivered(f"nobody is at {machine}"))

    def told(self, asked: int, answer: object) -> None:
        for one in self.numbers:
            if one.asked == asked:
                self._tell(one, answer)
                return

    def _tell(self, one: Number, found: Any) -> None:
        one.asked = 0
        if not one.machine:
            self._step(one, found)
        elif isinstance(found, Answer):
            self._destroyed(one, found)
        else:
            one.ending = one.ending or isinstance(found, OutcomeUnknown)
            one.next_ms = self.fleet.now_ms + self.random.randrange(200, 2_000)

    def _destroyed(self, one: Number, answer: Answer) -> None:
        """A guest that was promised is there, as long as its machine is in the same life."""
        self.fleet.tally.checks["fleet_history"] += 1
        assert answer.reply is not None
        if answer.epoch == one.epoch and not one.ending and not answer.reply["b"]["found"]:
            raise Violation("fleet", f"{one.name}: promised by {one.machine} in {one.epoch}, and not there")
        self.numbers.remove(one)
