"""A fleet in a soak: what each fault does to a process, and each checker on a mistake put there by hand."""

from __future__ import annotations

from random import Random

import pytest

from protocol.errors import NotDelivered, OutcomeUnknown
from protocol.fleet.lease import Claim
from protocol.fleet.placing import Answer
from protocol.soak import fleet as module
from protocol.soak.fleet import MACHINE_NAMES, SERVER, Fleet
from protocol.soak.fleet_instance import FULL, Instance
from protocol.soak.fleet_tenant import Number, Tenant
from protocol.soak.keyvalue import KEPT_MS
from protocol.soak.options import Tally, Violation

Patch = pytest.MonkeyPatch
LONG = 1e6  # seconds


def fleet(*allowed: str) -> Fleet:
    return Fleet("seed", frozenset(allowed), Tally())


def go_on(one: Fleet, steps: int = 1) -> None:
    for _ in range(steps):
        acts = one.ready()
        if acts:
            one.random.choice(acts)[1]()
        one.pass_time(one.random.randrange(one.pace_ms))


def settled(*allowed: str) -> Fleet:
    """One whose machines are held, with guests on them."""
    one = fleet(*allowed)
    while not one._all_held() or sum(len(each.guests) for each in one.instances) < 3:
        go_on(one)
    return one


def holder(one: Fleet) -> Instance:
    return next(each for each in one.instances if each.has_lease())


def rival(one: Fleet) -> tuple[Instance, Instance]:
    """Who holds a machine, and another process that thinks so, too."""
    mine, other = one.instances[0], one.instances[1]
    other.machine = mine.machine
    for each in (mine, other):
        each.claim = Claim(mine.machine, 1, 1, each.now() + LONG, LONG)
    return mine, other


# -- faults --------------------------------------------------


def met(kind: str, patch: Patch) -> tuple[Fleet, Instance]:
    """A fleet after that fault, and whom it met."""
    one = settled(kind)
    patch.setattr(module, "FAULTS", {kind: 1})
    there = holder(one)
    one.instances = [there]
    one.fault(Random(1))
    assert one.tally.faults[kind] == 1
    return one, there


def test_a_process_that_stands_still_does_nothing_and_hears_nothing(monkeypatch: Patch) -> None:
    one, there = met("stop", monkeypatch)
    assert there.stopped
    assert not there.wants()
    one.network.send(SERVER, there.name, ("told", there.life, 0, 0), one.now_ms)
    heard = [one.network.under_way[place].target for place in one._due()]
    assert there.name not in heard
    one.now_ms = there.stopped_until
    assert not there.stopped
    assert there.name in [one.network.under_way[place].target for place in one._due()]


def test_a_process_that_is_killed_forgets_and_its_machine_stays_held_in_the_directory(
    monkeypatch: Patch,
) -> None:
    one, there = met("kill", monkeypatch)
    assert there.claim is None
    assert not there.guests
    assert not one.free(there.machine)


def test_a_process_that_ends_in_order_gives_its_machine_back(monkeypatch: Patch) -> None:
    one, there = met("reset", monkeypatch)
    assert there.claim is None
    there.stopped_until = one.now_ms + 60_000  # so that nobody claims it anew
    while not one.free(there.machine):
        go_on(one)
    assert one.now_ms < there.stopped_until


def test_a_directory_that_restarts_hears_nothing_for_a_while(monkeypatch: Patch) -> None:
    one = settled("restart")
    monkeypatch.setattr(module, "FAULTS", {"restart": 1})
    while not one._after:
        go_on(one)
    one.fault(Random(1))
    assert not one._after, "what was not on the disk is not acknowledged"
    assert one._down_until > one.now_ms
    for each in one.instances:
        one.network.send(each.name, SERVER, ("ask", each.life, 1, None), one.now_ms)
    while one.now_ms < one._down_until and one.network.due(one.now_ms):
        one._deliver(one.network.due(one.now_ms)[:1])
    assert not one._after


@pytest.mark.parametrize(("kind", "field"), [("partition", "closed_until"), ("stall", "stalled_until")])
def test_ways_between_a_process_and_the_directory_are_closed_or_stall(
    kind: str, field: str, monkeypatch: Patch
) -> None:
    one, there = met(kind, monkeypatch)
    for _ in range(8):
        one.fault(Random(1))
    ways = [one.network.way(there.name, SERVER), one.network.way(SERVER, there.name)]
    assert all(getattr(way, field) > one.now_ms for way in ways)
    other = {"closed_until": "stalled_until", "stalled_until": "closed_until"}[field]
    assert not any(getattr(way, other) for way in ways)


