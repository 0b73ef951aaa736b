"""Data goes to standard output, talk to standard error; colours only where somebody sees them.

NO_COLOR and FORCE_COLOR are honoured by rich itself. Where standard output is no terminal, tables are as wide
as a page and not as the 80 columns that rich would assume.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PAGE_COLUMNS = 100


def say(message: str) -> None:
    """Tell the person something that is no result."""
    sys.stderr.write(f"nestbed: {message}\n")
    sys.stderr.flush()


def say_from_a_signal(message: str) -> None:
    """The same from a signal handler, which may have interrupted a write to the very stream."""
    os.write(2, f"nestbed: {message}\n".encode())


def end(code: int, message: str) -> NoReturn:
    """Say why, and end the command with `code`."""
    say(message)
    raise typer.Exit(code)


def first_of(error: BaseException) -> BaseException:
    """One of several errors at once: whoever reads it mends that first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def paper() -> Console:
    """What results are laid out on: as wide as standard output."""
    from rich.console import Console

    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PAGE_COLUMNS
    return made


def tell(*results: RenderableType) -> None:
    """Write results for a person, each on lines of its own. A plain text keeps the lines that it has."""
    on = paper()
    with on.capture() as taken:
        for result in results:
            on.print(result, soft_wrap=isinstance(result, str))
    # Rich fills every line of a table up to its width, which is of no use in a file.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in taken.get().splitlines()))
    sys.stdout.flush()


def tell_json(value: Any) -> None:
    """Write a result for a program: one JSON value and a newline."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
