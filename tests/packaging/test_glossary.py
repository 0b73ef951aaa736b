"""The glossary covers the words that users meet in tables, in JSON and in metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.compare.answer import REALISM
from protocol.calls import Basis, Category, Donation, Treatment
from protocol.ledger import FAMILIES
from protocol.plan.fit import PHASES
from protocol.plan.scenario import PATHS
from protocol.tracking import PLANES

WORDS = {
    "category": tuple(Category),
    "treatment": tuple(Treatment),
    "donation": tuple(Donation),
    "basis": tuple(Basis),
    "realism": tuple(REALISM),
    "family": tuple(FAMILIES),
    "phase": PHASES,
    "plane": tuple(PLANES),
    "word": PATHS,
}


@pytest.fixture(scope="module")
def glossary(root: Path) -> dict[str, dict[str, str]]:
    """Its tables by the head of their first column: word -> meaning. Tables of equal head are one."""
    tables: dict[str, dict[str, str]] = {}
    head = ""
    for line in (root / "docs" / "glossary.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = ""
        elif not head:
            head = cells[0]
            tables.setdefault(head, {})
        elif not set(cells[0]) <= {"-", ":"}:
            assert cells[0] not in tables[head], f"{cells[0]} stands there twice"
            tables[head][cells[0]] = cells[1]
    return tables


@pytest.mark.parametrize("of", WORDS)
def test_every_word_of_the_program_is_explained(glossary: dict[str, dict[str, str]], of: str) -> None:
    explained = {word.strip("`"): meaning for word, meaning in glossary[of].items()}
    for word in WORDS[of]:
        assert explained.get(word), f"{of} {word} is not in the glossary"


@pytest.mark.parametrize("of", [of for of in WORDS if of != "word"])
def test_no_explained_word_is_one_that_the_program_has_no_more(
    glossary: dict[str, dict[str, str]], of: str
) -> None:
    code = {word.strip("`") for word in glossary[of] if word.startswith("`")}
    assert code <= set(WORDS[of])


def test_every_architecture_has_its_word_for_everything(root: Path) -> None:
    text = (root / "docs" / "glossary.md").read_text()
    rows = re.search(r"\| nestbed \|.*?\n\n", text, re.DOTALL)
    assert rows is not None
    cells = [line.strip("|").split("|") for line in rows[0].strip().splitlines()]
    assert all(len(row) == 6 and all(cell.strip() for cell in row) for row in cells)
    assert len(cells) > 15
