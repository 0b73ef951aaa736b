"""Two records of one life, and what counts as a difference between them."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch import load
from protocol.effects import Issue, Step
from protocol.nesting.composition import Rig
from protocol.soak import isolation
from protocol.soak.isolation import DRAWN, alone_and_beside, difference, watched
from protocol.soak.options import Tally, Violation

A, B, C = DRAWN, DRAWN + 1, DRAWN + 2  # numbers that a Trusted Entity may have drawn


def test_two_equal_records_do_not_differ() -> None:
    assert not difference([("call", 1, "->", 2), ("call", A)], [("call", 1, "->", 2), ("call", A)])


def test_the_first_observation_that_differs_is_named() -> None:
    said = difference([("call", 1), ("call", 2), ("call", 3)], [("call", 1), ("call", 7), ("call", 8)])
    assert said == "observation 1 is ('call', 7) beside a hostile host, ('call', 2) alone"


def test_a_life_that_observes_more_beside_a_hostile_host_differs() -> None:
    assert difference([("call", 1)], [("call", 1), ("call", 1)]) == (
        "2 observations beside a hostile host, 1 alone"
    )


@pytest.mark.parametrize(
    ("alone", "beside", "same"),
    [
        ([(A, B)], [(C, A)], True),
        ([(A,), (A,)], [(B,), (C,)], False),
        ([(A,), (B,)], [(C,), (C,)], False),
        ([(A,)], [(5,)], False),
        ([(DRAWN - 1,)], [(DRAWN - 2,)], False),
        ([("a",)], [("b",)], False),
        ([(1,)], [(1, 2)], False),
    ],
    ids=["one for one", "two for one", "one for two", "small", "below", "words", "longer"],
)
def test_one_drawn_number_stands_for_one(alone: isolation.Seen, beside: isolation.Seen, same: bool) -> None:
    assert (not difference(alone, beside)) is same


def test_what_a_step_asks_and_is_answered_is_seen() -> None:
    def step() -> Step[str]:
        answer = yield Issue("call", (1, b"block", (2, 3)))
        return f"ended with {answer}"

    seen: isolation.Seen = []
    steps = watched(step(), seen)
    assert next(steps) == Issue("call", (1, b"block", (2, 3)))
    with pytest.raises(StopIteration) as end:
        steps.send(9)
    assert end.value.value == "ended with 9"
    assert seen == [("call", 1, 2, 3, "->", 9)]


def test_a_level_that_fails_for_a_hostile_sibling_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Rig.below

    def fails(_: Issue) -> Step[object]:
        raise KeyError("lost")

    def below(self: Any, seat: int) -> Any:
        return (fails,) if seat == 1 else real(self, seat)

    monkeypatch.setattr(Rig, "below", below)
    with pytest.raises(Violation, match=r"level: .*, pef: KeyError"):
        alone_and_beside(load("pef"), 1, "seed", Tally())
