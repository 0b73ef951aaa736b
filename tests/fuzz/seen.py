"""What a host's software issued, taken apart into numbers: the material of which a fuzzer makes calls.

A call of anything in every field is refused at the first check. One that real software made, with a field or
two changed, comes as far as the last: that is what samples are for.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from draw import PAGE, number

from protocol.calls import CallSpec
from protocol.effects import Issue, Step

KEPT = 24  # samples of one call
POOL = 96  # values of one field
CAUGHT = 0x200  # bytes that are kept of what a number points at
LARGE = 1 << 21
Numbers = dict[str, int]  # of a call, by the names of its fields


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: its numbers, what stood in memory where they point, in which state its CPU was."""

    numbers: Numbers
    memory: Mapping[int, bytes]
    state: tuple[tuple[str, Any], ...] = ()


class Taker(Protocol):
    """How an architecture's messages are read."""

    handles: frozenset[str]  # fields whose values are those of one life

    def likely(self, field: str, random: Random, pools: Mapping[str, Sequence[int]]) -> int | None:
        """A value that a call may take which no software issues; None: nothing is known of that field."""
        ...

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        """The name and the numbers of a call; None: it is no call of the table.

        `answered`: with what the answer says.
        """
        ...

    def state(self, issue: Issue, level: Any) -> tuple[tuple[str, Any], ...]:
        """What a call needs its CPU to be: attributes and their values."""
        ...


class Seen:
    """Samples of each call, values of each field, and messages that are no calls."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.messages = 0  # of all software
        self.samples: dict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=KEPT))
        self.pools: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=POOL))
        self.numbers: deque[int] = deque(maxlen=POOL)
        self.others: deque[Issue] = deque(maxlen=POOL)

    def begin(self, handles: frozenset[str]) -> None:
        """A new life: what was named before is mostly gone."""
        for field in handles:
            self.numbers.extend(list(self.pools.pop(field, ()))[-2:])

    def see(self, issue: Issue, level: Any, taker: Taker) -> None:
        """Software issues something. Of a call that it makes often most are left out."""
        self.messages += 1
        call = taker.taken(issue, level)
        if call is None:
            if issue.operation != "poll":
                self.others.append(issue)
            return
        name, numbers = call
        kept = self.samples[name]
        if len(kept) < 5 or self._random.random() < 0.1:
            kept.append(Sample(numbers, dict(self._pointed_at(numbers, level)), taker.state(issue, level)))
        for field, value in numbers.items():
            if value:
                self.pools[field].append(value)
                self.numbers.append(value)

    def answered(self, issue: Issue, level: Any, taker: Taker) -> None:
        """Names of entities that the answer has: nobody has issued them yet."""
        call = taker.taken(issue, level, answered=True)
        for field, value in call[1].items() if call is not None else ():
            if value and field in taker.handles:
                self.pools[field].append(value)

    def _pointed_at(self, numbers: Numbers, level: Any) -> list[tuple[int, bytes]]:
        found = []
        for value in set(numbers.values()):
            address = value & ~7
            if PAGE <= address < level.size - CAUGHT:
                block = level.peek(address, CAUGHT)
                if isinstance(block, bytes):
                    found.append((address, block))
        return found

    def value(self, field: str) -> int:
        """A number for a field: one that stood there, one near it, of another field, or anything."""
        random = self._random
        way, pool = random.random(), self.pools.get(field)
        if not pool or way > 0.75:
            return number(random, self.numbers)
        value = random.choice(pool)
        if way < 0.45:
            return value
        if way < 0.52:
            return value & -LARGE | random.choice((0, 1, 2))  # a large page, or a level of a table
        return near(random, value)

    def made(self, spec: CallSpec, fields: tuple[str, ...], named: str, taker: Taker) -> Sample:
        """A call like one that was seen; or of numbers alone, its handle mostly right."""
        random = self._random
        samples = self.samples.get(spec.name)
        if samples and random.random() < 0.7:
            sample = random.choice(samples)
            changes = int(random.random() * 4)
            numbers = dict(sample.numbers)
            if self.pools.get(named) and random.random() < 0.9:
                numbers[named] = self._late(self.pools[named])
            for _ in range(changes):
                field = random.choice(fields)
                numbers[field] = self.value(field)
            return Sample(numbers, sample.memory, sample.state)
        numbers = {field: self.value(field) if random.random() < 0.8 else 0 for field in fields}
        if random.random() < 0.6:
            for field in numbers:
                likely = taker.likely(field, random, self.pools) if random.random() < 0.9 else None
                numbers[field] = numbers[field] if likely is None else likely
        if named in numbers and self.pools.get(named) and random.random() < 0.8:
            numbers[named] = self._late(self.pools[named])
        return Sample(numbers, {})

    def _late(self, pool: deque[int]) -> int:
        """Mostly of a guest that there is now, and at which software stopped."""
        return pool[-1 - int(self._random.random() ** 3 * len(pool))]


def near(random: Random, value: int) -> int:
    if random.random() < 0.4:
        return max(0, value + random.choice((-PAGE, -8, -1, 1, 8, PAGE)))
    return value ^ 1 << int(random.random() * random.choice((4, 16, 52, 64)))


class GivenUp(Exception):
    """A host's own software cannot go on in the world that the fuzzer made of its host."""


def watched(
    step: Step[Any],
    seen: Seen,
    level: Any,
    taker: Taker,
    most: int,
    on_its_way: Callable[[Issue], None],
    due: Callable[[Issue], None],
) -> Step[Any]:
    """The step of a host's software, of which `most` messages are let through; then it stops where it is.

    `on_its_way` sees each message before it goes, `due` the one that would have been the next. Raises GivenUp
    for whatever the software itself ends with; what a level raises comes through as it is.
    """
    answer: Any = None
    while True:
        try:
            effect = step.send(answer)
        except StopIteration as end:
            return end.value
        except Exception as error:
            raise GivenUp from error
        if isinstance(effect, Issue):
            if most == 0:
                break
            most -= 1
            seen.see(effect, level, taker)
            on_its_way(effect)
        answer = yield effect
        if isinstance(effect, Issue):
            seen.answered(effect, level, taker)
    due(effect)
    step.close()
    return None
