"""Options of commands that come to a fleet, and the door that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end

if TYPE_CHECKING:
    from actors.fleet.bus import Door

NATS = "NESTBED_NATS"
CERTIFICATE = "NESTBED_CERTIFICATE"
DRIVER, MACHINE, TENANT = "driver", "machine", "tenant"

Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--nats",
        metavar="URL",
        envvar=NATS,
        help="NATS server of the fleet; may be repeated. Needs the extra nats.",
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        envvar=CERTIFICATE,
        help="Who we are to the fleet; key and ca.pem are beside it.",
    ),
]
CellName = Annotated[
    str, typer.Option("--cell", metavar="NAME", envvar="NESTBED_CELL", help="Name of the fleet.")
]


def door_of(
    servers: list[str] | None, certificate: Path | None, cell: str, role: str, inbox: str = ""
) -> Door:
    """The way in, for somebody of that role; without a certificate, to servers that ask for none."""
    from actors.fleet.bus import Door
    from actors.runtime.transport.pki import Credentials
    from protocol.fleet.subjects import Cell, is_token

    if not servers:
        end(exit_codes.USAGE, f"--nats URL is missing; {NATS} may have it, too")
    try:
        Cell(cell)
    except ValueError as error:
        end(exit_codes.USAGE, f"--cell: {error}")
    if certificate is None:
        return Door(tuple(servers), role, cell, None, inbox)
    credentials = Credentials.beside(certificate)
    try:
        said, name = credentials.says()
        for path in (credentials.key, credentials.authority):
            path.open("rb").close()
    except OSError as error:
        end(exit_codes.USAGE, f"--certificate {error.filename}: {error.strerror}")
    except ValueError as error:
        end(exit_codes.USAGE, f"--certificate {error}")
    if said != role:
        end(exit_codes.USAGE, f"--certificate {certificate}: of a {said}; allowed: of a {role}")
    who = name if role == TENANT else role
    if not is_token(who):
        end(
            exit_codes.USAGE,
            f"--certificate {certificate}: {who}: no name of a tenant (1 to 32 of a-z, 0-9, -)",
        )
    return Door(tuple(servers), who, cell, credentials, inbox)
