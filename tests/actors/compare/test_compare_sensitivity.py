"""What an answer rests on: against the sums that it is about, and in words."""

from __future__ import annotations

from typing import Any

import pytest

from actors.compare.answer import answer
from actors.compare.outcome import Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.compare.sensitivity import edge, said
from actors.costs import shipped
from actors.scenario import load

SMALL = {
    "l1.count": "1",
    "guest.per_l1": "2",
    "guest.touch_pages": "16",
    "guest.image_pages": "8",
    "run.reboots": "0",
    "run.deaths": "0",
}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    scenario = load(None, flags={**SMALL, "paths": "nested,hosted"}).scenario
    return run(scenario, Progress(), costs=shipped())


def life(outcome: Outcome, path: str) -> int:
    result = next(each for each in outcome.results if each["path"] == path)
    phases = outcome.sensitivity["s390"]["phases"]
    return sum(result["modelled"]["phases"][phase]["ns"] for phase in phases if phase in result["phases"])


def test_the_ratio_is_that_of_the_modelled_lives(outcome: Outcome) -> None:
    found = outcome.sensitivity["s390"]
    assert found["ratio"] == pytest.approx(life(outcome, "nested") / life(outcome, "hosted"), rel=1e-4)
    assert found["low"] <= found["ratio"] <= found["high"]
    assert "owner_reboot" not in found["phases"]


def test_whatever_turns_the_answer_round_lies_within_its_range(outcome: Outcome) -> None:
    found = outcome.sensitivity["s390"]
    assert all(turn["low_ns"] <= turn["turns_at_ns"] <= turn["high_ns"] for turn in found["flips"])
    assert not (found["certain"] and found["flips"])
    swings = [abs(bar["high"] - bar["low"]) for bar in found["tornado"]]
    assert swings == sorted(swings, reverse=True)


def test_the_same_seed_says_the_same(outcome: Outcome) -> None:
    scenario = load(None, flags={**SMALL, "paths": "nested,hosted"}).scenario
    assert run(scenario, Progress(), costs=shipped()).sensitivity == outcome.sensitivity


def test_it_is_said_with_the_answer(outcome: Outcome) -> None:
    document = {"results": outcome.results, "sensitivity": outcome.sensitivity}
    part = answer(document).parts[0]
    sentences = said(part.sensitivity)
    assert sentences[0].startswith("a guest's life nested takes ")
    assert any(text.startswith("most of the uncertainty: ") for text in sentences)
    assert any("256 on a host" in text for text in sentences)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"rate": None, "verdict": "always hosted"}, "hosting is cheaper at any rate of exits"),
        ({"rate": None, "verdict": "always nested"}, "nesting is cheaper at any rate of exits"),
        ({"rate": None, "verdict": "the same"}, "both cost the same"),
        (
            {"rate": 12.0, "low": 1.0, "high": None, "verdict": "hosted above"},
            "hosted is cheaper above 12 exits/s (range 1 to no rate)",
        ),
    ],
)
def test_a_point_of_the_surface_in_words(row: dict[str, Any], text: str) -> None:
    assert edge(row) == text


def test_one_path_alone_has_nothing_to_turn() -> None:
    scenario = load(None, flags={**SMALL, "paths": "nested"}).scenario
    assert run(scenario, Progress(), costs=shipped()).sensitivity == {}
