"""`nestbed pki`: certificates for links between machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors import exit_codes
from actors.commands.speak import end, say

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of the authority.", show_default=False)
]
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, max=3650, help="How long it is believed.")]


def init(folder: Folder, days: Days = 365) -> None:
    """Make an authority of your own: the key that signs, and the certificate that every process believes.

    Keep ca.key off the machines that run anything: whoever has it can be any process.
    """
    from actors.runtime.transport.pki import Authority

    try:
        Authority.create(folder, days)
    except FileExistsError:
        end(
            exit_codes.USAGE,
            f"{folder / 'ca.key'}: there is an authority already; allowed: another directory",
        )
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{folder}: {error.strerror}")
    say(f"{folder / 'ca.pem'} is believed, {folder / 'ca.key'} signs")


def issue(
    folder: Folder,
    role: Annotated[
        str,
        typer.Argument(
            metavar="ROLE",
            help="hosts, machine, driver, requester, nats or tenant.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which of them it is.", show_default=False)],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="A name or address of it; may be repeated."),
    ] = None,
    days: Days = 365,
) -> None:
    """Make the certificate of one process. Its role decides which messages are legal on its links."""
    from actors.given import whole
    from actors.runtime.transport.pki import Authority
    from protocol.roles import REQUESTER, ROLES

    if role not in ROLES:
        end(exit_codes.USAGE, f"{role}: no role; allowed: {', '.join(ROLES)}")
    if role == REQUESTER and (whole(name, 1 << 30) or 0) < 3:
        end(exit_codes.USAGE, f"requester {name}: allowed: its context id, from 3 to 1073741823")
    try:
        given = Authority.open(folder).issue(role, name, host or (), days)
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{folder}: {error.strerror}; allowed: a directory of `nestbed pki init`")
    except ValueError as error:
        end(exit_codes.USAGE, str(error))
    say(f"{given.certificate} and {given.key}")
