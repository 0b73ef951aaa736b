"""Two records of one life, and what counts as a difference between them."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch import load
from protocol.crossing import Serve, Thread
from protocol.effects import Issue, Step
from protocol.errors import RemoteProtocolError
from protocol.nesting.composition import Rig
from protocol.soak import isolation
from protocol.soak.isolation import DRAWN, alone_and_beside, difference, watched
from protocol.soak.living import Life
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


def test_a_life_that_a_sibling_cannot_touch_is_the_same_with_and_without_it() -> None:
    tally = Tally()
    alone_and_beside(load("pef"), 1, "seed", tally)
    assert tally.checks["isolation"] == 1


def beside(monkeypatch: pytest.MonkeyPatch, serves: Serve) -> None:
    """What the hostile sibling asks goes here; the victim's life is short."""
    monkeypatch.setattr(isolation, "OPERATIONS", 20)
    real = Rig.below

    def below(self: Any, seat: int) -> Any:
        return (serves,) if seat == 1 else real(self, seat)

    monkeypatch.setattr(Rig, "below", below)


def test_a_sibling_that_loses_its_link_dies_and_comes_again_and_that_is_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives = [0]

    def closed(_: Issue) -> Step[object]:
        lives[0] += 1
        raise RemoteProtocolError("shape", "no call")

    beside(monkeypatch, closed)
    tally = Tally()
    alone_and_beside(load("pef"), 1, "seed", tally)
    assert tally.checks["isolation"] == 1
    assert lives[0] > 10


def test_what_a_sibling_changes_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Life.live

    def live(self: Life) -> Step[str]:
        """As if it had seen how often its sibling came again."""
        ended = yield from real(self)
        self.observed.append(("seen", str(self.island.hosts[1].lives)))
        return ended

    def closed(_: Issue) -> Step[object]:
        raise RemoteProtocolError("shape", "no call")

    beside(monkeypatch, closed)
    monkeypatch.setattr(Life, "live", live)
    said = r"isolation: pef at depth 1, seed seed: observation \d+ is \('seen', '\d+'\) beside"
    with pytest.raises(Violation, match=said):
        alone_and_beside(load("pef"), 1, "seed", Tally())


def test_what_a_checker_says_while_the_victim_is_served_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hop(self: Thread) -> None:
        raise Violation("secrecy", "a byte of the guest's")

    monkeypatch.setattr(isolation, "OPERATIONS", 20)
    monkeypatch.setattr(Thread, "hop", hop)
    with pytest.raises(Violation, match=r"^secrecy: a byte of the guest's"):
        alone_and_beside(load("pef"), 1, "seed", Tally())


def test_a_level_that_fails_for_a_hostile_sibling_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Issue) -> Step[object]:
        raise KeyError("lost")

    beside(monkeypatch, fails)
    with pytest.raises(Violation, match=r"level: .*, pef: KeyError"):
        alone_and_beside(load("pef"), 1, "seed", Tally())
