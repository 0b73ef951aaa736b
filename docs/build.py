"""Build the documents that are made from tables: `./x docs`. A test says that they match.

docs/build.py                       write them
docs/build.py --check               say which of them are not up to date, and write nothing
docs/build.py --measure [ARCH ...]  run the conformance suite and write down which test provokes which check
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from docs import families, feasible
from docs.page import Page, written
from docs.record import ROOT, measure, record, record_file
from protocol.arch import architectures

ARCH = ROOT / "docs" / "arch"


@cache
def pages() -> dict[str, Page]:
    """The architectures that have a page about their calls: those of which somebody wrote the prose."""
    prose = ROOT / "docs" / "prose"
    named = [name for name in architectures() if (prose / f"{name}.py").exists()]
    return {name: import_module(f"docs.prose.{name}").PAGE for name in named}


def documents() -> Iterator[tuple[Path, str]]:
    """Every document that is made, and its text."""
    for name, page in pages().items():
        yield ARCH / f"{name}.md", written(page)
    catalogue = ROOT / "docs" / "metrics.md"
    yield catalogue, families.metrics(catalogue)
    yield ARCH / "feasibility.md", feasible.feasibility()
    for name, one in feasible.said().items():
        yield ARCH / f"{name}-worklist.md", feasible.worklist(one)


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--measure", nargs="*", metavar="ARCH", choices=sorted(pages()))
    given = parser.parse_args()
    if given.measure is not None:
        for name in given.measure or pages():
            record_file(name).write_text(record(measure(name, pages()[name].measured)))
        return 0
    stale = [path for path, text in documents() if not path.exists() or path.read_text() != text]
    if given.check:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not up to date: ./x docs\n")
        return 1 if stale else 0
    for path, text in documents():
        if path in stale:
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
