"""Which level refused: watched steps go their way as they would alone, and only refusals are told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from protocol.calls import Basis, CallSpec, Category, Check, Issuer, Treatment
from protocol.effects import Step, run
from protocol.errors import OwnerGone
from protocol.watch import NO_CHECK, Asked, Watch, WatchedKeyboard, at_once, by_dispatcher, by_row

REFUSED = 0x102
ROW = CallSpec(
    0x10,
    "make",
    "Make",
    Category.VM,
    Treatment.MODIFIED,
    "a reason",
    0x20,
    Issuer.HOST,
    "1.2",
    checks=(Check(0x101, "too large"), Check(REFUSED, "too odd", Basis.GUESS)),
)


@dataclass
class Level:
    """A level that refuses odd numbers by itself, and hands all others to the level below, if any."""

    level: int = 0
    below: Level | None = None
    undone: list[int] = field(default_factory=list)

    def make(self, number: int) -> Step[int]:
        if number % 2:
            return REFUSED
        try:
            yield number
        except OwnerGone:
            self.undone.append(number)
            raise
        return 0 if self.below is None else (yield from self.below.make(number // 2))


class ToyWatch(Watch):
    """Puts itself around `make` of a level."""

    def hook(self, level: Any) -> None:
        alone = level.make

        def ended(asked: Asked, code: int) -> None:
            if code:
                self.refused(asked, by_row(level, ROW, code))

        level.make = lambda number: self.around(level, alone(number), ended)


@pytest.fixture
def watch() -> ToyWatch:
    return ToyWatch()


def driven(step: Step[int]) -> int:
    """The answer of a step whose effects nobody answers."""
    try:
        while True:
            step.send(None)
    except StopIteration as stop:
        code: int = stop.value
        return code


def test_a_refusal_is_the_levels_that_decided_it(watch: ToyWatch) -> None:
    machine = Level()
    host = Level(1, machine)
    for level in (machine, host, host):  # once is enough
        watch.attach(level)
    assert driven(host.make(2)) == REFUSED
    found = watch.last(host)
    assert found is not None
    assert (found.level, found.text, found.basis, found.places) == ("L0 machine", "too odd", "guess", (1,))
    assert driven(host.make(3)) == REFUSED
    own = watch.last(host)
    assert own is not None
    assert (own.level, own.serial) == ("emulation at L1", found.serial + 1)


def test_what_is_thrown_into_a_watched_step_reaches_it(watch: ToyWatch) -> None:
    level = Level()
    watch.attach(level)
    step = level.make(4)
    assert next(step) == 4
    with pytest.raises(OwnerGone):
        step.throw(OwnerGone("the host is gone"))
    assert level.undone == [4]
    assert watch.current is None
    assert watch.last(level) is None


def test_a_code_that_no_check_of_the_row_has_is_said_to_be_so() -> None:
    assert by_row(Level(), ROW, 0x999).text == NO_CHECK
    assert by_dispatcher(Level(2), "make", 5, "no such call").general
    assert run(at_once(7)) == 7


class Console:
    """A keyboard of one host: `call` asks its level, everything else is an error."""

    def __init__(self) -> None:
        self.levels = [Level()]
        self.seats = [self]
        self.level = Level(1, self.levels[0])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "number" not in request:
            return {"id": request["id"], "error": {"code": "bad_request"}}
        return {"id": request["id"], "ok": {"rc": driven(self.level.make(request["number"]))}}


def test_only_answers_of_calls_that_were_refused_explain_themselves(watch: ToyWatch) -> None:
    keyboard = WatchedKeyboard(Console(), watch)
    refused = keyboard.answer({"id": 1, "op": "call", "number": 6, "host": "0x0"})
    assert refused["explain"] == {"level": "L0 machine", "check": "too odd", "call": "make", "basis": "guess"}
    assert keyboard.answer({"id": 2, "op": "call", "number": 4}) == {"id": 2, "ok": {"rc": 0}}
    assert keyboard.answer({"id": 3, "op": "call"}) == {"id": 3, "error": {"code": "bad_request"}}
    assert keyboard.answer({"id": 4, "op": "info", "number": 3}) == {"id": 4, "ok": {"rc": REFUSED}}
