"""`nestbed fleet ...`: machines that stand in one directory, on NATS servers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.door import DRIVER, MACHINE, CellName, Certificate, Servers, door_of
from actors.commands.options import AsJson
from actors.commands.speak import end, first_of, say, tell, tell_json
from actors.commands.up import DeploymentFile, read

if TYPE_CHECKING:
    from actors.deployment.reach import Elsewhere
    from actors.fleet.bus import Door
    from protocol.fleet.entry import Entry


def performed(act: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Do something with a directory; where it cannot be reached the command ends."""
    import trio

    from actors.fleet.bus import NoDirectory
    from protocol.errors import NotDelivered

    try:
        return trio.run(act, *arguments)
    except (NoDirectory, NotDelivered) as error:
        end(exit_codes.ENVIRONMENT, f"--nats {error}")


def init(
    deployment: DeploymentFile, nats: Servers = None, certificate: Certificate = None, cell: CellName = "lab"
) -> None:
    """Make the directory of a fleet that is new, and say of its machines that nobody holds them.

    Without it the first instances wait for a lease and a quarter: a directory that knows nothing of a machine
    might have been lost while somebody held it. What stands in the directory already stays as it is.
    """
    from actors.deployment.parts import machine_name

    settings, _ = read(deployment)
    door = door_of(nats, certificate, cell, MACHINE, f"p{os.getpid()}")
    names = [machine_name(machine) for machine in range(settings.machines)]
    fresh = performed(_given_back, door, names)
    say(f"{len(fresh)} of {len(names)} machines were not in the directory of {cell}: free to be held")


async def _given_back(door: Door, names: list[str]) -> list[str]:
    from actors.deployment.leases import open_leases

    async with open_leases(door, "init", 1.0) as leases:
        return [name for name in names if await leases.give_back(name)]


def machines(
    nats: Servers = None, certificate: Certificate = None, cell: CellName = "lab", as_json: AsJson = False
) -> None:
    """List who holds what in a fleet: machines with their epochs and room, and agents.

    An entry stands until somebody else claims it, so one whose holder is gone may still be listed for the
    length of its lease.
    """
    from actors.fleet.roster import listed

    found = performed(listed, door_of(nats, certificate, cell, DRIVER, f"p{os.getpid()}"))
    if as_json:
        tell_json({name: _shown(entry) for name, entry in sorted(found.items())})
        return
    for name, entry in sorted(found.items()):
        room = f"room for {entry.children} guests, {entry.memory_mib} MiB" if entry.kind == "machine" else ""
        tell(f"{name:<12} {entry.kind:<8} epoch {entry.epoch:<6} {entry.endpoint or '-':<22} {room}".rstrip())


def _shown(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__slots__}


def move(
    deployment: DeploymentFile,
    source: Annotated[str, typer.Argument(metavar="FROM", help="A guest host, as MACHINE/SEAT: l0-0/0.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A seat without guests, as MACHINE/SEAT.")],
    nats: Servers = None,
    certificate: Certificate = None,
    cell: CellName = "lab",
    as_json: AsJson = False,
) -> None:
    """Move a guest host: make it anew on another machine, then bring its secure guests there, one by one.

    No secure host can be moved itself. Guests of legacy SEV are sent with their memory (SEND, RECEIVE); those
    of every other architecture end and start cold, and what they knew is gone. Told are what both machines
    counted, and each guest's downtime: modelled, from those counts, and that of this program. Exit code 1 if
    a guest had to stay.
    """
    from actors.fleet.move import CannotMove, Mover, seat_of
    from protocol.errors import NestbedError

    settings, resolved = read(deployment)
    settings = settings.model_copy(update={"placement": "together"})
    try:
        ends = seat_of(source, settings, resolved.scenario), seat_of(target, settings, resolved.scenario)
    except CannotMove as error:
        end(exit_codes.USAGE, str(error))
    reach = reach_of(settings.machines, nats, certificate, cell)
    try:
        told = performed(Mover(reach, settings, resolved.scenario).move, *ends)
    except* CannotMove as errors:
        end(exit_codes.USAGE, str(first_of(errors)))
    except* (OSError, NestbedError) as errors:
        end(exit_codes.FAILED, f"{source} to {target}: {first_of(errors)}")
    if as_json:
        tell_json(told)
    else:
        tell(*_told(told))
    if told["stayed"]:
        end(exit_codes.FAILED, told["trouble"])


def _told(told: dict[str, Any]) -> list[str]:
    lines = [f"{told['arch']}: {told['way']} ({told['why']})"]
    for guest, each in told["guests"].items():
        modelled = [each["modelled"][name] / 1e6 for name in ("ns", "low_ns", "high_ns")]
        down = "down {:.3f} ms modelled ({:.3f} to {:.3f})".format(*modelled)
        lines.append(
            f"  guest {guest}: {down}; {each['wall_ms']:.0f} ms of this program; {each['bytes']} bytes"
        )
    for side, counts in told["counts"].items():
        lines.append(f"  {side}: {counts.get('exits', 0)} exits, {counts.get('te_issued', 0)} real calls")
    return lines


def reach_of(count: int, nats: list[str] | None, certificate: Path | None, cell: str) -> Elsewhere:
    """The way to the first `count` machines of a fleet, or the end of the command."""
    from actors.commands.agent import address
    from actors.deployment.parts import machine_name
    from actors.deployment.reach import Elsewhere
    from actors.fleet.roster import listed

    door = door_of(nats, certificate, cell, DRIVER, f"p{os.getpid()}")
    if door.credentials is None:
        end(exit_codes.USAGE, "--certificate FILE is missing: machines want to know who drives them")
    found = performed(listed, door)
    endpoints = {}
    for name in map(machine_name, range(count)):
        if name not in found or not found[name].endpoint:
            end(exit_codes.ENVIRONMENT, f"{name} is not in the directory of {cell}, or does not --listen")
        endpoints[name] = address(found[name].endpoint, name)
    return Elsewhere(endpoints, door.credentials)
