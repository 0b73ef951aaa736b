"""A runtime for the actors of a test, and a level below that answers when the test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.runtime.actor import Runtime, open_runtime
from actors.runtime.port import Deliver


class Below:
    """Performs effects by holding them: `held` is what was yielded, `answer` lets one go on."""

    def __init__(self) -> None:
        self.held: list[tuple[Any, Deliver]] = []

    def __call__(self, effect: Any, deliver: Deliver) -> None:
        self.held.append((effect, deliver))

    def answer(self, value: object = None, error: BaseException | None = None, *, at: int = 0) -> None:
        self.held.pop(at)[1](value, error)

    @property
    def effects(self) -> list[Any]:
        return [effect for effect, _ in self.held]


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    """Its clock stands still: on a busy machine, too, what is sent is handled at once."""
    async with open_runtime(lambda: 0.0) as made:
        yield made


@pytest.fixture
def below() -> Below:
    return Below()
