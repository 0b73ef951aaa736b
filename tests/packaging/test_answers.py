"""docs/answers says what its runs say: a page that anything changed is noticed here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("simpy", reason="the answers need the extra `model`")

from actors.answers import QUESTIONS, page


@pytest.mark.slow
@pytest.mark.parametrize("letter", QUESTIONS)
def test_a_page_says_what_its_run_says(root: Path, letter: str) -> None:
    name, _ = QUESTIONS[letter]
    assert (root / "docs" / "answers" / f"{name}.md").read_text() == page(letter).text(), "./x answers"


@pytest.mark.slow
def test_a_million_guests_are_answered_for_in_a_minute_and_2_gib(alone: Callable[[str], Any]) -> None:
    spent = alone("from actors.answers import page; print(page('j').text())")
    assert "1,000,000 guests" in spent.text
    assert spent.cpu_s < 60
    assert spent.peak_kib < 2 << 20


def test_there_is_a_page_for_each_question_and_no_other(root: Path) -> None:
    names = {f"{name}.md" for name, _ in QUESTIONS.values()}
    assert {path.name for path in (root / "docs" / "answers").glob("*.md")} == names | {"README.md"}
    index = (root / "docs" / "answers" / "README.md").read_text()
    assert all(f"]({name})" in index for name in names)


def test_a_fleets_cost_grows_with_its_guests_and_with_nothing_else(root: Path) -> None:
    """The rows of the page: ten times the guests, ten times everything."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (root / "docs" / "answers" / "fleet.md").read_text().splitlines()
        if line.startswith("| nested, ") and line.endswith(" h |")
    ]
    exits = [int(row[1].replace(",", "")) for row in rows]
    assert len(exits) == 3
    assert [later / earlier for earlier, later in pairwise(exits)] == [10, 10]
