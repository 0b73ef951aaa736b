"""A request taken apart: what is a number, what is none, and which field a complaint names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.keyboard import Complaint, Fields

U64_MAX = (1 << 64) - 1


def complaint(what: Any) -> Complaint:
    """The complaint that `what` raises."""
    with pytest.raises(Complaint) as caught:
        what()
    return caught.value


@given(st.integers(0, U64_MAX))
def test_a_number_may_be_written_in_both_ways(value: int) -> None:
    assert Fields({"n": value}).number("n") == Fields({"n": hex(value)}).number("n") == value
    assert Fields({"n": f"0x{value:020X}"}).number("n") == value


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        1.0,
        "12",
        "0x",
        "0X1",
        "0x1_0",
        " 0x1",
        "0x1 ",
        "-0x1",
        "0xg",
        "",
        [1],
        {"a": 1},
        "0x" + "f" * 65,
    ],
    ids=repr,
)
def test_what_only_looks_like_a_number_is_a_bad_value(value: object) -> None:
    wrong = complaint(lambda: Fields({"n": value}).number("n"))
    assert (wrong.code, wrong.field) == ("bad_value", "n")
    assert "allowed" in wrong.message


@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(-100, 100))
def test_a_number_is_refused_exactly_outside_its_bounds(value: int, low: int, high: int) -> None:
    fields = Fields({"n": value})
    if low <= value <= high:
        assert fields.number("n", low=low, high=high) == value
    else:
        assert complaint(lambda: fields.number("n", low=low, high=high)).code == "bad_value"


def test_a_number_that_is_not_there_is_its_default_or_missing() -> None:
    assert Fields({}).number("n", 7) == 7
    missing = complaint(lambda: Fields({}).number("n"))
    assert (missing.code, missing.field) == ("bad_request", "n")


def test_null_is_a_value_that_is_wrong_where_one_is_needed() -> None:
    assert complaint(lambda: Fields({"n": None}).number("n")).code == "bad_value"


@pytest.mark.parametrize("value", [0, 1, "true", None, [], {}], ids=repr)
def test_a_flag_is_true_or_false_and_nothing_else(value: object) -> None:
    assert Fields({"f": True}).flag("f") is True
    assert Fields({}).flag("f", True) is True
    assert complaint(lambda: Fields({"f": value}).flag("f")).field == "f"


def test_a_choice_says_what_there_is() -> None:
    assert Fields({"c": "red"}).choice("c", ("red", "blue")) == "red"
    assert Fields({}).choice("c", ("red", "blue"), "blue") == "blue"
    wrong = complaint(lambda: Fields({"c": "green"}).choice("c", ("red", "blue")))
    assert "red, blue" in wrong.message
    assert complaint(lambda: Fields({}).choice("c", ("red",))).code == "bad_request"


@given(st.binary(max_size=64))
def test_bytes_survive_their_digits(data: bytes) -> None:
    assert Fields({"hex": data.hex()}).data("hex") == data
    assert Fields({"hex": data.hex().upper()}).data("hex") == data


@pytest.mark.parametrize("value", ["0", "abc", "0g", "00 11", "0x00", 7, None], ids=repr)
def test_what_is_no_bytes_is_a_bad_value(value: object) -> None:
    assert complaint(lambda: Fields({"hex": value}).data("hex")).code == "bad_value"


def test_too_many_bytes_are_a_bad_value() -> None:
    assert Fields({"hex": "00" * 4}).data("hex", most=4) == bytes(4)
    assert complaint(lambda: Fields({"hex": "00" * 5}).data("hex", most=4)).field == "hex"


def test_what_is_wrong_inside_names_the_requests_own_field() -> None:
    fields = Fields({"do": [{"cpu": {"gprs": {"7": "x"}}}]})
    gprs = fields.objects("do", 10)[0].inner("cpu").inner("gprs")
    wrong = complaint(lambda: gprs.number("7"))
    assert wrong.field == "do"
    assert wrong.message.startswith("do[0].cpu.gprs.7: ")


def test_a_field_without_a_meaning_is_refused_inside_an_object() -> None:
    inner = Fields({"step": {"touch": 1, "wirte": True}}).inner("step")
    inner.only("touch", "wirte")
    wrong = complaint(lambda: inner.only("touch", "write"))
    assert (wrong.field, wrong.code) == ("step", "bad_value")
    assert "wirte" in wrong.message


def test_a_list_has_a_limit_and_holds_objects() -> None:
    fields = Fields({"do": [{}, {}, {}], "bad": [1], "worse": "text"})
    assert len(fields.objects("do", 3)) == 3
    assert complaint(lambda: fields.objects("do", 2)).code == "limit"
    assert complaint(lambda: fields.objects("bad", 2)).code == "bad_value"
    assert complaint(lambda: fields.objects("worse", 2)).code == "bad_value"
    assert complaint(lambda: fields.objects("none", 2)).code == "bad_request"


def test_a_list_of_names_holds_names_that_there_are() -> None:
    assert Fields({"keys": ["a", "b"]}).texts("keys", ("a", "b"), []) == ["a", "b"]
    assert Fields({}).texts("keys", ("a", "b"), ["a"]) == ["a"]
    for wrong in (["c"], [1], [["a"]], "a", None):
        assert complaint(lambda: Fields({"keys": wrong}).texts("keys", ("a", "b"), [])).field == "keys"  # noqa: B023 - called at once


def test_a_long_value_is_shortened_in_its_complaint() -> None:
    wrong = complaint(lambda: Fields({"n": "9" * 10_000}).number("n"))
    assert len(wrong.message) < 200


def test_a_complaint_names_its_field_only_if_it_has_one() -> None:
    assert Complaint("limit", "no more").body() == {"code": "limit", "message": "no more"}
    assert Complaint("bad_value", "n", "f").body()["field"] == "f"


def test_an_object_that_is_needed_is_missed_and_one_with_a_default_is_not() -> None:
    wrong = complaint(lambda: Fields({}).inner("regs"))
    assert (wrong.code, wrong.field) == ("bad_request", "regs")
    assert (complaint(lambda: Fields({"regs": None}).inner("regs")).field) == "regs"
    assert Fields({}).inner("regs", {"r1": 5}).number("r1") == 5
