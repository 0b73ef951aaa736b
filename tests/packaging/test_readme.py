"""The answer that README shows is the one that its command prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def shown(said: str) -> str:
    """The headline and the first table of an answer, up to the parts by level."""
    lines = [line.rstrip() for line in said.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("s390: exits"))
    table = lines.index("Exits that arrive at L0")
    end = next(i for i, line in enumerate(lines) if i > table and line.strip().startswith("from L"))
    headline = lines[first : lines.index("", first)]
    return "\n".join([*headline, "", *lines[table:end]])


def test_the_answer_in_the_readme_is_what_the_command_says(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nestbed", "compare", "--quiet", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    wanted = shown(done.stdout)
    found = re.search(r"```text\n(.*?)\n?```", (root / "README.md").read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == wanted, f"put this into README.md:\n{wanted}"
