"""Asynchronous teardown: a host is up again and starts guests while the pages of its old ones still go.

What both lives hold at once is counted. And whoever dies meanwhile, at any message of any phase, leaves
nothing: each phase is named, its messages are found by a run without a death, and one of them is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import five_events as events
import pytest
from nested_host import NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.guest import Touch
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested, Strategy
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import EXECUTED
from protocol.crossing import Crossing, Thread, inline
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT

FIRST, FEW, MANY = 0x20, 8, 72  # pages that a guest uses, beside its image and its prefix
OF_A_GUEST = FEW + 3


def life(host: NestedHost, count: int = FEW) -> Step[None]:
    """A host comes up, and a guest of it runs and uses its pages."""
    yield from host.init()
    guest = yield from host.boot(vcpus=2)
    pages = range(FIRST, FIRST + count)
    for page in pages:
        host.map(guest, page)
        assert (yield from host.convert(guest, page)).rc == EXECUTED
    yield from host.enter(guest, *(Touch(page << PAGE_SHIFT, True, b"used") for page in pages))


def secure_pages(rig: Rig) -> int:
    state = rig.machines[0].state
    return int(((state != PageState.NORMAL) & (state != PageState.DONATED)).sum())


def rig_at(depth: int, seed: int = 0, teardown: str = "async") -> Rig:
    strategy = Strategy(teardown=teardown)
    return compose(PROFILES["small"], depth, strategy=strategy, apart=True, seed=seed)


def level_of(rig: Rig) -> Nested:
    level = rig.seats[0].level
    assert isinstance(level, Nested)
    return level


# -- both lives at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2])
def test_the_new_guest_runs_while_the_old_pages_are_still_there(depth: int) -> None:
    rig = rig_at(depth)
    host, below = NestedHost(rig), rig.below(0)
    inline(life(host), below)
    inline(level_of(rig).reset(False), below[1:])
    assert secure_pages(rig) == OF_A_GUEST, "none of them is gone"
    host.restart()
    inline(life(host), below)
    assert secure_pages(rig) == 2 * OF_A_GUEST, "and the new guest has its own"
    check(rig)
    peaks = {key[1]: n for key, n in rig.ledger.counts().items() if key[0] == "peaks"}
    replaced = rig.ledger.counts()["pages", "replaced"]
    assert peaks == {"old_and_new_pages": 2 * OF_A_GUEST, "pages_held_twice": replaced}
    assert replaced == len(level_of(rig).detached) > 0, "the host used its old pages' frames again"
    while inline(rig.sweep(0, 3), below[1:]):
        check(rig)
    assert secure_pages(rig) == OF_A_GUEST, "the new guest's"
    assert peaks == {key[1]: n for key, n in rig.ledger.counts().items() if key[0] == "peaks"}


@pytest.mark.parametrize("depth", [1, 2])
def test_a_host_that_waits_holds_nothing_twice(depth: int) -> None:
    rig = rig_at(depth, teardown="sync")
    host, below = NestedHost(rig), rig.below(0)
    inline(life(host), below)
    inline(level_of(rig).reset(False), below[1:])
    assert secure_pages(rig) == 0
    host.restart()
    inline(life(host), below)
    assert not [key for key in rig.ledger.counts() if key[0] == "peaks"]


def test_a_host_that_comes_back_twice_has_the_larger_peak() -> None:
    rig = rig_at(1)
    host, below = NestedHost(rig), rig.below(0)
    for _ in range(2):
        inline(life(host), below)
        inline(level_of(rig).reset(False), below[1:])
        host.restart()
    assert rig.ledger.counts()["peaks", "old_and_new_pages"] == 2 * OF_A_GUEST
    inline(life(host), below)
    assert rig.ledger.counts()["peaks", "old_and_new_pages"] == 3 * OF_A_GUEST


# -- a death in every phase --------------------------------------------------------------------------------

LIVES = (
    "the guest has run and the last old pages go",
    "the guest runs",
    "it loads the guest",
    "it makes a guest",
    "the host initialises its Ultravisor",
)  # of the new life, the last one first
PHASES = (
    "the CPUs of the guests end",
    "their configurations end",
    "pages that could not be replaced end",
    *reversed(LIVES),
    "a page that was replaced is destroyed",
)


class Scene:
    """A host whose first life is over and being torn down; then its second one.

    Old pages begin to go when `phase` is reached. In the phase about those that could not be replaced, the
    hypervisor has too few frames for it.
    """

    def __init__(self, depth: int, seed: int, phase: str) -> None:
        self.wanted = phase
        self.rig = rig_at(depth, seed)
        self.host = NestedHost(self.rig, seed=seed)
        self.below = self.rig.below(0)
        tight = phase == "pages that could not be replaced end"
        inline(life(self.host, MANY if tight else FEW), self.below)
        self.level = level_of(self.rig)
        self.pool = self.rig.chain[-1].pool
        self.held = self._hold_all_but(4) if tight else []
        self.crossing = Crossing(Random(seed))
        self.lives: list[Thread] = []
        self.sweeps: list[Thread] = []
        self.teardown = self.crossing.start("teardown", self.level.reset(False), self.below[1:])

    def _hold_all_but(self, free: int) -> list[int]:
        count = self.pool.free - self.rig.chain[-1].promised - free
        frames: list[int] = self.pool.take_many(count).tolist()
        return frames

    def hops(self) -> Iterator[bool]:
        """Let messages go one by one; before each, whether the phase is now."""
        while True:
            now = self.is_now(self.wanted)
            yield now
            if now and self.lives and not self.sweeps:
                self.sweeps.append(self.crossing.start("sweeps", self._sweeping(), self.below[1:]))
            if not self.crossing.threads:
                return
            self.crossing.hop()
            if self.teardown.done and not self.lives:
                self._again()

    def _again(self) -> None:
        self.pool.give(self.held)
        self.held = []
        self.host.restart()
        self.lives.append(self.crossing.start("life", life(self.host), self.below))

    def _sweeping(self) -> Step[None]:
        """Page by page: whoever runs the level has other work between two."""
        while (yield from self.rig.sweep(0, 1)):
            pass

    def is_now(self, phase: str) -> bool:
        level, guests = self.level, self.host.guests
        if phase in PHASES[:3]:
            ends = (bool(level.secure_cpus), bool(level.configs), True)
            return not self.teardown.done and ends.index(True) == PHASES.index(phase)
        if not self.lives or not (level.leftovers or level.detached):
            return False
        if phase == "a page that was replaced is destroyed":
            return bool(level.detached)
        made = bool(guests) and len(guests[0].vcpus) == 2
        loaded = made and len(guests[0].pages) > 3
        lives = (self.lives[0].done, loaded, made, level.ready, True)
        return lives.index(True) == LIVES.index(phase)


def stopped(depth: int, seed: int, phase: str) -> Scene:
    """A run that is stopped at a message of `phase`, which a run before it has found."""
    places = [number for number, now in enumerate(Scene(depth, seed, phase).hops()) if now]
    at = Random(f"{phase}:{seed}").choice(places)
    scene = Scene(depth, seed, phase)
    for number, now in enumerate(scene.hops()):
        if number == at:
            assert now, "the same seed gives the same run"
            return scene
    raise AssertionError(f"no message {at}")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(2))
def test_a_host_that_dies_in_any_phase_leaves_nothing(phase: str, seed: int) -> None:
    host_dies(stopped(1, seed, phase))


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(3))
def test_so_does_one_in_a_vm_of_a_vm(phase: str, seed: int) -> None:
    host_dies(stopped(2, seed, phase))


def host_dies(scene: Scene) -> None:
    """Its own steps end at once; what serves it, and the level's work for it, when the answers are there."""
    crossing, rig = scene.crossing, scene.rig
    threads = list(crossing.threads)
    crossing.kill([thread for thread in threads if thread in scene.lives], place=1)
    crossing.kill([thread for thread in threads if thread not in scene.lives], place=0)
    crossing.finish(threads)
    scene.pool.give(scene.held)
    inline(scene.level.death(), scene.below[1:])
    assert secure_pages(rig) == 0
    assert not rig.machines[0].configs and not rig.machines[0].secure_cpus
    rig.seat_anew(0)
    check(rig)
    assert rig.chain[-1].promised == 0
    scene.host.restart()
    inline(life(scene.host), rig.below(0))  # another host takes its place, and lives
    check(rig)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_vm_below_may_die_in_any_phase_of_its_guest_hosts_teardown(phase: str, seed: int) -> None:
    """L1 dies with its own teardown of L2 under way: L0 reclaims both, with no help of either."""
    scene = stopped(2, seed, phase)
    crossing = scene.crossing
    threads = list(crossing.threads)
    crossing.kill([thread for thread in threads if thread in scene.lives], place=2)
    crossing.kill([thread for thread in threads if thread not in scene.lives], place=1)
    crossing.finish(threads)
    l1 = scene.rig.levels[1]
    assert isinstance(l1, Nested)
    inline(l1.death(), scene.below[-1:])
    events.nothing_of_l1_is_left(scene.rig)
