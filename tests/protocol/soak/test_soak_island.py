"""The lives of a host on an island: how one ends, and what comes after it."""

from __future__ import annotations

import pytest

from protocol.arch import load
from protocol.effects import Step
from protocol.soak.island import MIB, SPARED, Host, Island
from protocol.soak.living import Life
from protocol.soak.options import Tally


def island(arch: str = "pef", hosts: int = 1) -> Island:
    return Island("l0", load(arch), 1, hosts, "seed", 0, Tally())


def under_way(one: Island) -> Host:
    """Its host, with a request that the level below serves."""
    host = one.hosts[0]
    assert host.thread is not None
    while len(host.thread.stack) < 2:
        host.thread.hop()
    return host


def rest(one: Island) -> None:
    while stirring := one.stirring():
        host, thread = stirring[0]
        thread.hop()
        one.go_on(host)


@pytest.mark.parametrize(("how", "again"), [("reset", True), ("kill", True), ("end", False)])
def test_a_life_ends_and_another_one_begins_unless_it_was_the_last(how: str, again: bool) -> None:
    one = island()
    host = under_way(one)
    life = host.life
    one.end(host, how)
    assert host.ending == how
    rest(one)
    assert host.over is not again
    assert host.lives == 1 + again
    assert (host.life is not None) is again
    assert host.life is not life


def test_what_serves_a_host_that_dies_ends_before_its_teardown_begins() -> None:
    one = island()
    host = under_way(one)
    one.end(host, "kill")
    one.go_on(host)
    assert host.teardown is None
    assert not one.quiet()
    rest(one)
    assert one.quiet()


def test_a_host_dies_once() -> None:
    one = island()
    host = under_way(one)
    one.end(host, "reset")
    one.end(host, "kill")
    assert host.ending == "reset"
    while host.teardown is None:
        one.stirring()[0][1].hop()
        one.go_on(host)
    one.end(host, "kill")
    assert not host.ending, "it is being torn down"
    rest(one)
    one.end(host, "end")
    one.go_on(host)
    rest(one)
    assert host.over
    one.end(host, "reset")
    one.go_on(host)
    assert host.over
    assert not host.ending


@pytest.mark.parametrize("outcome", ["refused", "worn out"])
def test_a_host_that_gets_nowhere_is_rebooted_or_dies(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def live(_: Life) -> Step[str]:
        yield from ()
        return outcome

    monkeypatch.setattr(Life, "live", live)
    one = island()
    host = one.hosts[0]
    assert host.thread is not None
    host.thread.hop()
    one.go_on(host)
    assert host.ending in ("reset", "kill")
    one.go_on(host)
    rest(one)
    assert host.lives == 2


def test_what_a_teardown_left_over_is_swept() -> None:
    one = island()
    host = one.hosts[0]
    host.swept = False
    one.sweep(host, 64)
    assert not one.quiet()
    rest(one)
    assert host.swept
    assert host.lives == 1, "and nothing else came of it"


def test_an_architecture_whose_levels_swap_nothing_says_so() -> None:
    one = island()
    assert not one.swap(one.hosts[0], 3)
    assert not one.hosts[0].others
    one = island("s390")
    assert one.swap(one.hosts[0], 3)
    assert [thread.name for thread in one.hosts[0].others] == ["l0.0:swap"]


def test_a_starved_hypervisor_has_hardly_a_frame_until_it_is_fed() -> None:
    one = island()
    below = one.level(one.hosts[0]).below
    free = below.pool.free
    one.starve(one.hosts[0], until=10)
    assert one.starved
    assert below.pool.free - getattr(below, "promised", 0) == SPARED
    one.starve(one.hosts[0], until=20)
    assert len(one.starving) == 1, "once is enough"
    one.feed(9)
    assert below.pool.free < free
    one.feed(10)
    assert below.pool.free == free
    assert not one.starving
    assert one.starved, "a host may have been refused for it"


def test_a_hypervisor_that_owes_all_it_has_cannot_be_starved() -> None:
    one = island()
    pool = one.level(one.hosts[0]).below.pool
    pool.take_many(max(0, pool.free - 1))
    one.starve(one.hosts[0], until=10)
    assert not one.starved
    assert not one.starving


def test_hosts_have_memory_enough_to_come_up() -> None:
    for arch in ("pef", "s390", "sev", "tdx"):
        one = island(arch, hosts=2)
        assert all(one.level(host).size >= 128 * MIB for host in one.hosts)
