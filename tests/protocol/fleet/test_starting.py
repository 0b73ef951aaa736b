"""A machine's side of a start: the number is its own in the directory before anything is done."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.fleet.directory import MACHINES, PLACEMENTS, Get, Put, Value
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.lease import SILENT
from protocol.fleet.placing import Answer, Placement, open_placement, pack_placement
from protocol.fleet.starting import Start, started

NUMBER = "t0.0"
OK = {"t": "ok", "b": {"child": 1}}
FULL = {"t": "err", "b": {"name": "QUOTA"}}


@dataclass
class Directory:
    """Takes a write over the revision that was seen. What is `late` arrives when the test says so."""

    values: dict[tuple[str, str], Value] = field(default_factory=dict)
    revision: int = 0

    def put(self, asked: Put) -> int:
        name = (asked.bucket, asked.key)
        if asked.over != self.values.get(name, Value(0)).revision:
            return 0
        self.revision += 1
        self.values[name] = Value(self.revision, asked.data)
        return self.revision

    def placed(self) -> Placement | None:
        value = self.values.get((PLACEMENTS, NUMBER))
        return open_placement(value.data) if value else None

    def drive(
        self, steps: Generator[Any, Any, Answer | None], reply: Any = OK, late: list[Put] | None = None
    ) -> Answer | None:
        """`late` takes what gives a number back: it is under way, and nobody answers."""
        found: Any = None
        while True:
            try:
                effect = steps.send(found)
            except StopIteration as end:
                answer: Answer | None = end.value
                return answer
            if isinstance(effect, Start):
                found = reply
            elif isinstance(effect, Get):
                found = self.values.get((effect.bucket, effect.key), Value(0))
            elif late is not None and not open_placement(effect.data).machine:
                late.append(effect)
                found = 0
            else:
                found = self.put(effect)


def start(machine: str = "l0-0", epoch: int = 1, holds: bool = True) -> Generator[Any, Any, Answer | None]:
    return started(
        NUMBER,
        machine,
        epoch,
        lambda value: open_entry(value.data) if value.revision > 0 else None,
        lambda: holds,
    )


def test_a_number_is_written_down_before_the_broker_is_asked() -> None:
    directory, steps = Directory(), start()
    assert steps.send(None) == Get(PLACEMENTS, NUMBER)
    put = steps.send(Value(0))
    assert put == Put(PLACEMENTS, NUMBER, pack_placement(Placement("l0-0", 1)), 0)
    assert steps.send(directory.put(put)) == Start(NUMBER)


def test_whoever_finds_the_number_of_a_living_machine_names_it() -> None:
    directory = Directory()
    directory.put(Put(MACHINES, "l0-0", pack_entry(Entry("i0", 1)), 0))
    directory.drive(start())
    assert directory.drive(start("l0-1")) == Answer("l0-1", 1, to="l0-0")


def test_the_number_of_a_life_that_is_over_is_taken_over() -> None:
    directory = Directory()
    directory.drive(start())
    directory.put(Put(MACHINES, "l0-0", pack_entry(Entry("i1", 2)), 0))
    assert directory.drive(start("l0-1")) == Answer("l0-1", 1, OK)
    assert directory.placed() == Placement("l0-1", 1)


def test_a_machine_that_did_nothing_gives_the_number_back() -> None:
    directory = Directory()
    assert directory.drive(start(), FULL) == Answer("l0-0", 1, FULL)
    assert directory.placed() == Placement("", 0)


def test_a_number_that_is_given_back_late_is_not_given_back_under_a_guest() -> None:
    directory, late = Directory(), list[Put]()
    directory.drive(start(), FULL, late)
    directory.drive(start())  # asked again: now there is room, and a guest is there
    for put in late:
        directory.put(put)
    assert directory.placed() == Placement("l0-0", 1)


def test_past_the_lease_the_broker_is_not_asked() -> None:
    assert Directory().drive(start(holds=False), None) is None


def test_a_former_life_does_not_take_what_a_later_one_has() -> None:
    directory = Directory()
    directory.drive(start(epoch=2))
    with pytest.raises(RemoteProtocolError, match="later life"):
        directory.drive(start(epoch=1))


def test_a_directory_that_does_not_answer_means_that_nothing_is_done() -> None:
    steps = start()
    steps.send(None)
    with pytest.raises(NotDelivered):
        steps.send(Value(SILENT))


def test_a_directory_that_takes_no_write_is_asked_a_few_times() -> None:
    steps, asked = start(), 0

    def go_on() -> None:
        nonlocal asked
        effect = steps.send(None)
        while True:
            asked += isinstance(effect, Put)
            effect = steps.send(Value(0) if isinstance(effect, Get) else 0)

    with pytest.raises(NotDelivered):
        go_on()
    assert asked > 1
