"""Each checker of a soak finds what it looks for, put there by hand into an island that holds."""

from __future__ import annotations

from random import Random

import pytest

from protocol.arch import architectures, load
from protocol.effects import Step
from protocol.memory.store import PAGE
from protocol.soak import checks
from protocol.soak.island import Island
from protocol.soak.living import TAG
from protocol.soak.options import Tally, Violation


class First(Random):
    """Whoever looks at some frames looks at the first one."""

    def randrange(self, *_: int) -> int:  # type: ignore[override]
        return 0


@pytest.fixture(params=architectures())
def island(request: pytest.FixtureRequest) -> Island:
    """Two guest hosts that have not begun."""
    one = Island("l0", load(request.param), 1, 2, "seed", 0, Tally())
    one.known = checks.frames_known([one.level(host) for host in one.hosts])
    checks.island(one)
    checks.nothing_left(one)
    return one


def test_a_secret_in_memory_that_hosts_can_reach_is_found(island: Island) -> None:
    island.level(island.hosts[1]).write(5 * PAGE + 8, TAG)
    with pytest.raises(Violation, match="secrecy: l0: a guest's secret lies in 1 open frames: 0x"):
        checks.memory(island)
    with pytest.raises(Violation, match="lies in 1 open frames"):
        checks.nothing_left(island)


def test_a_secret_that_a_host_can_load_is_found(island: Island) -> None:
    island.random = First()
    checks.reach(island)
    island.level(island.hosts[1]).write(8, TAG)
    with pytest.raises(Violation, match=r"secrecy: l0\.1 reads a guest's secret in frame 0x"):
        checks.reach(island)


def test_a_frame_in_two_places_is_found(island: Island) -> None:
    level = island.level(island.hosts[0])
    (place,) = (level.slots >= 0).nonzero()[0][:1]
    level.below.pool.give([int(level.slots[place])])
    with pytest.raises(Violation, match=r"frames: l0, .* at depth 1: 1 frames twice"):
        checks.frames(island)
    with pytest.raises(Violation, match=r"frames: l0, .* 1 frames more than there were"):
        checks.nothing_left(island)


def test_a_frame_that_is_lost_is_found(island: Island) -> None:
    island.level(island.hosts[0]).below.pool.take()
    checks.frames(island)
    with pytest.raises(Violation, match=r"frames: l0, .* 1 frames are lost"):
        checks.nothing_left(island)


def test_a_host_that_is_gone_and_was_not_torn_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from protocol.arch.pef.nesting import teardown

    def nothing(*_: object) -> Step[None]:
        yield from ()

    one = Island("l0", load("pef"), 1, 1, "seed", 0, Tally())
    host = one.hosts[0]
    assert host.thread is not None
    assert host.life is not None
    while not host.life.guests:
        host.thread.hop()
    monkeypatch.setattr(teardown, "everything", nothing)
    one.end(host, "reset")
    while stirring := one.stirring():
        stirring[0][1].hop()
        one.go_on(host)
    with pytest.raises(Violation, match="books: l0, pef at depth 1: "):
        checks.island(one)


def test_what_the_trusted_entity_still_holds_for_somebody_is_found(island: Island) -> None:
    host = island.hosts[0]
    assert host.thread is not None
    while not any(island.rig.remains().values()):
        host.thread.hop()
    with pytest.raises(Violation, match=r"nothing_left: l0, .* at depth 1: \{'"):
        checks.nothing_left(island)


def test_books_are_not_compared_while_something_is_under_way(island: Island) -> None:
    host = island.hosts[0]
    assert host.thread is not None
    while len(host.thread.stack) < 2:
        host.thread.hop()
    with pytest.raises(AssertionError, match="compared at rest"):
        checks.island(island)
