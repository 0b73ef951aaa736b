"""Make every figure of docs/answers and of README anew: `./x answers`. With --check, say what is stale."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from actors.answers import QUESTIONS, page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "answers"
ARCHITECTURES = ("s390", "snp", "tdx", "pef")
README_RUNS = ((), tuple(word for arch in ARCHITECTURES for word in ("--arch", arch)))
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


def headline(lines: list[str]) -> list[str]:
    """The sentences of the answer's beginning."""
    first = next(i for i, line in enumerate(lines) if line.startswith("s390: exits"))
    return lines[first : lines.index("", first)]


def first_table(lines: list[str]) -> list[str]:
    """The first table of an answer, up to the parts by level."""
    table = lines.index("Exits that arrive at L0")
    end = next(i for i, line in enumerate(lines) if i > table and line.strip().startswith("from L"))
    return lines[table:end]


def readme_blocks(folder: Path) -> list[str]:
    """What each block of README has to say."""
    one, all_of = (said(folder, *options) for options in README_RUNS)
    return ["\n".join([*headline(one), "", *first_table(one)]), "\n".join(headline(all_of))]


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
