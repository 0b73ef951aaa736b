"""What parts that live say when they are asked: how they are, and what they are at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from actors.deployment import words
from actors.deployment.load import linked
from actors.deployment.place import Place
from protocol.errors import NestbedError

ANSWER_S = 5.0


def parts_here(place: Place) -> list[str]:
    """The parts that have a control socket there. Empty if there is no such directory."""
    return sorted(path.stem for path in place.root.glob("*.sock")) if place.root.is_dir() else []


async def ask_all(place: Place, message: object) -> dict[str, Any]:
    """What each part answers to `message`; for one that does not, the reason as a text."""
    answers: dict[str, Any] = {}

    async def ask(part: str) -> None:
        answers[part] = await _ask(place.control(part), message)

    async with trio.open_nursery() as nursery:
        for part in parts_here(place):
            nursery.start_soon(ask, part)
    return dict(sorted(answers.items()))


async def _ask(path: Path, message: object) -> Any:
    try:
        with trio.fail_after(ANSWER_S):
            async with linked(path) as link:
                return await link.ask(words.PART, message)
    except (OSError, NestbedError, trio.TooSlowError) as error:
        return f"does not answer: {type(error).__name__}: {error}".rstrip(": ")
