"""`nestbed agent`: does the work of comparisons that are driven from another machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.door import CellName, Servers, door_of
from actors.commands.speak import end, say
from actors.given import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.compare.outcome import Outcome
    from actors.compare.progress import Progress
    from actors.fleet.bus import Door
    from actors.runtime.transport.pki import Credentials
    from protocol.plan.scenario import Scenario

Keys = Annotated[
    Path,
    typer.Option(
        "--keys", metavar="DIR", help="Directory with ca.pem and this process's certificate and key."
    ),
]


def agent(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address on which drivers are served.")
    ],
    keys: Keys,
    nats: Servers = None,
    cell: CellName = "lab",
) -> None:
    """Run comparisons that `nestbed compare --on HOST:PORT` on another machine asks for.

    Only drivers with a certificate of the same authority are served, one path at a time. The directory of
    keys has ca.pem, and one certificate with its key for the role machine (`nestbed pki issue DIR machine
    NAME`). With --nats the agent stands in the fleet's directory, where `nestbed compare --nats` finds it.
    """
    import trio

    from actors.fleet.bus import NoDirectory
    from protocol.roles import MACHINE

    host, port = address(listen, "--listen")
    credentials = credentials_of(keys, MACHINE)
    door = None
    if nats:
        if host in ("", "0.0.0.0", "::"):  # noqa: S104, refused here
            end(exit_codes.USAGE, f"--listen {listen}: others find it by --nats; allowed: an address of ours")
        door = door_of(nats, credentials.certificate, cell, MACHINE, f"agent{os.getpid()}")
    try:
        trio.run(_agent, host, port, credentials, door)
    except NoDirectory as error:
        end(exit_codes.ENVIRONMENT, f"--nats {error}")
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"--listen {listen}: {error.strerror or error}")


async def _agent(host: str, port: int, credentials: Credentials, door: Door | None) -> None:
    import trio

    from actors.compare.fleet import Agent
    from actors.fleet.roster import announce
    from actors.runtime.notify import notify

    made = Agent(credentials)
    async with trio.open_nursery() as nursery:
        chosen = await nursery.start(made.run, host, port)
        say(f"agent on {chosen[0]}:{chosen[1]}")
        if door is not None:
            name = f"agent-{credentials.says()[1]}"
            await nursery.start(announce, door, name, "{}:{}".format(*chosen))
            say(f"{name} is in the directory")
        notify("READY=1")
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


def _listed(door: Door) -> tuple[tuple[str, int], ...]:
    """Where the agents of a directory are, or the end of the command."""
    import trio

    from actors.fleet.bus import NoDirectory
    from actors.fleet.roster import listed
    from protocol.errors import NotDelivered

    try:
        entries = trio.run(listed, door)
    except (NoDirectory, NotDelivered) as error:
        end(exit_codes.ENVIRONMENT, f"--nats {error}")
    found = tuple(
        address(entry.endpoint, name) for name, entry in sorted(entries.items()) if entry.kind == "agent"
    )
    if not found:
        end(exit_codes.ENVIRONMENT, f"--nats: no agent is in the directory of {door.cell}")
    return found


def address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT, or the end of the command."""
    host, colon, port = text.rpartition(":")
    number = whole(port, 1 << 16)
    if not colon or not host or number is None:
        end(exit_codes.USAGE, f"{option} {text}: allowed: HOST:PORT, like 10.0.0.2:7700")
    return host.strip("[]"), number


def credentials_of(folder: Path, role: str) -> Credentials:
    """The one certificate for `role` in a directory of keys, or the end of the command."""
    from actors.runtime.transport.pki import Credentials

    found = sorted(folder.glob(f"{role}-*.pem"))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        end(exit_codes.USAGE, f"--keys {folder}: one certificate {role}-NAME.pem is wanted; there: {listed}")
    given = Credentials(found[0], found[0].with_suffix(".key"), folder / "ca.pem")
    for path in (given.key, given.authority):
        if not path.is_file():
            end(exit_codes.USAGE, f"--keys {folder}: {path.name} is not there")
    return given


def may_be_elsewhere(scenario: Scenario, looks_inside: bool) -> None:
    """What only this process can do is refused with its reason."""
    if looks_inside:
        end(exit_codes.USAGE, "--on: agents send results alone; allowed: without what looks into a run")
    if scenario.guest.image is not None:
        end(
            exit_codes.USAGE,
            "--on: --image: agents do not have that file; allowed: an image made from the seed",
        )


def on_agents(
    addresses: list[str], keys: Path | None, servers: list[str], cell: str
) -> Callable[..., Outcome]:
    """Have agents run everything, those at `addresses` and in the directory; the answer is made here."""

    from actors.compare import interrupts
    from actors.compare.fleet import Agents, gathered
    from actors.compare.run import run
    from protocol.roles import DRIVER

    if keys is None:
        end(exit_codes.USAGE, "--on, --nats: agents want to know who asks: give --keys, too")
    credentials = credentials_of(keys, DRIVER)
    found = tuple(address(each, "--on") for each in addresses)
    if servers:
        found += _listed(door_of(servers, credentials.certificate, cell, DRIVER, f"p{os.getpid()}"))
    agents = Agents(found, credentials)

    def elsewhere(
        scenario: Scenario, progress: Progress, _transcripts: None, _processes: int, costs: Any, **_: Any
    ) -> Outcome:
        return run(scenario, progress, costs=costs, made=interrupts.run(gathered, scenario, agents))

    return elsewhere
