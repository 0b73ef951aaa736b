"""`nestbed soak`: whole deployments on simulated time, with faults and hostile hosts, and checkers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.options import AsJson
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from protocol.soak import Options, Outcome
    from protocol.soak.options import Tally
    from protocol.soak.run import Failure

SAYS_S = 2.0  # between two lines about progress


def soak(
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything that is drawn.")] = 0,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps in all.", min=1)] = 20_000,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="NAME", help="This architecture alone; all if not given.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="safety: faults until the end; liveness: they stop half way, then all must end well.",
        ),
    ] = "safety",
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="KIND", help="Leave out a kind of fault; may be repeated."),
    ] = None,
    episode: Annotated[
        int | None, typer.Option("--episode", metavar="N", help="Run this episode of the seed alone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run whole deployments of hosts and secure guests on simulated time, go wrong on purpose, and check.

    One seed is always the same run: the trace hash says so. What does not hold ends the run with exit code 1,
    and the command that replays it with as little as it takes.

    What a host's own loads find is a sample: at each look 60 frames of each host, 48 of them such as are
    donated, secure or otherwise marked. Open memory and messages are looked at as a whole.
    """
    from protocol.arch import kinds, load
    from protocol.soak import KINDS, Options, shrink
    from protocol.soak import soak as run
    from protocol.soak.options import MODES

    dropped = frozenset(without or ())
    _allowed("--arch", [] if arch is None else [arch], kinds())
    _allowed("--mode", [mode], MODES)
    _allowed("--without", dropped, tuple(KINDS))
    options = Options(seed, steps, arch, mode, dropped, episode)
    arches = {name: load(name) for name in ([arch] if arch else kinds())}
    outcome = run(options, arches, _progress() if sys.stderr.isatty() else None)
    least = None if outcome.failure is None else shrink(outcome, arches)
    if as_json:
        tell_json({"commit": commit(), **outcome.body(), "replay": least and command(options, least)})
    else:
        _tell(outcome, options, least)
    if least is not None:
        raise typer.Exit(exit_codes.FAILED)


def _allowed(option: str, given: list[str] | frozenset[str], allowed: tuple[str, ...]) -> None:
    for each in sorted(given):
        if each not in allowed:
            end(exit_codes.USAGE, f"{option} {each}: allowed: {', '.join(allowed)}")


def _progress(every: float = SAYS_S) -> Callable[[Tally, int], None]:
    """Says how far it is, at most so often; within an episode, too."""
    said = time.monotonic()

    def progress(tally: Tally, episode: int) -> None:
        nonlocal said
        if time.monotonic() - said >= every:
            said = time.monotonic()
            say(f"episode {episode}: {tally.steps:,} steps, {sum(tally.faults.values()):,} faults")

    return progress


def _tell(outcome: Outcome, options: Options, least: Failure | None) -> None:
    tally = outcome.tally
    tell(
        f"seed {options.seed}, {options.mode}: {tally.steps:,} steps in {outcome.episodes} episodes, "
        f"{sum(tally.faults.values()):,} faults, {sum(tally.checks.values()):,} checks, "
        f"{0 if least is None else 1} violations, trace {tally.trace}"
    )
    for what, counts in (("faults", tally.faults), ("checks", tally.checks)):
        tell(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    if least is not None:
        tell(f"episode {least.episode}, step {least.step}, commit {commit()}")
        tell(f"{least.check}: {least.detail}")
        tell(f"again: {command(options, least)}")


def command(options: Options, failure: Failure) -> str:
    """What replays a failure."""
    words = ["nestbed soak", f"--seed {options.seed}", f"--episode {failure.episode}"]
    words += [f"--arch {options.arch}"] if options.arch else []
    words += [f"--mode {options.mode}"] if options.mode != "safety" else []
    words += [f"--without {kind}" for kind in sorted(failure.without)]
    return " ".join(words)


def commit() -> str:
    """The commit of the checkout that runs; the version where there is none."""
    from nestbed import __version__

    git = shutil.which("git")
    if git is not None:
        asked = subprocess.run(  # noqa: S603 - git, by its full path
            [git, "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if not asked.returncode:
            return asked.stdout.strip()
    return __version__
