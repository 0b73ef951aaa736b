"""One deployment of a soak: what goes on next, what a failure of whom means, and how all of it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocol.arch import load
from protocol.crossing import Thread
from protocol.effects import Issue, Step
from protocol.errors import OperationFailed, RemoteProtocolError
from protocol.soak import Options, episode
from protocol.soak.episode import Episode
from protocol.soak.fleet import Fleet
from protocol.soak.island import Host, Island
from protocol.soak.living import Life
from protocol.soak.options import LIVENESS, Tally, Violation

Patch = pytest.MonkeyPatch
NEVER = 1 << 40


def deployment(arch: str = "pef", number: int = 1, mode: str = "safety") -> Episode:
    """With a fleet beside it where `number` is odd, with a hosting service where it is even."""
    return Episode(Options(seed=1, arch=arch, mode=mode), number, Tally(), {arch: load(arch)})


def silent(one: Episode) -> None:
    """What stands beside the islands does nothing."""
    assert isinstance(one.beside, Fleet)
    for process in one.beside.instances:
        process.next_ms = NEVER
    for tenant in one.beside.tenants:
        tenant.next_ms = NEVER


def somebody(one: Episode, hostile: bool = False) -> tuple[Island, Host]:
    island = one.islands[0]
    host = island.hosts[0]
    host.hostile = hostile
    return island, host


def works(host: Host, step: Step[Any], serves: Callable[[Issue], Step[Any]]) -> Thread:
    """The host's software is `step` from now on, and the level below it `serves`."""
    host.thread = Thread(host.name, step, (serves,))
    return host.thread


def asks() -> Step[None]:
    while True:
        yield Issue("call", ())


def on_and_on(one: Episode, island: Island, host: Host, thread: Thread) -> None:
    while True:
        one.hop(island, host, thread)


def serves(_: Issue) -> Step[int]:
    yield from ()
    return 0


def raises(error: Exception) -> Callable[..., Step[Any]]:
    def step(*_: object) -> Step[Any]:
        yield from ()
        raise error

    return step


# -- what goes on next ------------------------------------


def test_where_nobody_may_go_on_time_does() -> None:
    one = deployment()
    silent(one)
    for island in one.islands:
        for host in island.hosts:
            host.held_until = 19
    began = one.beside.now_ms
    trace = one.tally.trace
    for step in range(1, 21):
        one.one(faults=False)
        assert one.step == one.tally.steps == step
    assert one.beside.now_ms > began
    assert one.tally.trace == trace, "no message went"
    one.one(faults=False)
    assert one.tally.trace != trace, "they are held no longer"


@pytest.mark.parametrize(("number", "check"), [(0, "hosting"), (1, "fleet")])
def test_what_fails_beside_the_islands_is_a_violation_of_its_own(number: int, check: str) -> None:
    one = deployment(number=number)
    one.islands = []

    def fails(error: Exception) -> None:
        def act() -> None:
            raise error

        one.beside.ready = lambda: [("act", act)]  # type: ignore[method-assign]

    fails(KeyError("lost"))
    with pytest.raises(Violation, match=f"^{check}: KeyError: 'lost'"):
        one.one(faults=False)
    fails(Violation("history", "seen twice"))
    with pytest.raises(Violation, match=r"^history: seen twice"):
        one.one(faults=False)


# -- who may fail -----------------------------------------


def test_whoever_breaks_the_protocol_loses_its_link_and_that_is_its_death() -> None:
    one = deployment()
    island, host = somebody(one, hostile=True)
    thread = works(host, asks(), raises(RemoteProtocolError("shape", "no call")))
    one.hop(island, host, thread)
    one.hop(island, host, thread)
    assert thread.done
    assert one.tally.done["link_closed_shape"] == 1
    assert host.teardown is not None
    assert host.teardown.name.endswith(":kill")


def test_a_link_that_is_closed_for_a_host_that_did_nothing_wrong_is_a_violation() -> None:
    one = deployment()
    island, host = somebody(one)
    thread = works(host, asks(), raises(RemoteProtocolError("shape", "no call")))
    one.hop(island, host, thread)
    with pytest.raises(Violation, match=r"protocol: .* which is no hostile host"):
        one.hop(island, host, thread)


@pytest.mark.parametrize("error", [KeyError("lost"), OperationFailed("no", 1)])
def test_software_of_a_hostile_host_may_fail_in_any_way_and_then_the_host_dies(error: Exception) -> None:
    one = deployment()
    island, host = somebody(one, hostile=True)
    thread = works(host, raises(error)(), serves)
    one.hop(island, host, thread)
    assert thread.done
    assert one.tally.done["hostile_software_failed"] == 1
    assert host.teardown is not None
    assert host.teardown.name.partition(":")[2] in ("reset", "kill")


def unreadable(_: Issue) -> Step[Any]:
    """A level that fails as it takes a message apart, before it has begun to serve it."""
    raise KeyError("lost")


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("level", [raises(KeyError("lost")), unreadable], ids=["serving", "reading"])
def test_a_level_may_fail_for_nobody(level: Callable[[Issue], Step[Any]], hostile: bool) -> None:
    one = deployment()
    island, host = somebody(one, hostile)
    thread = works(host, asks(), level)
    said = rf"level: {host.name}, pef at depth {island.depth}: KeyError: 'lost' in \w+, line \d+ of "
    with pytest.raises(Violation, match=said):
        on_and_on(one, island, host, thread)


