"""`nestbed up`: a deployment on this machine, kept in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, say, tell_json

if TYPE_CHECKING:
    from actors.deployment.place import Place
    from actors.deployment.process import Assignment
    from actors.deployment.settings import Deployment
    from actors.deployment.supervise import Deployed
    from actors.scenario import Resolved

DeploymentFile = Annotated[
    Path,
    typer.Argument(metavar="DEPLOYMENT", help="A TOML file that says what is to run.", show_default=False),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        metavar="DIR",
        help="Runtime directory: sockets, logs, targets; NESTBED_DIRECTORY or the user's own if not given.",
    ),
]


def up(
    deployment: DeploymentFile,
    directory: Directory = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of everything that is drawn.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the parts that would be started, and start nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no table.")] = False,
) -> None:
    """Run a deployment: start its parts, wait until they are ready, start again those that end.

    It stays in the foreground and shows how every part is. Ctrl-C takes everything down in order, a second
    Ctrl-C at once; no process, socket or memory file is left. With a load that has rounds it ends by itself
    when they are over.
    """
    settings, resolved = read(deployment, seed)
    place = place_of(directory, settings.name)
    assignment = assigned(deployment, settings, resolved, place)
    if dry_run:
        tell_json(
            {
                "deployment": settings.model_dump(mode="json"),
                "directory": str(place.root),
                "parts": [{"name": part.name, "role": part.role.value} for part in assignment.parts],
            }
        )
        return
    raise typer.Exit(perform(assignment, quiet))


def read(path: Path, seed: int | None = None) -> tuple[Deployment, Resolved]:
    """A deployment file, or the end of the command with everything that is wrong in it."""
    from actors.deployment.settings import read_deployment, scenario_of
    from actors.scenario import BrokenScenario, UnreadableScenario

    try:
        settings, resolved = read_deployment(path)
        if seed is not None:
            settings = settings.model_copy(update={"seed": seed})
            resolved = scenario_of(settings, path.parent)
    except UnreadableScenario as error:
        end(exit_codes.USAGE, str(error))
    except BrokenScenario as error:
        end(exit_codes.USAGE, error.text())
    return settings, resolved


def place_of(directory: Path | None, name: str) -> Place:
    from actors.deployment.place import Place, default_place

    return Place((directory or default_place(name, os.environ)).absolute())


def assigned(path: Path, settings: Deployment, resolved: Resolved, place: Place) -> Assignment:
    """Everything of a deployment."""
    from actors.deployment.parts import parts_of
    from actors.deployment.process import Assignment

    scenario = resolved.scenario
    l1s = scenario.l1.count if scenario.depth == 1 else 1
    return Assignment(settings, scenario, parts_of(settings, l1s), place, path.parent.absolute(), {})


def perform(assignment: Assignment, quiet: bool) -> int:
    """Bring it up and keep it; returns the exit code."""
    import trio

    from actors.deployment.place import Unusable
    from actors.deployment.supervise import Deployed, NotReady
    from actors.observe.exporter import CannotListen
    from actors.observe.logs import BadLogging, wanted
    from actors.runtime.forker import CannotFork
    from actors.runtime.supervisor import RestartsExceeded, unwrap

    place = assignment.place
    try:
        wanted(os.environ)
    except BadLogging as error:
        end(exit_codes.USAGE, str(error))
    try:
        place.prepare(tuple(part.name for part in assignment.parts))
        lock = place.lock()
    except Unusable as error:
        end(exit_codes.ENVIRONMENT, f"--directory {error}")
    try:
        for pid in place.reap():
            say(f"process {pid} of an earlier supervisor was still there: ended")
        place.clear()
        deployed = Deployed(assignment, say)
        code = trio.run(_up, deployed, quiet)
    except Unusable as error:
        end(exit_codes.ENVIRONMENT, str(error))
    except BaseExceptionGroup as group:
        fault = unwrap(group)
        if not isinstance(fault, RestartsExceeded | NotReady | CannotFork | CannotListen):
            raise
        say(f"{fault}; everything was taken down; logs are in {place.root}")
        return exit_codes.FAILED
    finally:
        place.clear()
        os.close(lock)
    return code


async def _up(deployed: Deployed, quiet: bool) -> int:
    import trio

    from actors.deployment.table import show
    from actors.runtime.notify import notify

    code = exit_codes.OK

    async def signals() -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if code == exit_codes.INTERRUPTED:
                    deployed.kill_all()
                code = exit_codes.INTERRUPTED
                say("taking everything down (again: at once)")
                running.cancel_scope.cancel()

    async def ready() -> None:
        await deployed.ready.wait()
        parts = len(deployed.seen)
        say(f"{parts} parts ready in {deployed.assignment.place.root}")
        notify("READY=1")

    async with trio.open_nursery() as around:
        around.start_soon(signals)
        async with trio.open_nursery() as running:
            running.start_soon(ready)
            running.start_soon(show, deployed, quiet)
            await deployed.run()
            running.cancel_scope.cancel()
        around.cancel_scope.cancel()
    return code
