"""What a host does on its level, told as somebody would type it at a console."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from protocol.effects import Fault
from protocol.keyboard.recorded import Json, RecordedLevel
from protocol.memory.physical import Physical
from protocol.memory.store import PAGE

FRAMES = 4


class Memory:
    """A level's memory; behind its end there is a fault."""

    def __init__(self) -> None:
        self.physical = Physical(FRAMES)

    def read(self, address: int, length: int) -> bytes | Fault:
        if address + length > FRAMES * PAGE:
            return Fault(5, "addressing", address)
        return self.physical.read(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if address + len(data) > FRAMES * PAGE:
            return Fault(5, "addressing", address, True)
        self.physical.write(address, data)
        return None

    def clear(self, frames: np.ndarray | list[int]) -> None:
        self.physical.clear_many(frames)


class Recorded(RecordedLevel):
    def typed(self, step: Any) -> Json:
        return {"touch": step}


@dataclass
class Program:
    steps: deque[int] = field(default_factory=deque)


class Told:
    """A level whose host is written down: the requests, and the answers beside them."""

    def __init__(self) -> None:
        self.said: list[tuple[Json, Json]] = []
        self.memory = Memory()
        level: Any = self.memory
        self.level = Recorded(level, lambda request, answer: self.said.append((request, answer)))


@pytest.fixture
def told() -> Told:
    return Told()


def test_loads_stores_and_faults_are_told_with_their_answers(told: Told) -> None:
    assert told.level.write(8, b"ab") is None
    assert told.level.read(8, 2) == b"ab"
    end = FRAMES * PAGE
    assert isinstance(told.level.read(end, 1), Fault)
    assert isinstance(told.level.write(end, b"x"), Fault)
    at = hex(end)
    fault = {"code": "0x5", "name": "addressing", "address": at}
    assert told.said == [
        ({"id": 1, "op": "write", "addr": "0x8", "hex": "6162"}, {"id": 1, "ok": {}}),
        ({"id": 2, "op": "read", "addr": "0x8", "len": 2}, {"id": 2, "ok": {"hex": "6162"}}),
        ({"id": 3, "op": "read", "addr": at, "len": 1}, {"id": 3, "fault": fault | {"write": False}}),
        (
            {"id": 4, "op": "write", "addr": at, "hex": "78"},
            {"id": 4, "fault": fault | {"write": True}},
        ),
    ]


def test_pages_that_a_host_zeroes_are_told_one_by_one(told: Told) -> None:
    told.memory.physical.write(PAGE, b"x" * 3 * PAGE)
    told.level.clear([1, 3])
    assert told.memory.physical.read(PAGE, 3 * PAGE) == bytes(PAGE) + b"x" * PAGE + bytes(PAGE)
    assert [request for request, _ in told.said] == [
        {"id": 1, "op": "fill", "addr": hex(PAGE), "len": PAGE},
        {"id": 2, "op": "fill", "addr": hex(3 * PAGE), "len": PAGE},
    ]


def test_steps_of_a_guest_are_told_once_and_a_new_program_takes_the_place_of_the_old(told: Told) -> None:
    program, other = Program(deque((1, 2))), Program(deque((3,)))
    told.level.queue(0, program, vcpu="0x1")
    told.level.entered(0, program)
    told.level.queue(0, program, vcpu="0x1")  # nothing new
    program.steps.append(9)
    told.level.queue(0, program, vcpu="0x1")
    told.level.entered(0, program)
    told.level.queue(0, other, vcpu="0x1")
    assert [(request.get("replace", False), request["do"]) for request, _ in told.said] == [
        (False, [{"touch": 1}, {"touch": 2}]),
        (False, [{"touch": 9}]),
        (True, [{"touch": 3}]),
    ]
    assert [answer["ok"]["queued"] for _, answer in told.said] == [2, 3, 1]
