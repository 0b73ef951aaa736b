"""Statuses are asked for by number or by name, and say what they named."""

from __future__ import annotations

import pytest

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.explain import EXPLAINER
from protocol.explain import Unknown, explain


def texts(question: str) -> list[tuple[str, str]]:
    found, _ = explain(CALLS, EXPLAINER, question)
    return [(one.name, one.text) for one in found]


@pytest.mark.parametrize("status", ["OPERAND_BUSY|SEPT_TREE", "0x8000020000000092", "operand_busy|sept_tree"])
def test_a_status_by_name_or_number(status: str) -> None:
    assert texts(f"mem_page_aug:{status}") == [("OPERAND_BUSY|SEPT_TREE", "the tree is locked")]


def test_two_checks_may_give_the_same_status() -> None:
    assert len(texts("vp_enter:OPERAND_INVALID|RCX")) == 3


def test_exits_of_a_vcpu_are_explained_where_they_come_from() -> None:
    ((name, text),) = texts("vp_enter:48")
    assert (name, text.split(":")[0]) == ("exit reason 48", "EPT violation")
    with pytest.raises(Unknown, match="mem_page_aug does not answer exit reason 48"):
        explain(CALLS, EXPLAINER, "mem_page_aug:48")


def test_what_linux_does_is_said() -> None:
    (found,), _ = explain(CALLS, EXPLAINER, "mem_range_block:OPERAND_BUSY|SEPT_TREE")
    assert "kicks those inside" in found.notes[0]
    (found,), _ = explain(CALLS, EXPLAINER, "vp_enter:TSC_ROLLBACK")
    assert not found.given


def test_a_name_that_is_none() -> None:
    with pytest.raises(Unknown, match="a code by its name"):
        explain(CALLS, EXPLAINER, "vp_enter:NOT_A_STATUS")
