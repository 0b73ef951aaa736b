"""The five events, at depth 1 to 3, inline and with every message of every level held and released."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import five_events as events
import pytest
from five_events import Scene
from nested_host import NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.profiles import PROFILES
from protocol.crossing import Crossing, inline
from protocol.effects import Park, Step, run
from protocol.errors import OwnerGone

DEPTHS = (1, 2, pytest.param(3, marks=pytest.mark.slow))
Drive = Callable[[Rig, Step[object]], object]


def all_here(rig: Rig, step: Step[object]) -> object:
    return run(step)


def parked(rig: Rig, step: Step[object]) -> object:
    """Levels live apart: the step is parked at every message, on its way down and up."""
    return inline(step, rig.below(0))


@pytest.fixture(scope="module", params=DEPTHS, ids=lambda depth: f"depth{depth}")
def depth(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture(scope="module", params=[all_here, parked])
def drive(request: pytest.FixtureRequest) -> Drive:
    way: Drive = request.param
    return way


@pytest.fixture(scope="module")
def scene(depth: int, drive: Drive) -> Scene:
    """One guest for all events: none of them is in the way of another."""
    rig = compose(PROFILES["small"], depth, apart=drive is parked, seed=5)
    made = drive(rig, events.scene(NestedHost(rig)))
    assert isinstance(made, Scene)
    check(rig)
    return made


@pytest.mark.parametrize("event", [events.convert_to_secure, events.first_touch, events.sie_exit])
def test_what_a_host_does_reaches_the_real_ultravisor(
    scene: Scene, drive: Drive, event: Callable[[Scene], Step[object]]
) -> None:
    drive(scene.rig, event(scene))
    check(scene.rig)


def test_a_frame_that_is_swapped_below_is_invisible_above(scene: Scene, drive: Drive) -> None:
    for level in range(scene.rig.depth):
        below = scene.rig.below(0)[-1 - level :]
        step = events.swap_below(scene, level)
        run(step) if drive is all_here else inline(step, below)
        check(scene.rig)
        drive(scene.rig, events.after_the_swap(scene))
        check(scene.rig)


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_l1_that_dies_while_a_call_stands_still_leaves_nothing(depth: int) -> None:
    """All in one process: the call stops with its locks taken, and nothing was issued below."""
    rig = compose(PROFILES["small"], depth, seed=5)
    host = NestedHost(rig)
    run(events.scene(host))
    host.write(host.issuers[1].scratch, events.block_that_is_not_finished(host))
    call = host.level.call(host.cpus[1], host.issuers[1].scratch, park=True)
    assert next(call) == Park()
    assert len(host.level.locks) == 1
    with pytest.raises(OwnerGone):
        call.throw(OwnerGone("the host died"))
    assert len(host.level.locks) == 0
    run(l1_of(rig).death())
    events.nothing_of_l1_is_left(rig)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("depth", DEPTHS)
def test_an_l1_that_dies_in_the_middle_of_a_call_leaves_nothing(depth: int, seed: int) -> None:
    """At any message: nothing was issued, something is under way below, or all is done but the answer."""
    rig = compose(PROFILES["small"], depth, apart=True, seed=seed)
    host = NestedHost(rig)
    inline(events.scene(host), rig.below(0))
    crossing = Crossing(Random(seed))
    call = crossing.start("create", events.call_that_is_not_finished(host), rig.below(0))
    hops = Random(seed).randrange(12 * depth)
    crossing.run(lambda: crossing.hops >= hops)
    crossing.kill([call], place=depth)
    crossing.finish([call])
    assert call.done and (call.error is None or isinstance(call.error, OwnerGone))
    inline(l1_of(rig).death(), rig.below(0)[-1:])
    events.nothing_of_l1_is_left(rig)


def l1_of(rig: Rig) -> Nested:
    """L0's emulation for L1, whatever runs there."""
    level = rig.levels[1] if rig.depth > 1 else rig.seats[0].level
    assert isinstance(level, Nested)
    return level
