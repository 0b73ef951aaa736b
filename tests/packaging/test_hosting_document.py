"""docs/hosting.md: every row names a test, and every test that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FAULTS = 25


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docs" / "hosting.md").read_text()


def section(text: str, title: str) -> list[str]:
    """The rows of the table under a heading, without head and rule."""
    body = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in body.splitlines() if line.startswith("| ")][2:]


def test_all_32_rows_are_there_in_order_and_each_names_a_test(text: str) -> None:
    rows = section(text, "What hurts users of the real ones")
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 33))
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize(("title", "least"), [("Faults", FAULTS), ("Security rules", 9)])
def test_each_fault_and_each_rule_names_a_test(text: str, title: str, least: int) -> None:
    rows = section(text, title)
    assert len(rows) >= least
    assert [row for row in rows if "::test_" not in row] == []


def test_every_test_that_is_named_is_there(text: str, root: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 60
    wrong = [
        f"{file}::{name}"
        for file, name in named
        if not (root / file).exists() or not re.search(rf"def {name}\(", (root / file).read_text())
    ]
    assert wrong == []
