"""The page of threats names what stands against each, and it exists."""

from __future__ import annotations

import re
from pathlib import Path

NAMED = re.compile(r"`((?:tests|protocol)/[\w/]+\.py)`")


def rows(root: Path) -> list[str]:
    lines = (root / "docs" / "threat-model.md").read_text().splitlines()
    return [
        line for line in lines if line.startswith("| ") and not line.startswith(("| ---", "| who", "| door"))
    ]


def test_every_file_that_is_named_is_there(root: Path) -> None:
    named = {name for row in rows(root) for name in NAMED.findall(row)}
    assert len(named) > 15
    assert [name for name in sorted(named) if not (root / name).exists()] == []


def test_every_attack_names_what_stands_against_it(root: Path) -> None:
    """What a seed gives away is no attack that a test could ward off: the page says so."""
    assert [row.split(" | ")[0] for row in rows(root) if not NAMED.search(row)] == ["| the bundle of a run"]
