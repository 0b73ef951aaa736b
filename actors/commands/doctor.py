"""`nestbed doctor`: whether this machine has what nestbed needs, and whether a deployment is ready."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.options import AsJson
from actors.commands.speak import say, tell, tell_json
from actors.commands.up import Directory, place_of

if TYPE_CHECKING:
    from actors.runtime.probes import Finding

URL_S = 3.0


def doctor(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the deployment; not needed with --directory.")
    ] = "lab",
    directory: Directory = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Only whether every part is ready: exit code 0 or 1.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="With --ready: ask /readyz of this address instead."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at this machine and say what nestbed lacks on it; with --ready, at a deployment.

    Exit code 0 if everything that is needed is there, 3 if not. With --ready: 0 if every part is ready, 1 if
    not. A container's health check needs no shell and no other program for it.
    """
    if ready:
        answers = _ready_url(url) if url else _ready(place_of(directory, name))
        good = bool(answers) and all(answer == "ready" for answer in answers.values())
        if as_json:
            tell_json(answers)
        else:
            for part, answer in answers.items():
                say(f"{part}: {answer}")
            if not answers:
                say(f"no part runs in {place_of(directory, name).root}")
        raise typer.Exit(exit_codes.OK if good else exit_codes.FAILED)
    from actors.runtime.probes import findings

    found = list(findings())
    if as_json:
        tell_json([each._asdict() for each in found])
    else:
        tell("".join(_line(each) for each in found))
    lacking = any(each.needed and not each.good for each in found)
    raise typer.Exit(exit_codes.ENVIRONMENT if lacking else exit_codes.OK)


def _line(finding: Finding) -> str:
    mark = "ok" if finding.good else "LACKS" if finding.needed else "without"
    return f"{mark:<8}{finding.what:<28}{finding.detail}\n"


def _ready_url(url: str) -> dict[str, str]:
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        return {url[:80]: "not an address; allowed: http://HOST:PORT"}
    address = url.rstrip("/") + ("" if url.rstrip("/").endswith("/readyz") else "/readyz")
    try:
        with urllib.request.urlopen(address, timeout=URL_S) as answer:  # noqa: S310, of the two kinds above
            return {address: "ready" if answer.status == 200 else f"status {answer.status}"}
    except (OSError, ValueError) as error:
        return {address: f"not ready: {error}"}


def _ready(place: object) -> dict[str, str]:
    import trio

    from actors.deployment import words
    from actors.deployment.asked import ask_all
    from actors.deployment.place import Place

    assert isinstance(place, Place)
    answers = trio.run(partial(ask_all, place, words.Status()))
    return {
        part: answer if isinstance(answer, str) else "ready" if answer["ready"] else "not ready"
        for part, answer in answers.items()
    }
