"""The answers that README shows are those that its commands print; `./x answers` makes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.answers import BLOCK, readme, readme_blocks


@pytest.mark.slow
def test_the_answers_in_the_readme_are_what_the_commands_say(root: Path, tmp_path: Path) -> None:
    text = (root / "README.md").read_text()
    assert text == readme(text, readme_blocks(tmp_path)), "out of date: ./x answers"


def test_every_block_of_the_readme_is_made(root: Path) -> None:
    text = (root / "README.md").read_text()
    changed = readme(text, ["one", "two", "three"])
    assert [found[2] for found in BLOCK.finditer(changed)] == ["one", "two", "three"]
