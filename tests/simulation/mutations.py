"""Mistakes that every architecture could make, for `test_checkers_can_fail`. A plain module."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from protocol.errors import RemoteProtocolError

Patch = pytest.MonkeyPatch


def served(patch: Patch, arch: str, then: Callable[[int], None]) -> None:
    """Look at each message that a level of the architecture is asked; `then` is told its number."""
    server: Any = importlib.import_module(f"protocol.arch.{arch}.linked").Server
    real, asked = server.__call__, [0]

    def serve(self: Any, effect: Any) -> Any:
        asked[0] += 1
        answer = yield from real(self, effect)
        then(asked[0])
        return answer

    patch.setattr(server, "__call__", serve)


def a_level_raises(patch: Patch, arch: str) -> None:
    def then(number: int) -> None:
        assert number % 300, "an invariant of the emulation"

    served(patch, arch, then)


def a_link_is_closed_for_nothing(patch: Patch, arch: str) -> None:
    def then(number: int) -> None:
        if number % 400 == 0:
            raise RemoteProtocolError("shape", "nothing is wrong with it")

    served(patch, arch, then)


EVERYWHERE: dict[Callable[[Patch, str], None], tuple[str, ...]] = {  # which checks may notice it first
    a_level_raises: ("level",),
    a_link_is_closed_for_nothing: ("protocol", "hosting"),
}
