"""Make every figure of docs/answers and of README anew: `./x answers`. With --check, say what is stale."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import fill

from actors.answers import QUESTIONS, page
from actors.answers.tracking import finding

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "answers"
README_RUNS = ((), ("--arch", "s390"))
BLOCK = re.compile(r"(```text\n)(.*?)(\n?```)", re.DOTALL)


def said(folder: Path, *options: str) -> list[str]:
    """What `nestbed compare` prints, as wide as README shows it."""
    done = subprocess.run(  # noqa: S603, this very program
        [sys.executable, "-m", "nestbed", "compare", "--quiet", "--out", str(folder), *options],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def table(lines: list[str], title: str, end: str) -> list[str]:
    """A table of an answer from its title up to a line that begins with `end`."""
    first = lines.index(title)
    last = next(i for i, line in enumerate(lines) if i > first and line.strip().startswith(end))
    return lines[first:last]


def readme_blocks(folder: Path) -> list[str]:
    """What each block of README has to say.

    All architectures in one table, one of them phase by phase, and what came out of the tracking.
    """
    all_of, one = (said(folder, *options) for options in README_RUNS)
    return [
        "\n".join(table(all_of, "The architectures side by side", "-  s390")),
        "\n".join(table(one, "Exits that arrive at L0", "from L")),
        fill(finding(), 100),
    ]


def readme(text: str, blocks: list[str]) -> str:
    """README with these blocks in the place of those that it has."""
    fresh = iter(blocks)
    return BLOCK.sub(lambda found: found[1] + next(fresh, found[2]) + found[3], text)


def main() -> int:
    """Write what is out of date, or say what is."""
    check = "--check" in sys.argv[1:]
    made = {PAGES / f"{name}.md": page(letter).text() for letter, (name, _) in QUESTIONS.items()}
    with tempfile.TemporaryDirectory() as folder:
        made[ROOT / "README.md"] = readme((ROOT / "README.md").read_text(), readme_blocks(Path(folder)))
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        sys.stderr.write(
            f"{path.relative_to(ROOT)} {'is not up to date: ./x answers' if check else 'written'}\n"
        )
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
