# ruff: noqa: T201 - it prints what it found
"""`./x coverage [--exceptions] [pytest arguments]`: which branches of protocol/ no test takes.

Without arguments all tests are run, both halves: some 40 minutes on two cores. What cannot be reached says so
where it stands, `# pragma: no cover - why` or `# pragma: no branch - why`; lines that never run stand
in pyproject.toml (tool.coverage.report). The exit code is 1 where a test failed or a branch is left.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUMMARY = "Which branches of protocol/ no test takes. All tests are run: some 40 minutes on two cores."
EXCEPTION = re.compile(r"#\s*pragma:\s*no (cover|branch)(?:\s*-\s*(?P<why>\S.*))?")


def exceptions() -> Iterator[tuple[str, int, str]]:
    """File, line and reason of all that no test is asked to reach; the reason is "" where none is given."""
    for path in sorted((ROOT / "protocol").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := EXCEPTION.search(line):
                yield str(path.relative_to(ROOT)), number, found["why"] or ""


def _coverage(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./x coverage",
        usage="%(prog)s [-h] [--exceptions] [pytest arguments]",
        description=SUMMARY,
        allow_abbrev=False,  # what is not ours is for pytest
    )
    parser.add_argument("--exceptions", action="store_true", help="list what need not be reached, and why")
    chosen, arguments = parser.parse_known_args(arguments)
    if chosen.exceptions:
        for name, number, why in exceptions():
            print(f"{name}:{number}: {why}")
        return 0
    _coverage("erase")
    failed = _coverage("run", "-m", "pytest", "-q", "-n", "auto", *arguments)
    _coverage("combine", "--quiet")
    left = _coverage("report", "--fail-under=100")
    print(f"{sum(1 for _ in exceptions())} places are argued not to be reached: ./x coverage --exceptions")
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