def test_a_fault_that_is_left_out_does_not_come() -> None:
    one, random = fleet(), Random(1)
    for _ in range(50):
        one.fault(random)
    assert not +one.tally.faults


# -- checkers ------------------------------------------------


def test_two_holders_of_a_machine_are_found() -> None:
    one = fleet()
    mine, other = rival(one)
    with pytest.raises(Violation, match=f"{mine.machine} has two holders: {mine.holder} and {other.holder}"):
        one.look()


def test_two_guests_of_a_number_are_found() -> None:
    one = fleet()
    mine, other = rival(one)
    other.machine = MACHINE_NAMES[1]
    mine.guests["t0.1"], other.guests["t0.1"] = 1, 2
    with pytest.raises(Violation, match=rf"t0\.1 has two guests: at {mine.holder} and {other.holder}"):
        one.look()


def test_whoever_serves_past_its_lease_is_found() -> None:
    one = fleet()
    mine, _ = rival(one)
    one.serves(mine)
    mine.claim = None
    with pytest.raises(Violation, match=f"{mine.holder} serves, and its lease of {mine.machine} is over"):
        one.serves(mine)


def test_guests_that_are_left_at_the_end_are_found(monkeypatch: Patch) -> None:
    one = settled()
    one.live_out()
    real = Instance.release

    def release(self: Instance) -> None:
        real(self)
        self.guests["t0.1"] = 1

    monkeypatch.setattr(Instance, "release", release)
    with pytest.raises(Violation, match=f"left at the end: {len(one.instances)} guests"):
        one.end()


def test_numbers_that_are_never_forgotten_are_found(monkeypatch: Patch) -> None:
    one = settled()
    one.live_out()
    monkeypatch.setitem(KEPT_MS, "placements", float("inf"))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "KEPT_MS", {"placements": 600_000})
    with pytest.raises(Violation, match="numbers are never forgotten"):
        one.end()


def test_machines_that_are_not_given_back_are_found(monkeypatch: Patch) -> None:
    one = settled()
    one.live_out()
    monkeypatch.setattr(module, "SETTLED", 200)
    monkeypatch.setattr(Fleet, "free", lambda *_: False)
    with pytest.raises(Violation, match=r"liveness: .* machines are given back in 200 steps, not yet"):
        one.end()


@pytest.mark.parametrize("first", [True, False])
def test_a_fleet_ends_whether_it_was_lived_out_before_or_not(first: bool) -> None:
    one = settled()
    if first:
        one.live_out()
    one.end()
    assert one.tally.checks["liveness"] == one.tally.checks["fleet_end"] == 1
    assert not any(each.guests or each.claim for each in one.instances)


# -- a tenant ------------------------------------------------


def promised(one: Fleet, epoch: int = 4) -> tuple[Tenant, Number]:
    tenant = one.tenants[0]
    number = Number("t0.1", machine="l0-0", epoch=epoch, asked=9)
    tenant.numbers.append(number)
    return tenant, number


def found(there: bool, epoch: int = 4) -> Answer:
    return Answer("l0-0", epoch, {"t": "ok", "b": {"found": there}})


def test_a_guest_that_was_promised_is_there() -> None:
    tenant, _ = promised(fleet())
    tenant.told(8, found(False))
    assert tenant.numbers, "an answer to another question"
    tenant.told(9, found(True))
    assert not tenant.numbers
    tenant, _ = promised(fleet())
    with pytest.raises(Violation, match=r"t0\.1: promised by l0-0 in 4, and not there"):
        tenant.told(9, found(False))


def test_it_need_not_be_there_in_another_life_or_if_it_may_have_been_ended() -> None:
    tenant, _ = promised(fleet())
    tenant.told(9, found(False, epoch=5))
    assert not tenant.numbers
    tenant, number = promised(fleet())
    tenant.told(9, OutcomeUnknown("no answer"))
    assert number.ending
    assert tenant.numbers == [number]
    number.asked = 9
    tenant.told(9, NotDelivered("nobody is there"))
    assert number.ending, "whatever comes later"
    number.asked = 9
    tenant.told(9, found(False))
    assert not tenant.numbers


def test_a_machine_without_room_is_never_met_at_the_end() -> None:
    one = fleet()
    mine, _ = rival(one)
    answers = [mine._broker(f"t0.{number}")["t"] for number in range(60)]
    assert set(answers) == {"ok", "err"}
    assert 0 < answers.count("err") < 2 * FULL * 60
    one.finishing = True
    assert {mine._broker(f"t1.{number}")["t"] for number in range(60)} == {"ok"}
    assert mine._broker("t1.0") == mine._broker("t1.0"), "what it answered once it answers again"
