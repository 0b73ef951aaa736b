"""The pages about the console: every example in them is what the program answers, at every depth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from driver import Json, in_process

DOCS = Path(__file__).parents[2] / "docs" / "console"
PAGES = sorted(DOCS.glob("*.md"))


def conversations(page: Path) -> list[list[tuple[Json, Json]]]:
    """Each block of `>` and `<` lines on a page: one fresh console each."""
    found = []
    for block in re.findall(r"^```\n(> .*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        said = [json.loads(line[2:]) for line in block.splitlines()]
        found.append(list(zip(said[::2], said[1::2], strict=True)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.parametrize("depth", [0, 1, 2], ids=lambda depth: f"depth{depth}")
def test_the_examples_of_a_page_are_what_the_console_says(page: Path, depth: int) -> None:
    said = conversations(page)
    assert said, "a page without an example"
    for conversation in said:
        console = in_process(page.stem, depth)
        for request, answer in conversation:
            assert console.answer(request) == answer


def test_every_op_of_the_console_is_on_its_page() -> None:
    console = in_process("s390", 0)
    allowed = console.answer({"op": "none"})["error"]["message"].split("allowed: ")[1].split(", ")
    text = (DOCS.parent / "console.md").read_text() + (DOCS / "s390.md").read_text()
    assert [op for op in allowed if f"`{op}`" not in text] == []
