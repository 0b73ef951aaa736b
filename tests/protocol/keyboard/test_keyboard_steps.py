"""Steps of a guest, as they are typed: one kind each, and only so many."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from protocol.keyboard import Complaint, Fields
from protocol.keyboard.steps import RESULT_BYTES, STEPS, Steps


@dataclass(frozen=True)
class Read:
    length: int


@dataclass(frozen=True)
class Touch:
    page: int


KINDS: Steps[Any] = Steps(
    {"read": lambda step: Read(step.number("read")), "touch": lambda step: Touch(step.number("touch"))}, Read
)


@dataclass
class Program:
    steps: deque[Any] = field(default_factory=deque)

    def replace(self) -> None:
        self.steps.clear()


def complaint(what: Any) -> Complaint:
    with pytest.raises(Complaint) as caught:
        what()
    return caught.value


def test_a_step_is_of_exactly_one_kind() -> None:
    assert KINDS.parse(Fields({"do": [{"touch": 1}, {"read": 2}]})) == [Touch(1), Read(2)]
    for step in ({}, {"touch": 1, "read": 2}, {"sing": 1}):
        assert complaint(lambda step=step: KINDS.parse(Fields({"do": [step]}))).code == "bad_value"


def test_steps_are_appended_or_take_the_place_of_those_still_to_do() -> None:
    program = Program()
    KINDS.queue(program, [Touch(1)], replace=False)
    KINDS.queue(program, [Touch(2)], replace=False)
    assert list(program.steps) == [Touch(1), Touch(2)]
    KINDS.queue(program, [Touch(3)], replace=True)
    assert list(program.steps) == [Touch(3)]


@pytest.mark.parametrize(
    ("there", "more"),
    [([Touch(0)] * STEPS, [Touch(1)]), ([Read(RESULT_BYTES)], [Read(1)])],
    ids=["steps", "bytes that reads gather"],
)
def test_a_program_has_limits_and_what_is_over_them_changes_nothing(
    there: list[Any], more: list[Any]
) -> None:
    program = Program(deque(there))
    assert complaint(lambda: KINDS.queue(program, more, replace=False)).code == "limit"
    assert list(program.steps) == there
    KINDS.queue(program, more, replace=True)
    assert list(program.steps) == more
