"""docs/answers says what its runs say: a page that anything changed is noticed here."""

from __future__ import annotations

import resource
import time
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("simpy", reason="the answers need the extra `model`")

from actors.answers import QUESTIONS, page


@pytest.mark.slow
@pytest.mark.parametrize("letter", QUESTIONS)
def test_a_page_says_what_its_run_says(root: Path, letter: str) -> None:
    name, _ = QUESTIONS[letter]
    began = time.perf_counter()
    assert (root / "docs" / "answers" / f"{name}.md").read_text() == page(letter).text(), "./x answers"
    if letter == "j":
        assert time.perf_counter() - began < 60, "a million guests in under a minute"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20, "in 2 GiB (KiB here)"


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
