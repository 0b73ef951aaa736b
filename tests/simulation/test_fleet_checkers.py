"""A simulated fleet holds what it must, and each of its checkers is proved able to fail.

A mutation is a mistake that somebody could make in leases, in placing or in the directory. The fleet runs
alone here, as beside the islands of an episode of the soak.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from protocol.fleet import keeping, starting
from protocol.fleet.directory import MACHINES, Put
from protocol.fleet.entry import Entry, pack_entry
from protocol.fleet.lease import Challenge, Claim
from protocol.soak import KINDS, fleet_instance
from protocol.soak.fleet import Fleet
from protocol.soak.keyvalue import KeyValue
from protocol.soak.options import Tally, Violation

SEEDS, STEPS, FAULT = 24, 5_000, 0.007
Patch = pytest.MonkeyPatch


def run(seed: int, without: frozenset[str] = frozenset()) -> Tally:
    """One fleet from its beginning to its end. Raises Violation."""
    tally, random = Tally(), Random(seed)
    fleet = Fleet(f"seed{seed}", frozenset(KINDS) - without, tally)
    for _ in range(STEPS):
        if random.random() < FAULT:
            fleet.fault(random)
        acts = fleet.ready()
        if acts:
            name, act = random.choice(acts)
            tally.note(name)
            act()
        fleet.pass_time(random.randrange(2 * fleet.pace_ms))
    fleet.look()
    fleet.end()
    return tally


def a_lease_is_never_over(patch: Patch) -> None:
    patch.setattr(Claim, "is_over", lambda _self, _now: False)


def a_challenger_does_not_wait(patch: Patch) -> None:
    patch.setattr(Challenge, "may_claim", lambda _self, revision, *_: revision >= 0)


def every_machine_thinks_that_a_number_is_its_own(patch: Patch) -> None:
    patch.setattr(starting, "turn_of", lambda _found, machine, *_: machine)


def the_directory_takes_a_write_over_what_its_writer_has_not_seen(patch: Patch) -> None:
    real = KeyValue.put

    def put(self: KeyValue, asked: Put, now_ms: int) -> int:
        seen = real(self, asked, now_ms)
        head = self._head.get((asked.bucket, asked.key))
        over = head.revision if head else 0
        return seen or real(self, Put(asked.bucket, asked.key, asked.data, over), now_ms)

    patch.setattr(KeyValue, "put", put)


def a_machine_that_is_given_back_still_has_a_holder(patch: Patch) -> None:
    def kept(claim: Claim) -> Put:
        return Put(MACHINES, claim.machine, pack_entry(Entry("gone", claim.epoch)), claim.revision)

    patch.setattr(fleet_instance, "giving_back", kept)


def two_lives_of_a_machine_have_one_epoch(patch: Patch) -> None:
    patch.setattr(keeping, "next_epoch", lambda known, *_: max(known, 1))


MUTATIONS: list[tuple[str, Callable[[Patch], None]]] = [
    ("its lease of .* is over", a_lease_is_never_over),
    ("two holders", a_challenger_does_not_wait),
    ("two guests", every_machine_thinks_that_a_number_is_its_own),
    ("two (holders|guests)", the_directory_takes_a_write_over_what_its_writer_has_not_seen),
    ("machines are given back in .* not yet", a_machine_that_is_given_back_still_has_a_holder),
    ("promised by .* and not there", two_lives_of_a_machine_have_one_epoch),
]


def test_a_fleet_holds_whatever_goes_wrong() -> None:
    tallies = [run(seed) for seed in range(4)]
    assert all(
        any(tally.checks[check] for tally in tallies)
        for check in ("fleet_one_holder", "fleet_one_guest", "fleet_fence", "fleet_history", "fleet_end")
    )
    assert {kind for tally in tallies for kind in tally.faults} >= {"stop", "kill", "restart", "partition"}


def test_without_faults_no_machine_is_lost_and_no_outcome_is_unknown() -> None:
    done = run(1, frozenset(KINDS)).done
    assert done["fleet_placed"]
    assert not done["fleet_lost"]
    assert not done["fleet_unknown_outcome"]


def test_one_seed_is_one_run() -> None:
    assert run(5).trace == run(5).trace != run(6).trace


@pytest.mark.slow
@pytest.mark.parametrize(("said", "mutation"), MUTATIONS, ids=[one.__name__ for _, one in MUTATIONS])
def test_a_mistake_is_found(said: str, mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)

    def every() -> None:
        for seed in range(SEEDS):
            run(seed)

    with pytest.raises(Violation, match=said):
        every()
