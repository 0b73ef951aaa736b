"""What the Ultravisor's codes mean: every code of the table, the generic ones, those that are never given."""

from __future__ import annotations

import pytest

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.explain import ELSEWHERE, EXPLAINER, GENERAL, OF_A_CODE, OF_ANY_ERROR
from protocol.explain import Unknown, explain, of_call

ROWS = {row.name: row for row in CALLS.values()}


@pytest.mark.parametrize("name", ROWS)
def test_every_check_of_every_call_is_explained(name: str) -> None:
    for check in ROWS[name].checks:
        reason = f":{check.reason:#x}" if check.reason else ""
        found, _ = explain(CALLS, EXPLAINER, f"{name}:{check.code:#x}{reason}")
        assert check.text in [one.text for one in found]
        assert all(one.source for one in found)


@pytest.mark.parametrize("name", ROWS)
def test_a_code_that_the_call_does_not_answer_lists_those_that_it_does(name: str) -> None:
    with pytest.raises(Unknown) as refusal:
        explain(CALLS, EXPLAINER, f"{name}:0x0fff")
    assert [one.text for one in refusal.value.known][: len(ROWS[name].checks)] == [
        check.text for check in ROWS[name].checks
    ]


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("unpack:0x0002", "not installed"),
        ("unpack:0x0003", "not initialised"),
        ("unpack:0x0005", "length"),
        ("unpack:0x0020", "configuration"),
        ("destroy_cpu:0x0021", "secure CPU"),
        ("0x0020", "another host's handle answers the same"),
        ("verify:0x0001", "executed"),
    ],
)
def test_codes_of_all_calls_are_explained(question: str, word: str) -> None:
    found, _ = explain(CALLS, EXPLAINER, question)
    assert any(word in one.text and not one.call for one in found)


@pytest.mark.parametrize(
    "question", ["init:0x0003", "query:0x0003", "pin:0x0020", "unpack:0x0021", "share:0x0003"]
)
def test_a_general_code_that_the_call_cannot_answer_is_not_explained(question: str) -> None:
    with pytest.raises(Unknown):
        explain(CALLS, EXPLAINER, question)


def test_one_code_may_have_two_reasons() -> None:
    found, _ = explain(CALLS, EXPLAINER, "destroy_config:0x0003")
    assert [one.text for one in found] == ["the Ultravisor is not initialised", "CPUs are still defined"]


def test_need_destroy_is_taken_off_and_said() -> None:
    found, remarks = explain(CALLS, EXPLAINER, "create_config:0x8105")
    assert [one.code for one in found] == [0x0105]
    assert "0x8000" in remarks[0]


def test_the_hint_of_qemu_is_told_for_an_image_of_another_host() -> None:
    (one,), _ = explain(CALLS, EXPLAINER, "0x0300:0x0108:0x0005")
    assert any("built for another host" in note for note in one.notes)


def test_what_is_never_given_here_says_why() -> None:
    for one in ELSEWHERE:
        reason = "" if one.reason is None else f":{one.reason:#x}"
        found, _ = explain(CALLS, EXPLAINER, f"{one.call}:{one.code:#x}{reason}")
        assert one in found
        assert not one.given and one.notes


def test_what_is_never_given_here_is_not_in_the_call_table() -> None:
    for one in ELSEWHERE:
        codes = [(check.code, check.reason or None) for check in ROWS[one.call].checks]
        assert (one.code, one.reason) not in codes


def test_remarks_are_about_calls_and_codes_that_there_are() -> None:
    assert set(OF_ANY_ERROR) <= set(ROWS)
    for name, code in OF_A_CODE:
        assert code in [one.code for one in of_call(ROWS[name], EXPLAINER)]
    assert len({one.code for one in GENERAL}) == len(GENERAL)
