"""One message at a time, whatever the actor behind could do at once."""

from __future__ import annotations

from typing import Any

from actors.runtime.mailbox import MailboxFull
from actors.runtime.port import Deliver
from actors.runtime.serial import Serial


class Behind:
    """A port that answers at once, or when the test says so."""

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once
        self.begun: list[object] = []
        self.waiting: list[Deliver] = []

    def submit(self, message: object, deliver: Deliver, owner: object = None) -> None:
        self.begun.append(message)
        if self.at_once:
            deliver(message, None)
        else:
            self.waiting.append(deliver)

    def answer(self) -> None:
        self.waiting.pop(0)("late", None)


def test_the_next_begins_when_the_one_before_has_been_answered() -> None:
    behind, answers = Behind(at_once=False), list[Any]()
    port = Serial(behind)
    for message in ("a", "b", "c"):
        port.submit(message, lambda value, error: answers.append((value, error)))
    assert behind.begun == ["a"]
    behind.answer()
    assert behind.begun == ["a", "b"]
    behind.answer()
    behind.answer()
    assert behind.begun == ["a", "b", "c"]
    assert answers == [("late", None)] * 3
    port.submit("d", lambda value, error: None)
    assert behind.begun[-1] == "d"


def test_answers_at_once_nest_no_calls() -> None:
    behind, answers = Behind(at_once=False), list[Any]()
    port = Serial(behind, capacity=5000)
    for number in range(5000):
        port.submit(number, lambda value, error: answers.append(value))
    behind.at_once = True
    behind.answer()
    assert behind.begun == list(range(5000))
    assert answers == ["late", *range(1, 5000)]


def test_what_waits_is_bounded() -> None:
    behind, answers = Behind(at_once=False), list[Any]()
    port = Serial(behind, capacity=1)
    for message in ("a", "b", "c"):
        port.submit(message, lambda value, error: answers.append(type(error)))
    assert answers == [MailboxFull]


def test_a_message_sent_by_an_answer_waits_its_turn() -> None:
    behind = Behind(at_once=True)
    port = Serial(behind)
    port.submit("a", lambda value, error: port.submit("b", lambda value, error: None))
    assert behind.begun == ["a", "b"]
