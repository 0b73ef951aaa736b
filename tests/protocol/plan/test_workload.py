"""The plan of a run: the same on every path as far as the path can do it, drawn once, and never again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES, PHASES
from protocol.plan.scenario import PATHS, ExitKind, Exits, GuestHosts, Guests, Run, Scenario
from protocol.plan.workload import Act, Workload, workload


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Scenarios that fit: small, but with every part in them or not."""
    guest = Guests(
        per_l1=draw(st.integers(1, 4)),
        vcpus=draw(st.integers(1, 5)),
        image_pages=draw(st.integers(1, 40)),
        touch_pages=draw(st.integers(0, 60)),
        share_pages=draw(st.integers(0, 20)),
    )
    l1 = GuestHosts(count=draw(st.integers(1, 4)))
    counts = [draw(st.integers(0, 30)) for _ in range(4)]
    exits = Exits(*(ExitKind(count, by) for count, by in zip(counts, ("kernel", "vmm") * 2, strict=True)))
    run = Run(
        exits=exits,
        swap_pages=draw(st.integers(0, guest.image_pages + guest.touch_pages)),
        page_changes=draw(st.integers(0, 30)) if guest.share_pages else 0,
        level_swaps=draw(st.integers(0, 5)),
        attestations=draw(st.integers(0, 3)),
        secrets=draw(st.integers(0, 3)),
        resets=draw(st.integers(0, 3)),
        dumps=draw(st.integers(0, 2)),
        reboots=draw(st.integers(0, 5)),
        deaths=draw(st.integers(0, l1.count)),
    )
    return Scenario(seed=draw(st.integers(0, 99)), l1=l1, guest=guest, run=run)


few = settings(max_examples=20)


def acts(plan: Workload, *phases: str) -> list[tuple[int, Act]]:
    return [
        (host.number, act) for host in plan.hosts for phase in phases for act in host.phases.get(phase, ())
    ]


@few
@given(scenarios())
def test_a_plan_depends_on_the_scenario_alone(scenario: Scenario) -> None:
    for path in PATHS:
        assert workload(scenario, path) == workload(replace(scenario), path)


@few
@given(scenarios())
def test_phases_run_in_the_order_in_which_they_are_listed(scenario: Scenario) -> None:
    for path in PATHS:
        plan = workload(scenario, path)
        assert [phase for phase in PHASES if phase in plan.phases] == list(plan.phases)
        for host in plan.hosts:
            assert set(host.phases) <= set(PHASES)


ONLY_SOME = {"level_swap", "refill", "owner_reboot", "refill_again", "host_teardown"}


@few
@given(scenarios())
def test_all_paths_do_the_same_in_the_phases_that_they_share(scenario: Scenario) -> None:
    plans = [workload(scenario, path) for path in PATHS]
    for one, other in combinations(plans, 2):
        for mine, theirs in zip(one.hosts, other.hosts, strict=True):
            common = (set(mine.phases) & set(theirs.phases)) - set(one.absent) - set(other.absent)
            assert common >= {phase for phase in mine.phases if phase not in ONLY_SOME}
            for phase in common:
                assert mine.phases[phase] == theirs.phases[phase], phase


@few
@given(scenarios())
def test_what_one_host_does_is_drawn_without_the_others(scenario: Scenario) -> None:
    """One host more draws nothing anew: every stream has a purpose and an owner."""
    more = replace(scenario, l1=replace(scenario.l1, count=scenario.l1.count + 1))
    quiet = replace(more, run=replace(more.run, reboots=0, deaths=0))
    before = replace(scenario, run=replace(scenario.run, reboots=0, deaths=0))
    one, other = workload(before, "nested"), workload(quiet, "nested")
    assert other.hosts[: len(one.hosts)] == one.hosts


@few
@given(scenarios(), st.integers(0, 98))
def test_another_seed_draws_other_orders_and_the_same_amounts(scenario: Scenario, seed: int) -> None:
    def amounts(plan: Workload) -> Counter[object]:
        return Counter(
            (host.number, phase, act.name, len(act.pages) if hasattr(act, "pages") else 1)
            for host in plan.hosts
            for phase, done in host.phases.items()
            for act in done
        )

    other = replace(scenario, seed=scenario.seed + 1 + seed)
    assert amounts(workload(scenario, "nested")) == amounts(workload(other, "nested"))


# -- one guest's life ------------------------------------------------------------------------------------


@few
@given(scenarios())
def test_every_guest_is_made_once_and_ended_once_in_the_shared_phases(scenario: Scenario) -> None:
    guests = list(range(scenario.l1.count * scenario.guest.per_l1))
    plan = workload(scenario, "direct")
    for kind, phase in (
        (op.Create, "create"),
        (op.Load, "load"),
        (op.Start, "boot"),
        (op.Destroy, "destroy"),
    ):
        done = [act.guest for _, act in acts(plan, phase) if isinstance(act, kind)]
        assert sorted(done) == guests, kind


@few
@given(scenarios())
def test_a_booting_guest_touches_each_of_its_pages_once_and_shares_the_rest(scenario: Scenario) -> None:
    guest = scenario.guest
    first = FIRST_PAGES + guest.image_pages
    for number in range(scenario.l1.count * guest.per_l1):
        boot = [act for _, act in acts(workload(scenario, "nested"), "boot") if act.guest == number]
        touched = [page for act in boot if isinstance(act, op.Touch) for page in act.pages.numbers().tolist()]
        shared = [page for act in boot if isinstance(act, op.Share) for page in act.pages.numbers().tolist()]
        assert sorted(touched) == list(range(first, first + guest.touch_pages))
        assert shared == list(range(first + guest.touch_pages, first + guest.touch_pages + guest.share_pages))
        assert {act.vcpu for act in boot if isinstance(act, op.OnVcpu)} <= set(range(guest.vcpus))


