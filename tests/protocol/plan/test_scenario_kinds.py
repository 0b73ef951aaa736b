"""What a field of a scenario accepts, in words, and how its thresholds are read."""

from __future__ import annotations

import pytest

from protocol.plan.scenario import Kind, Scenario, Strategy, as_dict, kind_of, leaves, parse_threshold


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind("whole", low=1, high=9, unit="MiB"), "a whole number, 1 to 9 MiB"),
        (Kind("whole", high=9), "a whole number, 0 to 9"),
        (Kind("word", one_of=("a", "b")), "one of: a, b"),
        (Kind("words", one_of=("a", "b")), "a list of: a, b"),
        (Kind("words"), "a list of names"),
        (Kind("word"), "a name"),
        (Kind("word", pattern="x"), "1 to 64 of a-z, 0-9 and -"),
        (Kind("section"), "a table of settings"),
        (Kind("thresholds"), 'a table of "counts.PATH.NAME" or "load.PATH.FIGURE" = "< NUMBER"'),
        (Kind("text"), "a text"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_allowed_is_said_in_words(kind: Kind, words: str) -> None:
    assert kind.allowed() == words


def test_a_field_is_found_by_its_name() -> None:
    assert "merged_l0" in (kind_of(Strategy, "pages").one_of or ())
    assert kind_of(Scenario(), "thresholds").kind == "thresholds"


@pytest.mark.parametrize(
    ("text", "holds"), [("< 3", False), ("<= 3", True), (">=3", True), (" == 3.0 ", True)]
)
def test_a_threshold_holds_or_does_not(text: str, holds: bool) -> None:
    assert parse_threshold("counts.nested.exits", text).holds(3) is holds


@pytest.mark.parametrize("text", ["", "3", "=< 3", "< three", "< 3 exits", "!= 3"])
def test_what_is_no_threshold_is_told_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="one of < <= > >= == and a number"):
        parse_threshold("counts.nested.exits", text)


def test_a_scenario_as_a_table_has_every_setting_in_its_section() -> None:
    scenario = Scenario(thresholds=(parse_threshold("counts.nested.exits", "< 10"),))
    tree = as_dict(scenario)
    assert tree["thresholds"] == {"counts.nested.exits": "< 10"}
    for path, value, kind in leaves(scenario):
        place = tree
        for section in path.split("."):
            place = place[section]
        if kind.kind != "thresholds":
            assert place == (list(value) if isinstance(value, tuple) else value), path
