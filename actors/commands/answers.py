"""`nestbed answers`: the talk's open questions, answered by runs that anybody can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, say, tell

if TYPE_CHECKING:
    from collections.abc import Iterator


def _letters(incomplete: str) -> list[tuple[str, str]]:
    from actors.answers import QUESTIONS

    return [(letter, name) for letter, (name, _) in QUESTIONS.items() if letter.startswith(incomplete)]


def answers(
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUESTION...",
            help="Letters or names, like b or levels; all of them if not given.",
            autocompletion=_letters,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the pages there instead of printing them."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --out: write nothing; 1 if a page there says anything else.")
    ] = False,
) -> None:
    """Answer the questions that the talk left open, each by its scenario, as Markdown.

    a impact, b pages, c owner-loss, d levels, e migration, f handles, g donations, h fences, i spread, j
    fleet, k tracking. The same on every machine: counts and modelled time, and nothing that a clock measured.
    """
    if check and out is None:
        end(exit_codes.USAGE, "--check holds pages to their runs: give --out, too")
    try:
        import protocol.queueing.engine  # noqa: F401, whether it is there
    except ImportError:
        end(exit_codes.ENVIRONMENT, "answers need SimPy: pip install 'nestbed[model]'")
    stale = [each for each in _written(question or [], out, check) if each]
    for name in stale:
        say(f"{name} says something else than its run")
    raise typer.Exit(exit_codes.FAILED if stale else exit_codes.OK)


def _written(question: list[str], out: Path | None, check: bool) -> Iterator[str]:
    """Print, write or check each page; yields the names of those that are wrong."""
    from actors.answers import QUESTIONS, page
    from actors.compare.bundle import write_text

    for letter in _chosen(question):
        text = page(letter).text()
        if out is None:
            tell(text)
            continue
        target = out / f"{QUESTIONS[letter][0]}.md"
        if check:
            yield "" if target.is_file() and target.read_text() == text else str(target)
            continue
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
        except OSError as error:
            end(exit_codes.ENVIRONMENT, f"--out {out}: cannot be written: {error.strerror}")
        say(f"written: {target}")


def _chosen(question: list[str]) -> list[str]:
    """Letters of the questions that are meant, in their order."""
    from actors.answers import QUESTIONS

    names = {name: letter for letter, (name, _) in QUESTIONS.items()}
    wanted = [names.get(each, each) for each in question] or list(QUESTIONS)
    unknown = [each for each in wanted if each not in QUESTIONS]
    if unknown:
        listed = ", ".join(f"{letter} ({name})" for letter, (name, _) in QUESTIONS.items())
        end(exit_codes.USAGE, f"{unknown[0]}: no such question; there are: {listed}")
    return [letter for letter in QUESTIONS if letter in wanted]
