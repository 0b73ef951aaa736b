"""A host that issues what it likes: a compromised kernel, at whatever point its software has come to.

It stands between a host's software and its level. Software brings it deep into the architecture's states;
from there it changes registers and blocks, issues what it or another host issued before, with the other's
handles, and stores anything into its own memory. It knows no architecture: a number is a number. What it
leaves alone is what a host does not say on hardware (which CPU it is, which level), because the link says it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any

from protocol.effects import Issue, Step

SAID_BY_THE_LINK = frozenset({"Who", "CpuState"})
NOT_CHOSEN = frozenset({"changed", "cpu", "number", "origin", "level", "stay", "park", "program", "vcpu"})
CHANGED, REPLAYED, STORED = 0.06, 0.05, 0.05  # of all that is issued
KEPT = 256
U64 = 1 << 64
BLOCK = 0x100  # bytes that a block mostly has
LIKED = (0, 1, 2, 0xFFF, 0x1000, 0x10000, 1 << 20, 1 << 31, (1 << 31) + 0x1000, 1 << 32, 1 << 52, U64 - 1)


class Loot:
    """What hosts of one island issued, and what stood in the blocks that they pointed at."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.issued: deque[Issue] = deque(maxlen=KEPT)
        self.numbers: deque[int] = deque(maxlen=KEPT)
        self.blocks: deque[bytes] = deque(maxlen=KEPT)

    def see(self, issue: Issue, level: Any) -> None:
        """A host issues something: now and then somebody looks."""
        if self._random.random() > 0.1:
            return
        self.issued.append(issue)
        for number in numbers(issue.arguments):
            if number > 1:
                self.numbers.append(number)
            if 0x1000 <= number < level.size - BLOCK:
                block = level.peek(number & ~7, BLOCK)
                if isinstance(block, bytes):
                    self.blocks.append(block)
                    at = 8 * self._random.randrange(BLOCK // 8)
                    self.numbers.append(int.from_bytes(block[at : at + 8], "big"))


def looked_at(step: Step[Any], loot: Loot, level: Any) -> Step[Any]:
    """The step, and others see what it issues."""
    answer: Any = None
    while True:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            return stop.value
        assert isinstance(effect, Issue), "software of a host only asks"
        loot.see(effect, level)
        answer = yield effect


def numbers(value: Any) -> Iterator[int]:
    """All numbers in a request, without what the link says."""
    if type(value).__name__ in SAID_BY_THE_LINK or isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from numbers(each)


class Corrupted:
    """The steps of a host's software, with what a hostile kernel makes of them."""

    def __init__(self, step: Step[Any], random: Random, loot: Loot, level: Any, patience: int = 0) -> None:
        self._step, self._random, self._loot, self._level = step, random, loot, level
        self._patience = patience  # so many messages are left as they are

    def steps(self) -> Step[Any]:
        """Ends as the software does."""
        answer: Any = None
        while True:
            try:
                effect = self._step.send(answer)
            except StopIteration as stop:
                return stop.value
            assert isinstance(effect, Issue), "software of a host only asks"
            answer = yield from self._issue(effect)

    def _issue(self, effect: Issue) -> Step[Any]:
        random = self._random
        self._patience -= 1
        if self._patience >= 0:
            return (yield effect)
        if random.random() < STORED:
            self._store()
        if random.random() < REPLAYED and self._loot.issued:
            mine = random.choice(self._loot.issued)
            if mine.operation != "poll":
                yield self._changed(mine, 0.3)
        if random.random() < CHANGED:
            effect = self._changed(effect, 1.0)
        return (yield effect)

    # -- memory ----------------------------------------------------------------------------------------------

    def _store(self) -> None:
        """A store of the host's CPU into its own memory: to a block that it uses, or anywhere."""
        address = self._number(0x1000) & ~7
        if not 0 <= address < self._level.size - BLOCK:
            address = 8 * self._random.randrange((self._level.size - BLOCK) // 8)
        data = self._random.randbytes(8)
        if self._random.random() < 0.5:
            data = self._number(0).to_bytes(8, self._random.choice(("big", "little")))
        elif self._loot.blocks and self._random.random() < 0.5:
            data = self._random.choice(self._loot.blocks)
        self._level.write(address + 8 * self._random.randrange(16), data)

    # -- requests --------------------------------------------------------------------------------------------

    def _changed(self, issue: Issue, much: float) -> Issue:
        arguments = tuple(self._other(value, much) for value in issue.arguments)
        return Issue(issue.operation, arguments)

    def _other(self, value: Any, much: float) -> Any:
        """The same shape with other numbers in it."""
        name = type(value).__name__
        if name in SAID_BY_THE_LINK or value is None or isinstance(value, bool | str):
            return value
        if name == "Program":
            return type(value)()  # a guest does what its own code does, not another one's
        if isinstance(value, int):
            return self._number(value) if self._random.random() < much / 3 else value
        if isinstance(value, bytes):
            return self._random.randbytes(len(value)) if self._random.random() < much / 3 else value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            made = [
                each if field in NOT_CHOSEN and name_of(each) != "Program" else self._other(each, much)
                for field, each in zip(value._fields, value, strict=True)
            ]
            return type(value)(*made)
        if isinstance(value, tuple | list):
            return type(value)(self._other(each, much) for each in value)
        if is_dataclass(value) and not isinstance(value, type):
            chosen = {
                field.name: self._other(getattr(value, field.name), much)
                for field in fields(value)
                if field.name not in NOT_CHOSEN or field.name == "program"
            }
            return replace(value, **chosen)
        return value

    def _number(self, old: int) -> int:
        random, width = self._random, 64 if old.bit_length() > 32 else 32
        way = random.randrange(6)
        if way == 0 and self._loot.numbers:
            new = random.choice(self._loot.numbers)
        elif way == 1:
            new = old ^ 1 << random.randrange(width)
        elif way == 2:
            new = random.choice(LIKED)
        elif way == 3:
            new = old + random.choice((-0x1000, -8, -1, 1, 8, 0x1000, 1 << 20))
        elif way == 4:
            new = random.getrandbits(width)
        else:
            new = random.randrange(64)
        return new % (1 << width)


def name_of(value: Any) -> str:
    return type(value).__name__
