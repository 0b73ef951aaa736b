"""Codes of POWER by their names, two for each; what documentation and firmware say instead."""

from __future__ import annotations

import pytest

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.explain import ELSEWHERE, EXPLAINER, GENERAL
from protocol.arch.pef.status import unsigned
from protocol.explain import Meaning, Unknown, explain


def asked(question: str) -> tuple[Meaning, ...]:
    return explain(CALLS, EXPLAINER, question)[0]


@pytest.mark.parametrize("code", ["U_P2", "P2", "H_P2", "-55", "0xffffffffffffffc9", "18446744073709551561"])
def test_a_code_is_named_or_numbered(code: str) -> None:
    found = asked(f"UV_PAGE_IN:{code}")
    assert [one.text for one in found] == [
        "source is 0, secure, or no page of memory",
        "the page is the SVM's already",
    ]
    assert {one.shown() for one in found} == {"U_P2 (0xFFFFFFFFFFFFFFC9)"}


def test_the_name_is_of_whom_one_asks() -> None:
    assert asked("H_SVM_PAGE_IN:P2")[0].name == "H_P2"
    assert asked("UV_SVM_TERMINATE:STATE")[0].name == "U_INVALID"
    assert asked("UV_PAGE_IN:INVALID")[0].name == "U_STATE"
    assert EXPLAINER.name(0x1234, None) == "", "nobody has named it"


def test_a_call_may_be_its_number() -> None:
    assert asked("0xf128:U_P5") == asked("UV_PAGE_IN:U_P5")


def test_the_dispatcher_answers_ultracalls_alone() -> None:
    assert [one.place[:6] for one in asked("UV_PAGE_IN:BAD_MODE")] == ["before"]
    for question in ("UV_RETURN:BAD_MODE", "H_SVM_PAGE_IN:BAD_MODE", "H_SVM_PAGE_IN:FUNCTION"):
        with pytest.raises(Unknown):
            asked(question)
    assert asked("H_SVM_TPM_COMM:FUNCTION")[0].text == "no TPM"
    assert asked("H_SVM_PAGE_IN:SUCCESS")[0].text.startswith("done")


def test_what_another_profile_answers_is_said() -> None:
    (one,) = asked("UV_PAGE_OUT:SUCCESS")[1:]
    assert not one.given and "profile `documentation`" in one.notes[0]
    rows = {row.name: row for row in CALLS.values()}
    assert {one.call for one in ELSEWHERE} <= set(rows)


def test_what_linux_does_is_said() -> None:
    assert any("SIGBUS" in note for note in asked("UV_PAGE_OUT:U_PARAMETER")[0].notes)
    assert "succeeds" in asked("H_SVM_INIT_ABORT:H_PARAMETER")[0].notes[0]


def test_a_code_alone_is_every_calls() -> None:
    calls = {one.call for one in asked("U_STATE")}
    assert calls == {
        "UV_PAGE_IN",
        "UV_PAGE_INVAL",
        "UV_SVM_TERMINATE",
        "H_SVM_INIT_DONE",
        "H_SVM_INIT_ABORT",
    } | {one.call for one in ELSEWHERE if one.code == unsigned(-75)}


def test_codes_beyond_the_table_are_no_guesses_of_this_file() -> None:
    assert all(one.source for one in (*GENERAL, *ELSEWHERE))


def test_busy_has_two_numbers() -> None:
    with pytest.raises(Unknown, match="does not answer U_BUSY"):
        asked("UV_PAGE_IN:U_BUSY")
