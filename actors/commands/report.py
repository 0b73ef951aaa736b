"""`nestbed report`: say again what a run left behind, and draw its report again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, paper, say, tell

if TYPE_CHECKING:
    from actors.compare.outcome import Json


LOAD_BYTES = 64 << 20


def show(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A bundle's directory, its run.json, or what --json printed."),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="With --diff: the run to compare it with.", show_default=False),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Say what differs between two runs; 99 if any count does.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where the report goes; report.html beside the input if not given."
        ),
    ] = None,
) -> None:
    """Print the answer of a finished run once more and write its report anew. Nothing is run.

    What `nestbed load --out` left in a bundle's directory is shown in its report. With --diff the report is
    about two runs: what was set otherwise, what was counted otherwise, and how modelled time changed.
    """
    if diff != (other is not None):
        end(exit_codes.USAGE, "--diff compares two runs: nestbed report --diff RUN OTHER")
    if other is not None:
        raise typer.Exit(_differ(run, other, out))
    from actors.compare.diff import BadBase
    from actors.compare.shown import shown

    try:
        said, page = shown(run, _read(run), paper().width)
    except BadBase as error:
        end(exit_codes.USAGE, str(error))
    tell(*said)
    _leave(out or _folder(run) / "report.html", page)


def _folder(run: Path) -> Path:
    return run if run.is_dir() else run.parent


def _read(run: Path) -> Json:
    """A run, and the load test beside it if there is one."""
    from actors.compare.diff import BadBase, read_base

    try:
        content = read_base(run)
    except BadBase as error:
        end(exit_codes.USAGE, str(error))
    beside = _folder(run) / "load.json"
    if run.is_dir() and beside.is_file():
        content["load"] = _load(beside)
    return content


def _load(file: Path) -> Json | None:
    """What a load test left; one that cannot be read is said, and left out."""
    from actors.given import from_json

    try:
        data = file.read_bytes()
        found = from_json(data) if len(data) <= LOAD_BYTES else None
    except (OSError, ValueError) as error:
        say(f"{file}: left out: {error}")
        return None
    from actors.compare.modelled import load_section
    from actors.compare.shown import MISSED

    try:
        if not isinstance(found, dict) or not isinstance(found.get("load"), dict):
            raise ValueError("it has no load")  # noqa: TRY004, one road for all that is wrong with it
        "".join(load_section(found))
    except MISSED as error:
        say(f"{file}: left out: no load test: {error}")
        return None
    return found


def _differ(before: Path, now: Path, out: Path | None) -> int:
    """Say and write what differs between two runs."""
    from actors.compare.diff import BadBase, changes, one_sided
    from actors.compare.shown import difference

    a, b = _read(before), _read(now)
    try:
        said, page = difference(a, b, str(before), now)
    except BadBase as error:
        end(exit_codes.USAGE, str(error))
    tell(*said)
    _leave(out or _folder(now) / "diff.html", page)
    changed = changes(a["results"], b["results"]) or one_sided(a["results"], b["results"])
    return exit_codes.MISSED if changed else exit_codes.OK


def tell_answer(content: Json) -> None:
    """Print the answer that a bundle holds."""
    from actors.compare.answer import answer, titles_of
    from actors.compare.text import lines

    tell(*lines(answer(content, titles_of(_arches(content))), paper().width))


def leave_report(target: Path, content: Json) -> None:
    """Write the report on a bundle, and say where. Ends the command where that cannot be."""
    from actors.compare.answer import titles_of
    from actors.compare.report import report

    _leave(target, report(content, titles_of(_arches(content))))


def _leave(target: Path, page: str) -> None:
    from actors.compare.bundle import write_text

    try:
        write_text(target, page)
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{target}: cannot be written: {error.strerror}")
    say(f"report: {target}")


def _arches(content: Json) -> list[str]:
    return list(dict.fromkeys(result["arch"] for result in content["results"]))
