"""Hosts that type anything: seeded scripts of right and wrong requests, the same answers at every depth.

A script decides by its seed and by the answers that it got. Nothing is asserted on the way but the form of an
answer; what is held at the end: every answer equal, no leak, nothing left after the host is killed.
"""

from __future__ import annotations

import pytest
from differences import without_differences
from driver import Json, Keyboard, in_process
from s390_field import AddressSpace, Host
from s390_guest import boot_guest
from s390_typist import Typist

ACTIONS_PER_SCRIPT = 100


def script(seed: int, depth: int, dumps: bool = False) -> list[tuple[Json, Json]]:
    """Type the script of `seed` at `depth`, hold its end to be clean, and return what was said."""
    keyboard = Keyboard(in_process("s390", depth, seed=seed), depth)
    host = Host(keyboard)
    typist = Typist(host, seed)
    if dumps:
        typist.think_of_dumps()
    typist.type(ACTIONS_PER_SCRIPT)
    host.ok("counts")
    audit = host.audit()
    assert audit["leaks"] == []
    host.ok("kill")
    host.forget()
    books = host.books()
    assert not any(books["te"].values()), books
    assert (books["donated_pages"], books["secure_pages"]) == (0, 0)
    host.init()
    AddressSpace(host)
    boot_guest(host)
    return keyboard.transcript


def same(seed: int, dumps: bool = False) -> None:
    real = script(seed, 0, dumps)
    for depth in (1, 2):
        nested = script(seed, depth, dumps)
        for number, ((request, want), (asked, got)) in enumerate(zip(real, nested, strict=True)):
            assert asked == request, f"seed {seed}, request {number}"
            assert without_differences(asked, got) == without_differences(request, want), (
                f"seed {seed}, request {number} at depth {depth}: {request}"
            )


@pytest.mark.parametrize("seed", range(4))
def test_a_random_script_gets_the_same_answers_at_every_depth(seed: int) -> None:
    same(seed)


@pytest.mark.slow
@pytest.mark.parametrize("tens", range(20))
def test_many_random_scripts_get_the_same_answers_at_every_depth(tens: int) -> None:
    for seed in range(10 * tens + 4, 10 * tens + 14):
        same(seed)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))]
)
def test_a_cpu_that_is_inside_when_a_dump_begins_gets_the_same_answers_at_every_depth(seed: int) -> None:
    """Nobody can enter such a guest anew, so no level may have an exit of its own to put right."""
    same(1000 + seed, dumps=True)
