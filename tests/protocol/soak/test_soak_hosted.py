"""An L0 with a broker in a soak: what it loses when it dies, and what its checkers find."""

from __future__ import annotations

from random import Random

import pytest

from protocol.arch import load
from protocol.soak import KINDS, hosted
from protocol.soak.hosted import ANSWERED, Hosted
from protocol.soak.options import Tally, Violation
from protocol.soak.requester import UNKNOWN, UP, Asked

Patch = pytest.MonkeyPatch
NEVER = 1 << 40


def l0(*allowed: str) -> Hosted:
    return Hosted("l0", load("pef"), "seed", frozenset(allowed), Tally())


def go_on(one: Hosted, steps: int) -> None:
    for _ in range(steps):
        acts = one.ready()
        if acts:
            acts[one.random.randrange(len(acts))][1]()
        one.pass_time(one.random.randrange(one.pace_ms))


def children(one: Hosted) -> int:
    return sum(one.service.statistics().children.values())


def with_children(*allowed: str) -> Hosted:
    """One whose requesters were promised some."""
    one = l0(*allowed)
    while sum(list(each.children.values()).count(UP) for each in one.requesters) < 3:
        go_on(one, 10)
    return one


def settled(one: Hosted) -> None:
    for each in one.requesters:
        each.finishing = True
    one.live_out()
    while one.machine.busy or one.disk.journal.pending:
        go_on(one, 10)


def test_where_nothing_goes_wrong_every_request_is_granted_and_nothing_is_left() -> None:
    one = l0()
    go_on(one, 1_500)
    one.look()
    one.live_out()
    one.end()
    done = one.tally.done
    assert all(done[f"{kind}_done"] for kind in ("hello", "image.put", "start", "list", "describe"))
    assert not any(done[f"{kind}_refused"] for kind in ("hello", "image.put", "start", "list", "describe"))
    assert not +one.tally.faults


def test_a_service_that_dies_finds_its_children_again() -> None:
    one = with_children()
    settled(one)
    before, guests, service = children(one), dict(one.machine.guests), one.service
    one.restart()
    assert one.recovering
    assert one.service is not service
    while one.recovering:
        go_on(one, 1)
    assert children(one) == before
    assert one.machine.guests == guests
    one.look()
    one.end()


def test_what_was_under_way_when_the_service_died_is_told_to_nobody() -> None:
    one = with_children()
    for each in one.requesters:
        each.next_ms = NEVER
    while one.machine.thread is None:  # until a step of a guest's life is under way
        for each in one.requesters:
            each.next_ms = 0
        go_on(one, 1)
    former = one.service
    events = former.version
    one.restart()
    go_on(one, 500)
    assert former.version == events, "the former life has heard of nothing"
    assert not one.recovering
    one.end()


def test_a_machine_that_loses_power_has_no_guests_and_nothing_is_certain() -> None:
    one = with_children()
    machine = one.machine
    one.lose_power()
    assert one.machine is not machine
    assert not one.machine.guests
    assert all(state == UNKNOWN for each in one.requesters for state in each.children.values())
    assert not any(each.image or each.lease_until for each in one.requesters)
    go_on(one, 500)
    one.end()


def test_what_a_requester_had_that_is_gone_or_silent_for_long_is_given_back() -> None:
    one = with_children()
    for each in one.requesters:
        each.next_ms = NEVER
    one.network.under_way.clear()
    gone = next(each for each in one.requesters if each.children)
    one.network.send(gone.name, one.name, (gone.who, None), one.now_ms)
    before = children(one)
    while children(one) == before:
        go_on(one, 1)
    assert children(one) > 0, "what others have is theirs"
    while children(one):
        go_on(one, 1)
        one.pass_time(500)
    assert not one.machine.guests


def test_a_fault_that_is_left_out_does_not_come() -> None:
    one = l0()
    random = Random(1)
    for _ in range(50):
        one.fault(random)
    assert not +one.tally.faults


@pytest.mark.parametrize(("kind", "field"), [("partition", "closed_until"), ("stall", "stalled_until")])
def test_one_way_between_the_service_and_a_requester_is_closed_or_stalls(
    kind: str, field: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(hosted, "FAULTS", {kind: 1})
    one = l0(kind)
    closed: set[tuple[str, str]] = set()
    for _ in range(40):
        one.fault(Random(1))
    for names, way in one.network.ways.items():
        if getattr(way, field):
            closed.add(names)
        assert bool(way.closed_until) <= (kind == "partition")
        assert bool(way.stalled_until) <= (kind == "stall")
    assert {source == "l0" for source, _ in closed} == {True, False}, "there, and back"
    assert one.tally.faults[kind] == 40


@pytest.mark.parametrize(("kind", "powers"), [("restart", 0), ("power", 1)])
def test_the_service_or_all_of_the_machine_dies(kind: str, powers: int, monkeypatch: Patch) -> None:
    monkeypatch.setattr(hosted, "FAULTS", {kind: 1})
    one = l0(kind)
    go_on(one, 300)
    service = one.service
    one.fault(Random(1))
    assert one.service is not service
    assert one.powers == powers


def test_a_guest_that_is_in_no_table_is_found_when_nothing_is_under_way() -> None:
    one = l0()
    settled(one)
    one.machine.guests[b"nobody's"] = 0
    one.machine.submit(object(), print)
    one.look()
    one.machine.forget()
    with pytest.raises(Violation, match=r"hosting: l0: 1 guests, 0 children"):
        one.look()


def test_a_guest_that_stays_at_the_end_is_found() -> None:
    one = l0()
    settled(one)
    one.machine.guests[b"nobody's"] = 0
    with pytest.raises(Violation, match=r"hosting: l0: \{\} children, 1 guests left"):
        one.end()


def test_what_stays_in_the_trusted_entity_at_the_end_is_found() -> None:
    one = with_children()
    settled(one)
    one.machine.guests.clear()  # so it answers that there is nothing to destroy
    with pytest.raises(Violation, match=r"nothing_left: l0, pef with a broker: \{'"):
        one.end()


def test_a_request_that_is_never_answered_is_found(monkeypatch: Patch) -> None:
    monkeypatch.setattr(hosted, "ANSWERED", 100)
    one = l0()
    settled(one)
    one.requesters[0].asked[b"rid"] = Asked("list", {}, 0, again_ms=NEVER)
    with pytest.raises(Violation, match=r"liveness: l0: no answer to \['list'\]"):
        one.live_out()
    assert ANSWERED > 100


def test_a_machine_that_never_comes_to_rest_is_found(monkeypatch: Patch) -> None:
    one = with_children()
    while not one.machine.busy:
        go_on(one, 1)
    monkeypatch.setattr(hosted, "SETTLED", 1)
    with pytest.raises(Violation, match="liveness: l0: the machine does not come to rest"):
        one.end()


def test_all_kinds_of_faults_together_lose_nothing() -> None:
    one = l0(*KINDS)
    random = Random(5)
    for _ in range(40):
        go_on(one, 50)
        one.fault(random)
    one.end()
    assert one.tally.checks["hosting_end"] == 1
