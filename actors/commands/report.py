"""`nestbed report`: say again what a run left behind, and draw its report again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, paper, say, tell

if TYPE_CHECKING:
    from actors.compare.outcome import Json


def show(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A bundle's directory, its run.json, or what --json printed."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where the report goes; report.html beside the input if not given."
        ),
    ] = None,
) -> None:
    """Print the answer of a finished run once more and write its report anew. Nothing is run."""
    from actors.compare.diff import BadBase, read_base

    try:
        content = read_base(run)
    except BadBase as error:
        end(exit_codes.USAGE, str(error))
    tell_answer(content)
    folder = run if run.is_dir() else run.parent
    leave_report(out or folder / "report.html", content)


def tell_answer(content: Json) -> None:
    """Print the answer that a bundle holds."""
    from actors.compare.answer import answer, titles_of
    from actors.compare.text import lines

    tell(*lines(answer(content, titles_of(_arches(content))), paper().width))


def leave_report(target: Path, content: Json) -> None:
    """Write the report on a bundle, and say where. Ends the command where that cannot be."""
    from actors.compare.answer import titles_of
    from actors.compare.bundle import write_text
    from actors.compare.report import report

    try:
        write_text(target, report(content, titles_of(_arches(content))))
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{target}: cannot be written: {error.strerror}")
    say(f"report: {target}")


def _arches(content: Json) -> list[str]:
    return list(dict.fromkeys(result["arch"] for result in content["results"]))
