"""The answer: its sentences, its figures, and what it makes of incomplete input."""

from __future__ import annotations

from typing import Any

import pytest

from actors.compare import bundle
from actors.compare.answer import answer, figures, held, number, ratio
from actors.compare.outcome import Outcome
from protocol.plan.scenario import Scenario

Json = dict[str, Any]


def document(results: list[Json], **more: Any) -> Json:
    return bundle.document(Scenario(), Outcome(results), []) | more


def test_the_headline_says_what_each_path_costs_and_times_direct(result: Any) -> None:
    (part,) = answer(document([result("hosted"), result("nested"), result("direct")])).parts
    assert part.headline == (
        "s390: exits that arrive at L0: direct 152; nested 307 (2.0x direct); hosted 182 (1.2x direct)"
    )


def test_the_headline_names_what_it_leaves_out(results: list[Json]) -> None:
    (part,) = answer(document(results)).parts
    assert "without swap, which not every path has: direct 132" in part.headline


def test_break_even_is_said_in_the_words_of_the_document(results: list[Json]) -> None:
    (part,) = answer(document(results)).parts
    assert any(text.startswith("guests of a host: ") for text in part.breakeven)


def test_break_even_of_the_document_is_taken_as_it_is(results: list[Json]) -> None:
    given = {
        "s390": [{"of": "guests", "at": 3, "text": "guests: hosted from 3 on"}, {"of": "x", "at": 1_500}]
    }
    (part,) = answer(document(results, breakeven=given)).parts
    assert part.breakeven == ("guests: hosted from 3 on", "of x, at 1,500")


def test_each_architecture_is_a_part_with_its_title_and_how_real_it_is(result: Any) -> None:
    said = answer(
        document([result("direct"), result("nested"), result("direct", arch="sev")]), {"s390": "IBM Z"}
    )
    assert [(part.arch, part.title) for part in said.parts] == [("s390", "IBM Z"), ("sev", "")]
    assert said.parts[0].realism == "prototype: the nested path has been shown to work"
    assert said.parts[1].realism == "", "there is no nested path whose realism could be said"


def test_claims_hold_do_not_hold_or_were_not_judged(results: list[Json], claims: list[Json]) -> None:
    said = answer(document(results, claims=claims))
    assert [claim.word for claim in said.claims] == ["holds", "does not hold", "not judged"]
    assert said.claims[1].figures == "nested records 46, hosted records 42"
    assert held(said.claims) == "1 of 2 claims hold; 1 could not be judged"


def test_a_document_without_results_is_an_answer_without_parts() -> None:
    said = answer({"results": [], "interrupted": True})
    assert (said.parts, said.claims, said.stopped) == ((), (), True)


def test_modelled_time_is_kept_apart(result: Any) -> None:
    said = answer(document([result("direct") | {"modelled": {"total_ns": 12_345, "assumed": 0.58}}]))
    assert said.parts[0].modelled == (("direct", "total ns 12,345, assumed 0.58"),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (1.0, "1.0x"),
        (3.749, "3.7x"),
        (0.04, "0.04x"),
        (0.0004, "<0.01x"),
        (0.0, "0.0x"),
        (99.96, "100.0x"),
        (1234.5, "1,234x"),
    ],
)
def test_a_ratio_is_shown_with_as_much_as_it_says(value: float | None, text: str) -> None:
    assert ratio(value) == text


def test_numbers_have_separators_and_what_is_lacking_a_dash() -> None:
    assert [number(value) for value in (None, 0, 999, 1_234_567)] == ["-", "0", "999", "1,234,567"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a_b": 1_000, "c": {"d": True, "e": None}}, "a b 1,000, c d yes, c e -"),
        ([1, 2.5, "x"], "1, 2.5, x"),
        (123456.7, "123,457"),
        ("as it is", "as it is"),
        ({}, ""),
    ],
)
def test_figures_are_one_line(value: Any, text: str) -> None:
    assert figures(value) == text
