"""Hosts that do anything, deaths, reboots and swapping at any point: the invariants hold after every step."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nested_actions import Careless
from nested_host import NestedHost
from nested_invariants import check, nothing_is_left

from protocol.arch.s390.compose import RESETS, Rig, compose
from protocol.arch.s390.nesting import Nested, Strategy, memory
from protocol.arch.s390.nesting.teardown import some_leftovers
from protocol.arch.s390.profiles import PROFILES
from protocol.effects import run

STRATEGIES = st.builds(
    Strategy,
    handles=st.sampled_from(("passed", "mapped")),
    donation=st.sampled_from(("full", "full", "bounded", "off")),
    teardown=st.sampled_from(("sync", "async")),
    pages=st.sampled_from(("two_fault", "two_fault", "merged_l0", "prefault")),
)


class World:
    """Two siblings, and what happens to them."""

    def __init__(self, depth: int, seed: int, strategy: Strategy, profile: str) -> None:
        self.random = Random(seed)
        self.rig: Rig = compose(PROFILES[profile], depth, 2, cpus=2, seed=seed, strategy=strategy)
        self.hosts = [NestedHost(self.rig, seat, seed) for seat in range(2)]

    def step(self) -> None:
        """One thing of many."""
        what = self.random.random()
        seat = self.random.randrange(2)
        host = self.hosts[seat]
        if what < 0.8:
            if not host.seat.level.ready:
                run(host.init())
            run(Careless(host, self.random.randrange(2), self.random).act(3))
        elif what < 0.95:
            self.swap()
        elif what < 0.98:
            run(self.rig.reset(seat, self.random.choice(RESETS)))
            host.restart()
        elif what < 0.99:
            run(self.rig.kill(seat))
            host.restart()
        else:
            level = self.rig.seats[seat].level
            assert isinstance(level, Nested)
            run(some_leftovers(level, 3))

    def swap(self) -> None:
        """Some level puts other frames under frames of its guest host, those that matter before all."""
        levels = [level for level in self.rig.levels if isinstance(level, Nested)]
        levels += [seat.level for seat in self.rig.seats if isinstance(seat.level, Nested)]
        level = self.random.choice(levels)
        marked = level.attention.nonzero()[0].tolist()
        for _ in range(5):
            frame = self.random.choice(marked) if marked else self.random.randrange(level.attention.size)
            run(memory.swap(level, frame))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 30), strategy=STRATEGIES, profile=st.sampled_from(("small", "partial")))
def test_invariants_hold_whatever_hosts_do(depth: int, seed: int, strategy: Strategy, profile: str) -> None:
    live(depth, seed, strategy, 40, profile)


@pytest.mark.parametrize("teardown", ["sync", "async"])
def test_invariants_hold_for_a_while(teardown: str) -> None:
    live(1, 11, Strategy(teardown=teardown), 8, "small")


def live(depth: int, seed: int, strategy: Strategy, steps: int, profile: str) -> None:
    """Hosts do something, and die."""
    world = World(depth, seed, strategy, profile)
    for _ in range(steps):
        world.step()
        check(world.rig)
    for seat in range(2):
        run(world.rig.kill(seat))
        check(world.rig)
    nothing_is_left(world.rig)
