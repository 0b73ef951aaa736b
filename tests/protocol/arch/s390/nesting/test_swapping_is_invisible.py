"""Levels that swap under their guest hosts at any moment: no host gets another answer than on the machine.

The same careless host runs on the machine itself and as a guest host, where frames of its memory move between
its actions, pages of its guests among them. Every return code, exit, exception and result of a guest's step
has to be the same. Contents of exported pages are not compared: they are ciphertext of another generation.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nested_actions import Careless
from nested_host import Guest, NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import GuestStep
from protocol.arch.s390.nesting import Nested, memory
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import SIE_SDF, Outcome, SieExit
from protocol.effects import Fault, Step, run

ACTIONS = 50


class Recorder(NestedHost):
    """A host that writes down what it is answered."""

    said: list[object]

    def restart(self) -> None:
        super().restart()
        self.said = []

    def uvc(self, made: bytes | bytearray, cpu: int = 0, out: int = 8) -> Step[Outcome]:
        outcome = yield from super().uvc(made, cpu, out)
        self.said.append((bytes(made[2:4]).hex(), outcome.rc, outcome.rrc, outcome.out))
        return outcome

    def enter(
        self, guest: Guest, *steps: GuestStep, cpu: int = 0, vcpu: int = 0, stay: bool = False
    ) -> Step[SieExit | Fault]:
        left = yield from super().enter(guest, *steps, cpu=cpu, vcpu=vcpu, stay=stay)
        results: list[object] = list(self.results(guest, vcpu))
        if self.level.peek(guest.vcpus[vcpu].block + SIE_SDF, 1) == b"\0":  # it may read exported pages
            results = [len(results)]
        self.said.append((left, results))
        return left

    def read(self, address: int, length: int) -> bytes | Fault:
        data = super().read(address, length)
        self.said.append(data if isinstance(data, Fault) else len(data))
        return data


def life(depth: int, seed: int, actions: int = ACTIONS) -> list[object]:
    """What a host of `seed` is answered at `depth`, with swapping below it where there is a below."""
    rig = compose(PROFILES["small"], depth, cpus=2, seed=3)
    host = Recorder(rig, seed=seed)
    run(host.init())
    random, swaps = Random(seed), Random(seed + 1)
    for _ in range(actions):
        run(Careless(host, random.randrange(2), random).act(1))
        for level in (*rig.levels, rig.seats[0].level):
            if isinstance(level, Nested):
                _swap_some(level, swaps)
    if depth:
        check(rig)
    return host.said


def _swap_some(level: Nested, random: Random) -> None:
    pages = level.page_owner.nonzero()[0].tolist()
    marked = level.attention.nonzero()[0].tolist()
    for choice in (pages, pages, marked):
        if choice and random.random() < 0.5:
            run(memory.swap(level, random.choice(choice)))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 30))
def test_a_host_under_which_everything_moves_cannot_tell(depth: int, seed: int) -> None:
    assert life(depth, seed) == life(0, seed)


def test_a_host_under_which_something_moves_cannot_tell() -> None:
    assert life(1, 4, actions=20) == life(0, 4, actions=20)
