"""From where on which path is cheaper: held to trying every number."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.compare.breakeven import Line, break_even, cheaper, questions
from protocol.plan.scenario import Scenario, as_dict

Json = dict[str, Any]
COSTS = st.builds(Line, st.integers(0, 50).map(Fraction), st.fractions(0, 5, max_denominator=3))
FAR = 400  # beyond any meeting of two such lines


@given(COSTS, COSTS)
def test_it_is_what_trying_every_number_finds(nested: Line, hosted: Line) -> None:
    first, then, at = cheaper(nested, hosted)
    signs = [_sign(nested.fixed + n * nested.each, hosted.fixed + n * hosted.each) for n in range(FAR)]
    kinds = set(signs) - {0}
    if not kinds:
        assert (first, then, at) == (None, None, None)
    elif len(kinds) == 1:
        name = "nested" if kinds == {-1} else "hosted"
        assert (first, then, at) == (name, name, None)
    else:
        assert at is not None
        beginning = next(sign for sign in signs if sign)
        assert first == ("nested" if beginning < 0 else "hosted")
        assert then == ("hosted" if beginning < 0 else "nested")
        assert all(sign != -beginning for sign in signs[:at])
        assert set(signs[at:]) == {-beginning}


def _sign(a: Fraction, b: Fraction) -> int:
    return (a > b) - (a < b)


def scenario() -> Json:
    """Of the synthetic results: two hosts, four guests, 20 exits each, 5 swaps each."""
    tree = as_dict(Scenario())
    tree["l1"]["count"], tree["guest"]["per_l1"] = 2, 2
    tree["run"] |= {"swap_pages": 5, "page_changes": 0, "resets": 0, "reboots": 0}
    for kind in tree["run"]["exits"].values():
        kind["count"] = 5
    return tree


def answers(results: list[Json], **more: Any) -> dict[str, Json]:
    found = break_even(scenario() | more, results)["s390"]
    return {each["of"]: each for each in found if each["unit"] == "exits"}


def test_what_a_scenario_never_does_is_not_asked() -> None:
    asked = [question.of for question in questions(scenario())]
    assert asked == [
        "guests of a host",
        "exits of a guest",
        "pages that a guest touches first",
        "pages swapped out and in",
    ]


def test_fixed_and_running_costs_are_those_of_the_phases(result: Any) -> None:
    found = answers([result("nested"), result("hosted")])["exits of a guest"]
    assert found["each"] == {"nested": 2.0, "hosted": 1.0}
    assert found["fixed"] == {"nested": 26.0, "hosted": 13.0}
    assert (found["first"], found["then"], found["at"]) == ("hosted", "hosted", None)
    assert "hosted is cheaper, however many" in found["text"]


def test_where_the_lines_meet_is_said_in_words(result: Any) -> None:
    """A host costs 15 against 1.5 to set up; a guest 38 against 76."""
    found = answers([result("nested"), result("hosted")])["guests of a host"]
    assert found["fixed"] == {"nested": 1.5, "hosted": 15.0}
    assert found["each"] == {"nested": 76.0, "hosted": 38.0}
    assert (found["first"], found["then"], found["at"]) == ("nested", "hosted", 1)
    assert found["text"] == (
        "guests of a host: hosted is cheaper from the first one on; "
        "nested 1.50 for the host and 76 for each, hosted 15 for the host and 38 for each"
    )


def test_a_later_meeting_is_said_with_its_number(result: Any) -> None:
    dear = result("hosted")
    dear["phases"]["host_setup"]["exits"] += 300
    found = answers([result("nested"), dear])["guests of a host"]
    assert (found["first"], found["then"], found["at"]) == ("nested", "hosted", 5)
    assert "nested is cheaper at first, hosted from 5 on; " in found["text"]


def test_what_costs_nothing_on_either_path_is_said_so(result: Any) -> None:
    found = answers([result("nested"), result("hosted")])["pages that a guest touches first"]
    assert found["text"] == "pages that a guest touches first: none on either path"


def test_cleaning_up_is_compared_in_calls_as_well(result: Any) -> None:
    """L0 cleans up by itself: that is no exit."""
    tree = scenario()
    tree["run"]["reboots"] = 2
    nested, hosted = result("nested"), result("hosted")
    nested["phases"]["owner_reboot"] = {"exits": 4, "te_issued": 400}
    hosted["phases"]["owner_reboot"] = {"exits": 20, "te_issued": 300}
    by_unit = {
        each["unit"]: each
        for each in break_even(tree, [nested, hosted])["s390"]
        if each["of"] == "sudden reboots of a host"
    }
    assert by_unit["exits"]["first"] == "nested"
    assert by_unit["te_issued"]["each"] == {"nested": 200.0, "hosted": 150.0}
    assert by_unit["te_issued"]["text"].startswith(
        "sudden reboots of a host, in calls at the real TE: hosted is"
    )


def test_equal_costs_are_called_equal(result: Any) -> None:
    same = [result("nested"), result("nested") | {"path": "hosted"}]
    assert "both cost the same" in answers(same)["exits of a guest"]["text"]


def test_what_a_path_lacks_cannot_be_compared(result: Any) -> None:
    found = answers([result("nested"), result("hosted", lacks=["swap"])])
    swapped = found["pages swapped out and in"]
    assert swapped["at"] is None
    assert "first" not in swapped
    assert "hosted has no swap (the owner cannot reach the pages)" in swapped["text"]
    assert found["guests of a host"]["each"] == {"nested": 66.0, "hosted": 33.0}
    assert found["guests of a host"]["text"].endswith("which is left out on both")


def test_one_path_alone_has_no_break_even(result: Any) -> None:
    assert break_even(scenario(), [result("nested"), result("direct")]) == {}
