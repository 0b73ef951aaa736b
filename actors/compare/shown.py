"""What a run is shown as, whoever wrote it: a bundle is a file, and a file may hold anything.

`read_base` looks at what comparing two runs needs. An answer and a report need more, of many shapes; what
lacks it is refused here, with what was missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.compare.answer import answer, titles_of
from actors.compare.diff import BadBase
from actors.compare.differences import page, sentences
from actors.compare.report import report
from actors.compare.text import lines

Json = dict[str, Any]
MISSED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def shown(path: Path, content: Json, width: int) -> tuple[list[Any], str]:
    """The answer that a run holds in lines, and its report. Raises BadBase where it lacks what they need."""
    with _of_a_run(path):
        titles = titles_of(dict.fromkeys(result["arch"] for result in content["results"]))
        return list(lines(answer(content, titles), width)), report(content, titles)


def difference(before: Json, now: Json, first: str, path: Path) -> tuple[list[str], str]:
    """What differs between two runs in sentences, and the page about it. Raises BadBase, as above."""
    with _of_a_run(path):
        return sentences(before, now), page(before, now, first, str(path))


@contextmanager
def _of_a_run(path: Path) -> Iterator[None]:
    try:
        yield
    except MISSED as error:
        raise BadBase(f"{path}: no run of this program: {type(error).__name__}: {error}") from error