@few
@given(scenarios())
def test_exits_are_dealt_to_the_vcpus_evenly_and_none_is_lost(scenario: Scenario) -> None:
    found: Counter[tuple[int, str, str]] = Counter()
    for _, act in acts(workload(scenario, "hosted"), "run"):
        assert isinstance(act, op.Exits)
        assert act.count
        found[act.guest, act.reason, act.answered_by] += act.count
    for guest in range(scenario.l1.count * scenario.guest.per_l1):
        for reason, kind in scenario.run.exits.kinds():
            assert found[guest, reason, kind.answered_by] == kind.count
    shares = Counter((act.guest, act.reason) for _, act in acts(workload(scenario, "hosted"), "run"))
    assert all(n <= scenario.guest.vcpus for n in shares.values())


@few
@given(scenarios())
def test_a_page_is_taken_back_only_while_it_is_shared_and_given_only_while_it_is_not(
    scenario: Scenario,
) -> None:
    first = FIRST_PAGES + scenario.guest.image_pages + scenario.guest.touch_pages
    plan = workload(scenario, "nested")
    for guest in range(scenario.l1.count * scenario.guest.per_l1):
        shared = set(range(first, first + scenario.guest.share_pages))
        done = [act for _, act in acts(plan, "page_change") if act.guest == guest]
        assert len(done) == scenario.run.page_changes
        for act in done:
            assert isinstance(act, op.Change)
            assert (act.page in shared) is not act.shared
            assert act.page in shared or not act.busy
            (shared.add if act.shared else shared.discard)(act.page)


@few
@given(scenarios())
def test_only_private_pages_are_swapped(scenario: Scenario) -> None:
    private = set(range(FIRST_PAGES, FIRST_PAGES + scenario.guest.image_pages + scenario.guest.touch_pages))
    for _, act in acts(workload(scenario, "nested"), "swap"):
        assert isinstance(act, op.Swap)
        assert len(act.pages) == scenario.run.swap_pages
        assert set(act.pages.numbers().tolist()) <= private


# -- what comes from outside ------------------------------------------------------------------------------


@few
@given(scenarios())
def test_reboots_are_dealt_in_turn_and_so_many_hosts_die(scenario: Scenario) -> None:
    plan = workload(scenario, "nested")
    reboots = Counter(host for host, act in acts(plan, "owner_reboot") if isinstance(act, op.Reboot))
    count = scenario.l1.count
    assert [reboots[host] for host in range(count)] == [
        len([n for n in range(scenario.run.reboots) if n % count == host]) for host in range(count)
    ]
    ends = [act for _, act in acts(plan, "host_teardown")]
    assert sum(isinstance(act, op.Death) for act in ends) == scenario.run.deaths
    assert sum(isinstance(act, op.Shutdown) for act in ends) == count - scenario.run.deaths


@few
@given(scenarios())
def test_whoever_reboots_or_dies_has_guests_running_and_whoever_goes_down_has_none(
    scenario: Scenario,
) -> None:
    for path in ("nested", "hosted", "mixed"):
        for host in workload(scenario, path).hosts:
            running: set[int] = set()
            up = False
            for phase in PHASES:
                for act in host.phases.get(phase, ()):
                    match act:
                        case op.BootHost():
                            assert not up
                            up = True
                        case op.Start(guest):
                            running.add(guest)
                        case op.Destroy(guest):
                            running.discard(guest)
                        case op.Reboot() | op.Death():
                            assert running == set(host.guests)
                            running, up = set(), False
                        case op.Shutdown():
                            assert not running
                            up = False
                        case op.ForGuest(guest):
                            assert up
                            assert guest in host.guests
            assert not running
            assert not up


@few
@given(scenarios())
def test_level_swaps_happen_where_there_is_a_level_below(scenario: Scenario) -> None:
    for path in PATHS:
        plan = workload(scenario, path)
        found = [act for _, act in acts(plan, "level_swap") if isinstance(act, op.LevelSwap)]
        wanted = scenario.l1.count if path == "nested" and scenario.run.level_swaps else 0
        assert len(found) == wanted
        assert all(act.count == scenario.run.level_swaps for act in found)
        assert len({act.seed for act in found}) == wanted


@pytest.mark.parametrize("path", PATHS)
def test_what_a_path_lacks_has_a_reason_that_can_be_read(path: str) -> None:
    scenario = replace(Scenario(), run=replace(Scenario().run, level_swaps=1, dumps=1))
    for phase, why in workload(scenario, path).absent.items():
        assert phase in PHASES
        assert len(why.split()) > 3


@few
@given(scenarios())
def test_on_the_mixed_path_every_second_guest_is_hosted(scenario: Scenario) -> None:
    hosted = {path: [host.hosted for host in workload(scenario, path).hosts] for path in PATHS}
    guests = scenario.l1.count * scenario.guest.per_l1
    assert frozenset().union(*hosted["mixed"]) == frozenset(range(1, guests, 2))
    assert frozenset().union(*hosted["hosted"]) == frozenset(range(guests))
    assert not any(hosted["nested"])
    assert not any(hosted["direct"])
