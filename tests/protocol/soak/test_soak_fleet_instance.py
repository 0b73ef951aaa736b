"""One process of a fleet in a soak, and a tenant: what they do where no answer comes, or the wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocol.errors import NotDelivered, OutcomeUnknown
from protocol.fleet.directory import MACHINES, PLACEMENTS, Get, Put
from protocol.fleet.entry import Entry, pack_entry
from protocol.fleet.placing import Answer, Placement, pack_placement
from protocol.soak import fleet_instance
from protocol.soak.fleet import Fleet
from protocol.soak.fleet_instance import Instance
from protocol.soak.fleet_tenant import ANSWER_MS, Number, Tenant
from protocol.soak.options import Tally

Patch = pytest.MonkeyPatch
NEVER = 1 << 40
NUMBER = f"t0.{1:024x}"


def go_on(one: Fleet, until: Callable[[], Any]) -> None:
    """Let things go on until that is so, which it is within 5,000 steps."""
    for _ in range(5_000):
        if until():
            return
        acts = one.ready()
        if acts:
            one.random.choice(acts)[1]()
        one.pass_time(one.random.randrange(one.pace_ms))
    raise AssertionError("it never is")


def quiet() -> tuple[Fleet, Instance]:
    """A fleet without tenants, all of whose machines are held; and who holds one of them."""
    one = Fleet("seed", frozenset(), Tally())
    one.tenants = []
    go_on(one, one._all_held)
    return one, next(each for each in one.instances if each.has_lease())


def written(one: Fleet, bucket: str, key: str, data: bytes) -> None:
    revision = one.body.get(Get(bucket, key), one.now_ms).revision
    assert one.body.put(Put(bucket, key, data, revision), one.now_ms)
    one.body.commit()


def asked(there: Instance, name: str = NUMBER) -> list[Answer]:
    answers: list[Answer] = []
    there.start(name, answers.append)
    return answers


# -- leases --------------------------------------------------


def test_a_process_whose_machine_another_one_has_ends_with_all_its_guests() -> None:
    one, there = quiet()
    go_on(one, lambda: one.body._sequence == one.body._durable and there.quiet)
    there.guests["t0.1"] = 1
    life = there.life
    written(one, MACHINES, there.machine, pack_entry(Entry("other.1", 9, children=4)))
    go_on(one, lambda: there.life != life)
    assert one.tally.done["fleet_lost"] == 1
    assert there.claim is None
    assert not there.guests


def test_a_lease_that_nobody_renews_is_kept_to_its_end_and_no_longer() -> None:
    one, there = quiet()
    claim, life = there.claim, there.life
    assert claim is not None
    one._down_until = NEVER
    go_on(one, lambda: one.tally.done["fleet_unknown_outcome"] > 3)
    assert there.claim is claim, "it asks again, and serves meanwhile"
    go_on(one, lambda: there.life != life)
    assert there.now() > claim.until
    assert there.claim is None


def test_past_its_lease_a_process_answers_nobody() -> None:
    one, there = quiet()
    said: list[str] = []
    there.serve(lambda: said.append("within"))
    assert there.claim is not None
    there.claim.until = there.now() - 1
    there.serve(lambda: said.append("past"))
    assert said == ["within"]
    assert one.tally.checks["fleet_fence"] == 1


@pytest.mark.parametrize("lease", ["over", "gone"])
def test_a_question_to_whoever_has_no_lease_stays_without_an_answer(lease: str) -> None:
    one, there = quiet()
    assert there.claim is not None
    if lease == "over":
        there.claim.until = there.now() - 1
    else:
        there.claim = None
    one.network.under_way.clear()
    for verb in ("destroy", "list"):
        one.network.send("t0", there.name, ("question", verb, NUMBER, 1), one.now_ms)
        one._deliver([0])
    assert not one.network.under_way


# -- starts --------------------------------------------------


def test_two_starts_of_one_number_are_one_guest_and_one_answer() -> None:
    one, there = quiet()
    one.finishing = True  # there is room
    first, second = asked(there), asked(there)
    go_on(one, lambda: first and second)
    assert first == second
    assert len(there.guests) == 1
    assert first[0].reply == {"t": "ok", "b": {"child": there.guests[NUMBER]}}
    third = asked(there)
    go_on(one, lambda: third)
    assert third == first


def test_where_the_directory_is_silent_nothing_is_started() -> None:
    one, there = quiet()
    one._down_until = NEVER
    answers = asked(there)
    go_on(one, lambda: answers)
    assert there.claim is not None
    assert answers == [Answer(there.machine, there.claim.epoch)]
    assert not there.guests


def test_a_start_that_outlives_the_lease_is_not_made() -> None:
    one, there = quiet()
    assert there.claim is not None
    there.next_ms = NEVER  # it does not look after its lease
    answers = asked(there)
    there.claim.until = there.now() - 1
    go_on(one, lambda: there.quiet)
    assert not answers
    assert not there.guests


def test_a_number_that_a_later_life_has_is_not_answered_and_may_be_asked_for_again() -> None:
    one, there = quiet()
    assert there.claim is not None
    later = pack_placement(Placement(there.machine, there.claim.epoch + 1))
    written(one, PLACEMENTS, NUMBER, later)
    answers = asked(there)
    go_on(one, lambda: there.quiet)
    assert not answers
    written(one, PLACEMENTS, NUMBER, pack_placement(Placement("", 0)))
    one.finishing = True
    again = asked(there)
    go_on(one, lambda: again)
    assert NUMBER in there.guests


# -- tenants -------------------------------------------------


def waiting(one: Fleet, listing: bool) -> tuple[Tenant, Number]:
    """Somebody who waits for the answer to a start, or for who else is there."""

    def found() -> list[tuple[Tenant, Number]]:
        return [
            (tenant, number)
            for tenant in one.tenants
            for number in tenant.numbers
            if number.asked and number.listing is listing and not number.machine
        ]

    go_on(one, found)
    return found()[0]


def test_a_start_without_an_answer_is_asked_again() -> None:
    one = Fleet("seed", frozenset(), Tally())
    go_on(one, one._all_held)
    tenant, number = waiting(one, listing=False)
    before = number.asked
    one.network.under_way.clear()
    for each in one.instances:
        each.stopped_until = NEVER
    one.now_ms = number.until_ms = tenant.next_ms = one.now_ms + ANSWER_MS
    tenant.act()
    assert number.asked > before
    assert not number.machine


@pytest.mark.parametrize("found", [NotDelivered("nobody"), OutcomeUnknown("no answer")])
def test_whoever_is_not_told_who_else_is_there_tries_later(found: Exception, monkeypatch: Patch) -> None:
    monkeypatch.setattr(fleet_instance, "FULL", 1.0)
    one = Fleet("seed", frozenset(), Tally())
    tenant, number = waiting(one, listing=True)
    tenant.told(number.asked, found)
    assert not number.asked
    assert number.next_ms > one.now_ms
    assert number in tenant.numbers


def test_where_no_machine_has_room_nothing_is_placed_and_the_number_stays(monkeypatch: Patch) -> None:
    monkeypatch.setattr(fleet_instance, "FULL", 1.0)
    one = Fleet("seed", frozenset(), Tally())
    _, number = waiting(one, listing=True)
    go_on(one, lambda: not number.asked)
    assert number.next_ms > one.now_ms
    assert not one.tally.done["fleet_placed"]
    monkeypatch.setattr(fleet_instance, "FULL", 0.0)
    go_on(one, lambda: number.machine)
    assert one.tally.done["fleet_placed"]
