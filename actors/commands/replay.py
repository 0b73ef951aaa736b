"""`nestbed replay`: ask what a transcript holds once more, or compare two transcripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, tell

if TYPE_CHECKING:
    from actors.record import Difference, Reading


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A transcript, as `--record` writes it.")],
    depth: Annotated[
        int | None, typer.Option("--depth", metavar="N", help="Ask at another depth than it was recorded at.")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option("--diff", metavar="FILE", help="Compare with this transcript; nothing is asked."),
    ] = None,
) -> None:
    """Ask a fresh machine all that a transcript holds; show the first answer that differs (exit code 1)."""
    from actors.record import BadTranscript, read
    from actors.record import diff as compare

    if depth is not None and other is not None:
        end(exit_codes.USAGE, "--depth and --diff do not go together: with --diff nothing is asked")
    try:
        reading = read(file)
        if other is None:
            same, difference = _ask(reading, depth)
        else:
            same, difference = compare(reading, read(other))
    except BadTranscript as error:
        end(exit_codes.USAGE, str(error))
    if difference is None:
        tell(_same(same))
        return
    tell(f"{_same(same)}, then")
    tell(difference.text())
    raise typer.Exit(exit_codes.FAILED)


def _same(answers: int) -> str:
    return f"{answers:,} answers are the same" if answers != 1 else "1 answer is the same"


def _ask(reading: Reading, depth: int | None) -> tuple[int, Difference | None]:
    from dataclasses import replace

    from actors.keyboard import WrongOptions, keyboard
    from actors.record import replay as ask_again

    options = reading.options if depth is None else replace(reading.options, depth=depth)
    try:
        keys = keyboard(options)
    except WrongOptions as wrong:
        end(exit_codes.USAGE, str(wrong))
    return ask_again(reading, keys, options.depth)
