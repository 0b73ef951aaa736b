"""Subjects: who asks is a word that the server vouches for, and answers go to whoever asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.fleet.subjects import ANY, Asked, Cell, is_token

WORDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
CELL = Cell("lab")


@given(who=WORDS, machine=WORDS, verb=WORDS)
def test_what_is_asked_is_read_as_it_was_meant(who: str, machine: str, verb: str) -> None:
    inbox = f"{CELL.inbox(who)}.abc.1"
    assert CELL.opened(CELL.ask(who, machine, verb), inbox) == Asked(who, machine, verb)


def test_a_machine_has_one_subscription_and_any_another() -> None:
    assert CELL.asked_of("l0-17") == "nb.lab.*.l0-17.>"
    assert CELL.asked_of(ANY) == "nb.lab.*.any.>"


@pytest.mark.parametrize(
    ("subject", "reply", "reason"),
    [
        ("nb.lab.blue.l0-0.hosting", "nb-inbox.lab.red.1", "role"),  # to have us write into another's inbox
        ("nb.lab.blue.l0-0.hosting", "$KV.nestbed-machines.l0-0", "role"),
        ("nb.lab.blue.l0-0.hosting", "nb-inbox.lab.blue", "role"),
        ("nb.lab.blue.l0-0.hosting", "", "role"),
        ("nb.other.blue.l0-0.hosting", "nb-inbox.lab.blue.1", "shape"),
        ("nb.lab.blue.l0-0.hosting.more", "nb-inbox.lab.blue.1", "shape"),
        ("nb.lab.BLUE.l0-0.hosting", "nb-inbox.lab.BLUE.1", "shape"),
        ("nb.lab..l0-0.hosting", "nb-inbox.lab..1", "shape"),
        ("nb.lab.blue.l0-0." + "x" * 600, "nb-inbox.lab.blue.1", "oversized"),
    ],
)
def test_what_is_no_question_is_refused_with_its_reason(subject: str, reply: str, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        CELL.opened(subject, reply)
    assert refused.value.reason == reason


@given(subject=st.text(max_size=80), reply=st.text(max_size=80))
def test_any_text_is_a_question_or_refused(subject: str, reply: str) -> None:
    try:
        asked = CELL.opened(subject, reply)
    except RemoteProtocolError:
        return
    assert all(map(is_token, asked))


def test_a_cell_has_a_name_without_dots() -> None:
    for name in ("", "a.b", "*", ">", "A", "x" * 33):
        with pytest.raises(ValueError, match="no name of a cell"):
            Cell(name)
