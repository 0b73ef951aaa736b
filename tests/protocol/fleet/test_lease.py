"""Leases without a common clock: a holder and its challengers, and never two of them hold."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.fleet.entry import EPOCHS
from protocol.fleet.lease import MARGIN, SILENT, Challenge, Claim, next_epoch

LENGTH = 10.0


def challenge() -> Challenge:
    return Challenge(LENGTH, 0.0)


def test_what_was_given_back_is_claimed_at_once() -> None:
    assert challenge().may_claim(7, True, 0.0, 0.1)


def test_what_is_held_is_claimed_when_it_was_silent_for_a_lease_and_a_margin() -> None:
    one = challenge()
    assert not one.may_claim(7, False, 0.0, 0.1)
    assert not one.may_claim(7, False, 12.0, 12.4)
    assert one.may_claim(7, False, 12.5, 12.6)


def test_a_name_that_is_not_there_may_be_of_a_directory_that_was_lost() -> None:
    one = challenge()
    assert not one.may_claim(0, False, 0.0, 0.1)
    assert one.may_claim(0, False, 12.5, 12.6)


def test_a_renewal_begins_the_wait_anew_and_so_does_a_directory_that_did_not_answer() -> None:
    one = challenge()
    assert not one.may_claim(7, False, 0.0, 0.1)
    assert not one.may_claim(8, False, 12.5, 12.6)
    assert not one.may_claim(SILENT, False, 20.0, 22.0)
    assert not one.may_claim(8, False, 30.0, 30.1), "who could not renew gets its time"
    assert one.may_claim(8, False, 42.5, 42.6)


@given(seed=st.integers(0, 1 << 32), skew=st.floats(-1e6, 1e6), renewals=st.integers(0, 8))
def test_no_challenger_wins_while_the_holder_believes_in_its_lease(
    seed: int, skew: float, renewals: int
) -> None:
    """The holder renews for a while, then stands still. Its clock and the challenger's differ by `skew`."""
    draw = Random(seed)
    claim, now = Claim("l0-0", 1, 1, LENGTH, LENGTH), 0.0
    taken = [(-1.0, 1)]  # when the directory took which revision
    for revision in range(2, renewals + 2):
        sent = now + draw.uniform(0.0, claim.pause_s)
        now = sent + draw.uniform(0.0, 2.0)
        taken.append((draw.uniform(sent, now), revision))
        claim.renewed(revision, sent)
    one, look = Challenge(LENGTH, skew), 0.0
    while look < 1000:
        asked, look = look, look + draw.uniform(0.01, 1.0)  # the answer comes then
        at = draw.uniform(asked, look)  # and says what stood there in between
        stood = max(revision for when, revision in taken if when <= at)
        if one.may_claim(stood, False, asked + skew, look + skew):
            wins = all(revision <= stood for when, revision in taken if when <= look)
            assert not wins or claim.is_over(look), "two holders"
            return
    raise AssertionError("nobody ever takes over")


def test_a_claim_counts_from_when_its_renewal_was_sent() -> None:
    claim = Claim("l0-0", 1, 1, 10.0, LENGTH)
    claim.renewed(2, 4.0)
    assert (claim.revision, claim.until) == (2, 14.0)
    assert not claim.is_over(14.0)
    assert claim.is_over(14.1)
    assert claim.pause_s * 4 == LENGTH < LENGTH * MARGIN


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_an_epoch_is_higher_than_all_that_is_known(known: int, revision: int, remembered: int) -> None:
    assert next_epoch(known, revision, remembered) > max(known, revision, remembered)


def test_epochs_end() -> None:
    with pytest.raises(LocalProtocolError):
        next_epoch(EPOCHS, 1, 1)
