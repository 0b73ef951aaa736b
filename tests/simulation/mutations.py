"""Mistakes that every architecture could make, for `test_checkers_can_fail`. A plain module."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from protocol.errors import RemoteProtocolError
from protocol.memory.pool import Pool
from protocol.nesting.composition import Rig

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


def the_end_of_a_host_is_not_noticed(patch: Patch, arch: str) -> None:
    teardown: Any = importlib.import_module(f"protocol.arch.{arch}.nesting.teardown")

    def nothing(*_: Any, **__: Any) -> Any:
        yield from ()

    patch.setattr(teardown, "everything", nothing)


def a_frame_is_lost_at_the_end(patch: Patch, arch: str) -> None:
    """When a host has ended, whoever takes its memory back forgets one frame of the pool."""
    real = Rig.end

    def end(self: Any, seat: int, cause: str) -> Any:
        level = self.seats[seat].level
        yield from real(self, seat, cause)
        level.below.pool.take()

    patch.setattr(Rig, "end", end)


def a_frame_is_given_twice(patch: Patch, arch: str) -> None:
    """Every third time, one frame of what goes back goes back twice: single frames and runs alike."""
    give, give_run, given = Pool.give, Pool.give_run, [0]

    def twice(self: Pool, frames: Any) -> None:
        listed = [int(frame) for frame in frames]
        given[0] += 1
        give(self, [*listed, *listed[:1]] if given[0] % 3 == 0 else listed)

    def run_twice(self: Pool, first: int, count: int) -> None:
        given[0] += 1
        give_run(self, first, count)
        if given[0] % 3 == 0:
            give(self, [first])

    patch.setattr(Pool, "give", twice)
    patch.setattr(Pool, "give_run", run_twice)


def an_lpid_is_lost(patch: Patch) -> None:
    """What a host that ends had of its seat's LPIDs does not come back."""
    records: Any = importlib.import_module("protocol.arch.pef.nesting.records")
    real, given = records.Lpids.give, [0]

    def give(self: Any, lpid: int) -> None:
        given[0] += 1
        if given[0] % 4:
            real(self, lpid)

    patch.setattr(records.Lpids, "give", give)


def a_register_says_how_much_others_asked(patch: Patch) -> None:
    """What an ultracall leaves in a register that nobody reads is a number that all hosts share."""
    server: Any = importlib.import_module("protocol.arch.pef.linked").Server
    real, asked = server._serve, [0]

    def serve(self: Any, operation: str, request: Any) -> Any:
        asked[0] += 1
        answer = yield from real(self, operation, request)
        if isinstance(answer.result, list):
            answer.result[31] = asked[0]
        return answer

    patch.setattr(server, "_serve", serve)


EVERYWHERE: dict[Callable[[Patch, str], None], tuple[str, ...]] = {  # which checks may notice it first
    a_level_raises: ("level",),
    a_link_is_closed_for_nothing: ("protocol", "hosting"),
    the_end_of_a_host_is_not_noticed: ("books", "service"),
    a_frame_is_lost_at_the_end: ("frames",),
    a_frame_is_given_twice: ("frames",),
}
