"""The answers that README shows are those that its commands print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


ARCHITECTURES = ("s390", "sev", "tdx", "pef")


def said(folder: Path, *options: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "nestbed", "compare", "--quiet", "--out", str(folder), *options],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def headline(lines: list[str]) -> list[str]:
    first = next(i for i, line in enumerate(lines) if line.startswith("s390: exits"))
    return lines[first : lines.index("", first)]


def first_table(lines: list[str]) -> list[str]:
    """The first table of an answer, up to the parts by level."""
    table = lines.index("Exits that arrive at L0")
    end = next(i for i, line in enumerate(lines) if i > table and line.strip().startswith("from L"))
    return lines[table:end]


def blocks(root: Path) -> list[str]:
    return re.findall(r"```text\n(.*?)\n?```", (root / "README.md").read_text(), re.DOTALL)


def test_the_answer_in_the_readme_is_what_the_command_says(root: Path, tmp_path: Path) -> None:
    lines = said(tmp_path)
    wanted = "\n".join([*headline(lines), "", *first_table(lines)])
    assert blocks(root)[0] == wanted, f"put this into README.md:\n{wanted}"


def test_so_is_the_one_for_all_architectures(root: Path, tmp_path: Path) -> None:
    options = [word for arch in ARCHITECTURES for word in ("--arch", arch)]
    wanted = "\n".join(headline(said(tmp_path, *options)))
    assert blocks(root)[1] == wanted, f"put this into README.md:\n{wanted}"
