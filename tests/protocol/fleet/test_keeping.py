"""One try to claim a machine, one renewal: what is asked of the directory, and what comes of each answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from protocol.fleet.directory import MACHINES, Get, Put, Value
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.keeping import Renewal, giving_back, renewal, tried
from protocol.fleet.lease import SILENT, Challenge, Claim

NAME, LENGTH = "l0-0", 10.0
GIVEN_BACK = pack_entry(Entry("", 4))


def opened(value: Value) -> Entry | None:
    return open_entry(value.data) if value.revision > 0 else None


def mine(_machine: str, epoch: int) -> bytes:
    return pack_entry(Entry("me", epoch))


def answered(steps: Generator[Any, Any, Any], *exchange: tuple[object, Any]) -> Any:
    """Each question must be the one that is expected; the result."""
    found: Any = None
    for question, answer in exchange:
        assert steps.send(found) == question
        found = answer
    try:
        more = steps.send(found)
    except StopIteration as end:
        return end.value
    raise AssertionError(f"one more question: {more}")


def a_try(challenge: Challenge, now: float, remembered: int = 0) -> Generator[Any, Any, Claim | None]:
    return tried(NAME, challenge, mine, remembered, opened, lambda: now)


def a_renewal(claim: Claim, now: float = 5.0) -> Generator[Any, Any, Renewal]:
    return renewal(claim, "me", mine, opened, lambda: now)


def held() -> Claim:
    return Claim(NAME, 5, 7, LENGTH, LENGTH)


GET, RENEW = Get(MACHINES, NAME), Put(MACHINES, NAME, mine(NAME, 5), 7)


def test_what_was_given_back_is_claimed_in_a_higher_epoch() -> None:
    put = Put(MACHINES, NAME, mine(NAME, 8), 7)
    won = answered(a_try(Challenge(LENGTH, 0.0), 3.0), (GET, Value(7, GIVEN_BACK)), (put, 8))
    assert won == Claim(NAME, 8, 8, 13.0, LENGTH)


def test_what_is_held_is_not_written() -> None:
    assert answered(a_try(Challenge(LENGTH, 0.0), 3.0), (GET, Value(7, mine(NAME, 5)))) is None


def test_a_claim_that_is_refused_or_has_no_answer_is_none() -> None:
    put = Put(MACHINES, NAME, mine(NAME, 10), 7)
    assert answered(a_try(Challenge(LENGTH, 0.0), 3.0, 9), (GET, Value(7, GIVEN_BACK)), (put, 0)) is None


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    claim = held()
    assert answered(a_renewal(claim), (RENEW, 9)) == Renewal(True)
    assert (claim.revision, claim.until) == (9, 15.0)


def test_a_lease_that_is_over_is_not_renewed() -> None:
    outcome = answered(a_renewal(held(), 10.1))
    assert not outcome.accepted
    assert "whole lease" in outcome.lost


def test_a_renewal_without_an_answer_loses_nothing() -> None:
    for found in (Value(SILENT), Value(7, mine(NAME, 5))):
        claim = held()
        assert answered(a_renewal(claim), (RENEW, 0), (GET, found)) == Renewal(False)
        assert (claim.revision, claim.until) == (7, LENGTH)


def test_our_own_write_whose_answer_was_lost_is_what_the_next_one_is_over() -> None:
    claim = held()
    assert answered(a_renewal(claim), (RENEW, 0), (GET, Value(9, mine(NAME, 5)))) == Renewal(False)
    assert (claim.revision, claim.until) == (9, LENGTH)


def test_a_directory_that_was_lost_is_filled_anew() -> None:
    claim = held()
    assert answered(a_renewal(claim), (RENEW, 0), (GET, Value(0))) == Renewal(False)
    assert claim.revision == 0


def test_another_holder_and_another_life_mean_that_the_machine_is_lost() -> None:
    for other in (Entry("you", 6), Entry("me", 6), Entry("", 5)):
        outcome = answered(a_renewal(held()), (RENEW, 0), (GET, Value(9, pack_entry(other))))
        assert "another" in outcome.lost


def test_a_machine_that_is_given_back_keeps_its_epoch_and_has_no_holder() -> None:
    assert giving_back(held()) == Put(MACHINES, NAME, pack_entry(Entry("", 5)), 7)
