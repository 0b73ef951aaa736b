"""`nestbed node`: one process of a deployment that a platform places: a pod, a job's index, a unit."""

from __future__ import annotations

import os
import platform
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.door import MACHINE, CellName, Certificate, door_of
from actors.commands.speak import end, say
from actors.commands.up import DeploymentFile, Directory, assigned, place_of, read

if TYPE_CHECKING:
    from actors.deployment.parts import Part
    from actors.deployment.process import Assignment
    from actors.fleet.bus import Door


def node(
    deployment: DeploymentFile,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="NAME", help="Be this part alone, such as l0-0, l0-0.l1-1 or load."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", min=0, help="Which instance this is.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="How many instances there are.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="Seed of everything that is drawn.")
    ] = None,
    directory: Directory = None,
    nats: Annotated[
        list[str] | None,
        typer.Option(
            "--nats",
            metavar="URL",
            help="Hold each machine by a lease on these NATS servers; may be repeated. Needs the extra nats.",
        ),
    ] = None,
    certificate: Certificate = None,
    cell: CellName = "lab",
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Serve drivers of the fleet there, over TLS; the directory says where. Needs --nats.",
        ),
    ] = None,
    metrics_port: Annotated[
        int,
        typer.Option("--metrics-port", metavar="N", min=0, max=65535, help="Port of the metrics; 0: any."),
    ] = 0,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", metavar="HOST", help="Address on which metrics are served.")
    ] = "127.0.0.1",
) -> None:
    """Run one process of a deployment, for a platform that starts and places processes itself.

    Without --part it runs whole machines: the instance of rank r of n has the machines r, r + n, ... with
    their L1s and their load. Rank and count come from the flags, else from NESTBED_RANK and NESTBED_COUNT,
    else from JOB_COMPLETION_INDEX (with NESTBED_COUNT), SLURM_PROCID and SLURM_NTASKS, or the ordinal of a
    StatefulSet in POD_INDEX or POD_NAME. It ends with exit code 75 when what it stands on is gone: start it
    again.
    """
    settings, resolved = read(deployment, seed)
    place = place_of(directory, settings.name)
    if part is None:
        settings = settings.model_copy(update={"placement": "together"})
    whole = assigned(deployment, settings, resolved, place)
    chosen = _named(whole, part) if part is not None else _ranked(whole, rank, count)
    door = door_of(nats, certificate, cell, MACHINE, f"p{os.getpid()}") if nats else None
    raise typer.Exit(perform(whole, chosen, metrics_host, metrics_port, door, _where(listen, door)))


def _where(listen: str | None, door: Door | None) -> tuple[str, int] | None:
    """Where drivers are served, or the end of the command."""
    from actors.commands.agent import address

    if listen is None:
        return None
    if door is None or door.credentials is None:
        end(exit_codes.USAGE, "--listen: allowed: with --nats and --certificate, as the directory says where")
    host, port = address(listen, "--listen")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104, refused here
        end(exit_codes.USAGE, f"--listen {listen}: others find it there; allowed: an address of ours")
    return host, port


def _named(whole: Assignment, name: str) -> tuple[Part, ...]:
    found = tuple(part for part in whole.parts if part.name == name)
    if not found:
        listed = ", ".join(part.name for part in whole.parts)
        end(exit_codes.USAGE, f"--part {name}: no such part; allowed: {listed}")
    return found


def _ranked(whole: Assignment, rank: int | None, count: int | None) -> tuple[Part, ...]:
    from actors.deployment.parts import NoRank, Role, machines_of, rank_of

    try:
        mine = rank_of(rank, count, os.environ)
    except NoRank as error:
        end(exit_codes.USAGE, str(error))
    machines = machines_of(mine.rank, mine.count, whole.deployment.machines)
    listed = ", ".join(map(str, machines)) or "none"
    say(f"rank {mine.rank} of {mine.count} ({mine.source}): machines {listed}")
    if not machines:
        end(exit_codes.USAGE, f"{whole.deployment.machines} machines leave none for rank {mine.rank}")
    return tuple(part for part in whole.parts if part.machine in machines or part.role is Role.LOAD)


def perform(
    whole: Assignment,
    parts: tuple[Part, ...],
    host: str,
    port: int,
    door: Door | None,
    listen: tuple[str, int] | None,
) -> int:
    """Be these parts; returns the exit code."""
    from dataclasses import replace

    import trio

    from actors.deployment.child import BODIES
    from actors.deployment.leases import NoDirectory
    from actors.deployment.place import Unusable
    from actors.deployment.process import live
    from actors.observe.exporter import CannotListen
    from actors.observe.logs import BadLogging
    from actors.runtime.notify import notify

    place = whole.place
    try:
        place.prepare(tuple(part.name for part in parts))
        epochs = place.next_epochs([part.name for part in parts])
        mine = replace(whole, parts=parts, epochs=epochs, metrics_host=host, metrics_port=port)
        if door is not None:
            return trio.run(_with_leases, mine, door, listen)
        return trio.run(live, mine, BODIES, None, lambda: notify("READY=1"))
    except BadLogging as error:
        end(exit_codes.USAGE, str(error))
    except (Unusable, CannotListen, NoDirectory) as error:
        end(exit_codes.ENVIRONMENT, str(error))


async def _with_leases(mine: Assignment, door: Door, listen: tuple[str, int] | None) -> int:
    """The same, once every machine of this process is held; its epoch is that of the lease."""
    from dataclasses import replace

    from actors.deployment.child import BODIES
    from actors.deployment.leases import open_leases
    from actors.deployment.parts import Role
    from actors.deployment.process import Held, live
    from actors.runtime.notify import notify

    machines = [part.name for part in mine.parts if part.role is Role.MACHINE]
    holder = f"{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}"
    length_s = mine.deployment.lease.length_ms / 1000
    async with open_leases(door, holder, length_s, mine.epochs) as leases:
        claims = [await leases.claim(machine) for machine in machines]
        epochs = mine.epochs | {claim.machine: claim.epoch for claim in claims}
        for claim in claims:
            say(f"{claim.machine} is held here (epoch {claim.epoch})")
        held = Held(leases, claims, listen=listen) if claims else None
        code = await live(replace(mine, epochs=epochs), BODIES, None, lambda: notify("READY=1"), held)
        for claim in claims if code == exit_codes.OK else ():
            await leases.release(claim)
    return code
