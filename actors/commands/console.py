"""`nestbed console` as the other commands see it: for the list of commands, for completion, for programs.

From a shell it never gets here: the entry point hands it to `actors.console` before Typer is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors.commands.options import complete_architecture
from actors.console import HELP, run
from actors.keyboard import Options


def serve(
    arch: Annotated[
        str,
        typer.Option("--arch", metavar="ARCH", help=HELP["arch"], autocompletion=complete_architecture),
    ],
    depth: Annotated[int, typer.Option("--depth", metavar="N", help=HELP["depth"])] = 0,
    hosts: Annotated[int, typer.Option("--hosts", metavar="K", help=HELP["hosts"])] = 1,
    memory: Annotated[int | None, typer.Option("--memory", metavar="MIB", help=HELP["memory"])] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", metavar="N", help=HELP["cpus"])] = None,
    profile: Annotated[str, typer.Option("--profile", metavar="P", help=HELP["profile"])] = "small",
    seed: Annotated[int, typer.Option("--seed", metavar="S", help=HELP["seed"])] = 0,
    explain: Annotated[bool, typer.Option("--explain", help=HELP["explain"])] = False,
    record: Annotated[Path | None, typer.Option("--record", metavar="FILE", help=HELP["record"])] = None,
) -> None:
    """Sit at the keyboard of a secure host: one JSON request per line in, one answer per line out."""
    raise typer.Exit(run(Options(arch, depth, hosts, memory, cpus, profile, seed), record, explain))