def test_a_level_may_not_even_fail_where_a_hostile_host_stores_into_its_memory() -> None:
    one = deployment()
    island, host = somebody(one, hostile=True)

    def stores() -> Step[None]:
        yield from ()
        island.level(host).write("here", b"")

    with pytest.raises(Violation, match=r"TypeError: .* of protocol/nesting/guest_host\.py"):
        one.hop(island, host, works(host, stores(), serves))


def test_software_of_any_other_host_may_not_fail() -> None:
    one = deployment()
    island, host = somebody(one)
    with pytest.raises(Violation, match=f"level: {host.name}, .* KeyError"):
        one.hop(island, host, works(host, raises(KeyError("lost"))(), serves))


def test_what_does_not_hold_is_told_as_it_was_found() -> None:
    one = deployment()
    island, host = somebody(one, hostile=True)
    with pytest.raises(Violation, match=r"^history: seen twice"):
        one.hop(island, host, works(host, raises(Violation("history", "seen twice"))(), serves))


# -- faults -----------------------------------------------


@pytest.fixture
def faulty(monkeypatch: Patch) -> Callable[[str], None]:
    """From now on every step begins with a fault of this kind, and no other."""

    def only(kind: str) -> None:
        monkeypatch.setattr(episode, "FAULT", 1.0)
        monkeypatch.setattr(episode, "OF_BESIDE", 0.0)
        monkeypatch.setattr(episode, "WEIGHTS", {kind: 1})

    return only


@pytest.mark.parametrize(
    ("kind", "arch", "met"),
    [("swap", "s390", True), ("swap", "pef", False), ("interrupt", "tdx", True), ("interrupt", "pef", False)],
)
def test_what_an_architecture_cannot_have_is_not_counted(
    faulty: Callable[[str], None], kind: str, arch: str, met: bool
) -> None:
    one = deployment(arch)
    faulty(kind)
    one.one(faults=True)
    assert one.tally.faults[kind] == met
    if kind == "interrupt":
        seats = [seat for island in one.islands for seat in island.rig.seats]
        assert met == any(getattr(cpu, "interrupt", False) for seat in seats for cpu in seat.cpus)
    else:
        assert met == any(host.others for island in one.islands for host in island.hosts)


@pytest.mark.parametrize("kind", ["reset", "kill", "hold", "starve"])
def test_a_host_meets_what_was_drawn(faulty: Callable[[str], None], kind: str) -> None:
    one = deployment()
    silent(one)
    faulty(kind)
    one.one(faults=True)
    assert one.tally.faults[kind] == 1
    hosts = [host for island in one.islands for host in island.hosts]
    if kind == "hold":
        assert sum(host.held_until >= one.step for host in hosts) == 1
    elif kind == "starve":
        assert sum(len(island.starving) for island in one.islands) == 1
    else:
        dying = [host for host in hosts if host.ending or host.teardown is not None]
        assert [host.ending or host.teardown.name.partition(":")[2] for host in dying] == [kind]  # type: ignore[union-attr]


def test_a_host_that_is_ending_meets_nothing_more(faulty: Callable[[str], None]) -> None:
    one = deployment()
    silent(one)
    faulty("kill")
    for island in one.islands:
        for host in island.hosts:
            host.ending, host.held_until = "reset", NEVER
    one.one(faults=True)
    assert not one.tally.faults["kill"]


# -- rest and end -----------------------------------------


def test_what_does_not_come_to_rest_is_a_violation(monkeypatch: Patch) -> None:
    one = deployment()
    island, host = somebody(one)

    def endless(_: Issue) -> Step[Any]:
        yield from asks()

    host.thread = Thread(host.name, asks(), (endless, serves))
    one.hop(island, host, host.thread)
    monkeypatch.setattr(episode, "RESTLESS", 50)
    with pytest.raises(Violation, match=f"liveness: {host.name} has not ended in 50 steps"):
        one.look()


def test_what_is_left_over_of_a_life_is_swept_when_everything_is_looked_at() -> None:
    one = deployment()
    hosts = [host for island in one.islands for host in island.hosts]
    hosts[0].swept = False
    one.look()
    assert all(host.swept for host in hosts)


def test_a_host_that_is_told_to_stop_and_does_not_is_a_violation(monkeypatch: Patch) -> None:
    one = deployment(mode=LIVENESS)
    monkeypatch.setattr(episode, "RESTLESS", 50)
    _, host = somebody(one)
    works(host, asks(), serves)
    with pytest.raises(Violation, match=f"liveness: {host.name} has not ended in 50 steps"):
        one.finish()


def test_a_host_that_stops_half_way_has_not_lived_to_its_end(monkeypatch: Patch) -> None:
    def live(self: Life) -> Step[str]:
        yield from ()
        return "worn out"

    monkeypatch.setattr(Life, "live", live)
    one = deployment(mode=LIVENESS)
    with pytest.raises(Violation, match="has not lived to its end"):
        one.finish()


def test_hosts_that_do_not_end_when_they_are_told_to_are_a_violation(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Island, "end", lambda *_: None)
    with pytest.raises(Violation, match="liveness: l0-0: its hosts do not end"):
        deployment().finish()


@pytest.mark.parametrize("number", [0, 1])
def test_in_liveness_all_that_was_begun_comes_to_its_end(number: int) -> None:
    one = deployment(number=number, mode=LIVENESS)
    one.run(600)
    hosts = [host for island in one.islands for host in island.hosts]
    assert all(host.over for host in hosts)
    behaved = sum(not host.hostile for host in hosts)
    assert one.tally.checks["liveness"] == behaved + 1, "the hosts, and what stands beside them"
