"""What a code means, out of a call table alone: an architecture that knows nothing more is explained, too."""

from __future__ import annotations

import pytest

from protocol.calls import Basis, CallSpec, Category, Check, Issuer, Treatment, table
from protocol.explain import Unknown, explain

CALLS = table(
    (
        CallSpec(
            0x10,
            "make",
            "Make",
            Category.VM,
            Treatment.MODIFIED,
            "a reason",
            0x20,
            Issuer.HOST,
            "1.2",
            checks=(
                Check(0x101, "too large"),
                Check(0x102, "too odd", Basis.GUESS, reason=7),
                Check(0x102, "too even"),
            ),
        ),
        CallSpec(
            0x11,
            "end",
            "End",
            Category.VM,
            Treatment.PASSED,
            "another",
            0x20,
            Issuer.HOST,
            "1.3",
            checks=(Check(0x10, "in use"),),
        ),
    )
)


def asked(question: str) -> list[tuple[str, int, int | None]]:
    return [(one.call, one.code, one.reason) for one in explain(CALLS, None, question)[0]]


@pytest.mark.parametrize("call", ["make", "0x10", "16"])
def test_a_call_is_named_or_numbered(call: str) -> None:
    assert asked(f"{call}:0x101") == [("make", 0x101, None)]


def test_a_meaning_says_its_place_and_its_basis() -> None:
    (one,), remarks = explain(CALLS, None, "make:0x102:7")
    assert (one.text, one.basis, one.source) == ("too odd", "guess", "1.2")
    assert one.place == "check 2 of 3 of this call"
    assert remarks == ()


def test_a_meaning_as_json_has_codes_as_they_are_typed_and_null_for_what_is_not_there() -> None:
    ((one,), _), (other, *_) = explain(CALLS, None, "make:0x102:7"), explain(CALLS, None, "0x101")[0]
    told = one.as_dict()
    assert (told["call"], told["code"], told["reason"], told["check"]) == (
        "make",
        "0x0102",
        "0x0007",
        "too odd",
    )
    assert (told["place"], told["basis"], told["tests"]) == ("check 2 of 3 of this call", "guess", [])
    assert (other.as_dict()["reason"], other.as_dict()["name"]) == (None, None)


def test_more_than_a_code_and_its_reason_needs_a_call() -> None:
    with pytest.raises(Unknown, match="0x101: no such call; allowed: make, end"):
        explain(CALLS, None, "0x101:7:8")


def test_a_code_and_its_reason_need_no_call() -> None:
    assert asked("0x102:7") == [("make", 0x102, 7)]


def test_two_codes_that_nothing_answers_together_are_both_explained() -> None:
    found, remarks = explain(CALLS, None, "0x101:0x102")
    assert [(one.call, one.code) for one in found] == [("make", 0x101), ("make", 0x102), ("make", 0x102)]
    assert remarks[-1].startswith("0x101 is no call, and no call answers it for reason 0x102")


def test_without_a_reason_all_reasons_are_meant() -> None:
    assert asked("make:0x102") == [("make", 0x102, 7), ("make", 0x102, None)]
    assert asked("make:0x102:0") == [("make", 0x102, None)]


def test_a_reason_that_no_source_gives_is_remarked() -> None:
    found, remarks = explain(CALLS, None, "make:0x101:5")
    assert [one.text for one in found] == ["too large"]
    assert "no source" in remarks[0]


def test_a_code_alone_is_every_calls() -> None:
    assert asked("0x101") == [("make", 0x101, None)]
    assert asked("end") == [("end", 0x10, None)]


def test_a_number_that_is_a_code_and_a_call_is_a_code_with_a_remark() -> None:
    found, remarks = explain(CALLS, None, "0x10")
    assert [one.call for one in found] == ["end"]
    assert "call make" in remarks[0]


def test_a_number_that_is_a_call_alone_lists_what_it_answers() -> None:
    assert asked("0x11") == [("end", 0x10, None)]


@pytest.mark.parametrize(
    ("question", "why", "known"),
    [
        ("make:0x999", "make does not answer 0x0999", 3),
        ("make:0x102:8", "make does not answer 0x0102:0x0008", 3),
        ("mak:0x1", "no such call; allowed: make, end", 0),
        ("make:one", "allowed: a number", 0),
        ("make:1:2:3", "allowed: CALL:RC", 0),
        (":", "allowed: CALL:RC", 0),
        ("0x999", "no call answers 0x0999", 0),
        ("mke", "no code and no call", 0),
        ("-1", "no code and no call", 0),
    ],
)
def test_what_nothing_answers_is_said(question: str, why: str, known: int) -> None:
    with pytest.raises(Unknown, match=why) as refusal:
        explain(CALLS, None, question)
    assert len(refusal.value.known) == known
