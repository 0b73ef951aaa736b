"""`nestbed why`: what the parts of a live deployment are at."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from actors import exit_codes
from actors.commands.options import AsJson
from actors.commands.speak import end, tell, tell_json
from actors.commands.up import Directory, place_of


def why(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the deployment; not needed with --directory.")
    ] = "lab",
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Say what the parts of a running deployment are at: calls in flight, parked handlers, locks, who waits.

    A lock is named with who holds it: a guest host for calls of its own, or L0. Where the calls of an
    architecture lock nothing, that is said, with the reason.

    At the end is one tree over all parts: who waits for whom, from the load down to the Trusted Entity. Parts
    are asked at the same time but answer when they can, so what is quick may show at one end of a link alone.

    Nothing is stopped for it. A part that does not answer is named, too: it is the one to look at. A process
    that gets the signal SIGUSR1 writes the same about itself into its log.
    """
    import trio

    from actors.deployment import words
    from actors.deployment.asked import ask_all
    from actors.deployment.why import as_text

    place = place_of(directory, name)
    answers = trio.run(partial(ask_all, place, words.Why()))
    if not answers:
        end(exit_codes.ENVIRONMENT, f"no part runs in {place.root}; allowed: --directory of a deployment")
    if as_json:
        tell_json(answers)
        return
    silent = {part: answer for part, answer in answers.items() if isinstance(answer, str)}
    told = {part: answer["pictures"] for part, answer in answers.items() if part not in silent}
    tell(as_text(told) + "".join(f"{part}: {answer}\n" for part, answer in silent.items()))
