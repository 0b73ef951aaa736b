"""Episodes in a row: which of them run, who is told how far it is, and what a failure is told as."""

from __future__ import annotations

import pytest

from protocol.arch import load
from protocol.soak import Options, soak
from protocol.soak.checks import FULL, crossed
from protocol.soak.living import TAG
from protocol.soak.options import Tally, Violation
from protocol.soak.run import Failure

ARCHES = {"pef": load("pef")}


def test_one_episode_that_was_asked_for_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.soak.run.EPISODE", 100)  # so that there would be time for more
    told: list[tuple[int, int]] = []
    options = Options(seed=3, steps=100_000, arch="pef", episode=1)
    outcome = soak(options, ARCHES, lambda tally, number: told.append((number, tally.steps)))
    assert outcome.failure is None
    assert outcome.episodes == 1
    assert told == [(1, outcome.tally.steps)]
    assert soak(options, ARCHES).tally.trace == outcome.tally.trace, "who watches changes nothing"


def test_within_an_episode_it_is_told_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    options = Options(seed=3, steps=2 * FULL + 1, arch="pef", episode=1)
    outcome = soak(options, ARCHES, lambda tally, number: told.append((number, tally.steps)))
    assert len(told) == 3
    assert told[0][1] < told[1][1] < told[2][1] == outcome.tally.steps
    assert {number for number, _ in told} == {1}


def test_a_failure_says_where_and_what_need_not_go_wrong_for_it() -> None:
    failure = Failure("books", "two of one", 4, 17, frozenset({"swap", "hold"}))
    assert failure.body() == {
        "check": "books",
        "detail": "two of one",
        "episode": 4,
        "step": 17,
        "without": ["hold", "swap"],
    }


@pytest.mark.parametrize(
    "value",
    [TAG, b"before" + TAG + b"behind", bytearray(TAG), memoryview(TAG), (1, [b"", (TAG,)])],
    ids=["alone", "within", "bytearray", "memoryview", "deep inside"],
)
def test_a_secret_in_a_message_is_found_wherever_it_is(value: object) -> None:
    tally = Tally()
    with pytest.raises(Violation, match="an answer carries what a guest stored"):
        crossed("an answer", value, tally)
    assert tally.checks["secrecy_of_messages"] == 1


def test_a_message_without_a_secret_is_none() -> None:
    crossed("an answer", (1, b"plain", [None, TAG[:-1]], "text"), Tally())
