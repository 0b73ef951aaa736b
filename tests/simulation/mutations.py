"""Mistakes that every architecture could make, each in its own code, and the trials. A plain module."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

from checkers import Beside, Mutation, Patch, Trial

from protocol.arch import load
from protocol.errors import OwnerGone, RemoteProtocolError
from protocol.memory.pool import Pool
from protocol.nesting.composition import Rig
from protocol.plan import operations as op
from protocol.soak.options import LIVENESS

GOOD = Trial(8, steps=8_000)  # two hosts side by side, none of them hostile
CALM = Trial(8, without=frozenset({"starve"}))  # then no host may be refused
ALIVE = Trial(8, steps=8_000, without=frozenset({"kill", "starve"}))  # hosts reboot, and do not die
LAST = Trial(8, without=frozenset({"kill", "reset"}))  # the first host that dies does so at the end
LONG = Trial(8, steps=20_000, without=frozenset({"kill", "reset", "starve", "hold"}))
IN_THE_END = Trial(8, mode=LIVENESS)  # everybody who can lives to the end
WITH_A_SERVICE = Trial(8, episode=0)


def last_read(program: Any) -> int:
    """What a guest's last load of its program found first: eight bytes."""
    found = [done["hex"] for done in program.results if "hex" in done]
    return int.from_bytes(bytes.fromhex(found[-1])[:8], "big") if found else 0


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


def a_level_raises(patch: Patch, arch: str, every: int = 300) -> None:
    def then(number: int) -> None:
        assert number % every, "an invariant of the emulation"

    served(patch, arch, then)


def a_link_is_closed_for_nothing(patch: Patch, arch: str) -> None:
    def then(number: int) -> None:
        if number % 400 == 0:
            raise RemoteProtocolError("shape", "nothing is wrong with it")

    served(patch, arch, then)


def a_level_says_that_a_living_host_is_gone(patch: Patch, arch: str) -> None:
    def then(number: int) -> None:
        if number % 400 == 0:
            raise OwnerGone("and it is not")

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


def acts_of(arch: str) -> dict[type, Callable[..., Any]]:
    """How the architecture's host does each operation."""
    where = f"protocol.arch.{arch}.host" + ("" if arch == "pef" else ".perform")
    table: Any = importlib.import_module(where)
    acts: dict[type, Callable[..., Any]] = table.ACTS if hasattr(table, "ACTS") else table._ACTS
    return acts


def a_host_forgets_a_guest_that_it_should_end(patch: Patch, arch: str) -> None:
    """It says that the guest is destroyed, and asks nothing of its level."""

    def forget(host: Any, operation: Any) -> Any:
        del host.guests[operation.guest]
        yield from ()

    patch.setitem(acts_of(arch), op.Destroy, forget)


def a_guest_that_should_end_runs_on(patch: Patch, arch: str) -> None:
    """Its host enters it for ever."""
    acts = acts_of(arch)

    def run(host: Any, operation: Any) -> Any:
        while True:
            yield from acts[op.Exits](host, op.Exits(operation.guest, 0, "wait", "kernel", 1))

    patch.setitem(acts, op.Destroy, run)


def a_teardown_raises(patch: Patch, arch: str) -> None:
    teardown: Any = importlib.import_module(f"protocol.arch.{arch}.nesting.teardown")

    def everything(*_: Any, **__: Any) -> Any:
        yield from ()
        raise AssertionError("an invariant of the emulation")

    patch.setattr(teardown, "everything", everything)


def a_machine_of_its_own_raises(patch: Patch, arch: str) -> None:
    """What L0's own software asks of its Trusted Entity is answered with an exception, now and then."""
    comparison: Any = type(load(arch).comparison)
    real = comparison.software

    def software(self: Any, rig: Any, *arguments: Any, **named: Any) -> Any:
        host = real(self, rig, *arguments, **named)
        if not rig.depth:
            patch.setattr(host, "perform", raises)
        return host

    def raises(operation: Any) -> Any:
        yield from ()
        raise AssertionError("an invariant of the host")

    patch.setattr(comparison, "software", software)


EVERYWHERE: tuple[tuple[str, Callable[..., None], Trial | Beside], ...] = (
    ("episode._raised", a_level_raises, GOOD),
    ("episode._closed", a_link_is_closed_for_nothing, GOOD),
    ("episode.hop", a_level_says_that_a_living_host_is_gone, GOOD),
    ("checks.books", the_end_of_a_host_is_not_noticed, GOOD),
    ("checks.nothing_left/2", a_frame_is_lost_at_the_end, LAST),
    ("checks.frames", a_frame_is_given_twice, GOOD),
    ("hosted.end/2", a_host_forgets_a_guest_that_it_should_end, WITH_A_SERVICE),
    ("episode._live_out/1", a_guest_that_should_end_runs_on, IN_THE_END),
    ("isolation._worst", a_teardown_raises, Beside()),
    ("episode.one", a_machine_of_its_own_raises, WITH_A_SERVICE),
    ("isolation._victim", a_level_raises, Beside()),
)


def everywhere(arch: str) -> tuple[Mutation, ...]:
    """All of them, on one architecture."""
    return tuple(
        Mutation(checker, update_wrapper(partial(mistake, arch=arch), mistake), trial)
        for checker, mistake, trial in EVERYWHERE
    )
