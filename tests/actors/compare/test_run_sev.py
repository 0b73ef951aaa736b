"""A whole comparison with SNP guests: every path to its end, exact counts, nothing left behind."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lives
from lives import EXITS, by_path, issued

from actors.compare.outcome import Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from protocol.arch.sev.profiles import PROFILES
from protocol.plan.fit import mistakes
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario, Strategy

LIFE = ("create", "load", "boot", "run", "page_change", "destroy")
GUESTS, VCPUS, IMAGE, TOUCHED, SHARED, CHANGES = 4, 2, 5, 12, 3, 4
INSTRUCTIONS = ("RMPUPDATE", "SNP_PAGE_RECLAIM")  # a test of their own says what differs
Json = dict[str, Any]


def small(**changes: Any) -> Scenario:
    """Two hosts with two guests each, and everything happens to them."""
    base = Scenario(
        name="small",
        arch=("snp",),
        l1=GuestHosts(count=2, memory_mib=64, cpus=2),
        guest=Guests(
            per_l1=GUESTS // 2,
            memory_mib=1,
            vcpus=VCPUS,
            image_pages=IMAGE,
            touch_pages=TOUCHED,
            share_pages=SHARED,
        ),
        run=Run(exits=EXITS, swap_pages=3, page_changes=CHANGES, resets=2, reboots=1, deaths=1),
    )
    return replace(base, **changes)


def outcome(depth: int, **changes: Any) -> Outcome:
    return lives.outcome(small(depth=depth, **changes))


@pytest.fixture(scope="module", params=[1, 2])
def told(request: pytest.FixtureRequest) -> Outcome:
    return outcome(request.param)


@pytest.mark.slow
def test_a_guests_life_takes_the_calls_of_the_fact_sheet(told: Outcome) -> None:
    """Counted by hand: what a guest has of pages and VCPUs says how many of each."""
    direct = by_path(told)["direct"]
    assert issued(direct, "create") == {
        "SNP_GCTX_CREATE": GUESTS,
        "SNP_LAUNCH_START": GUESTS,
        "SNP_ACTIVATE": GUESTS,
        "RMPUPDATE": 2 * GUESTS,  # context and response page
    }
    measured = GUESTS * (IMAGE + VCPUS)
    assert issued(direct, "load") == {
        "RMPUPDATE": measured,
        "SNP_LAUNCH_UPDATE": measured,
        "SNP_LAUNCH_FINISH": GUESTS,
    }
    # Every buffer is accepted, then shared.
    assert issued(direct, "boot") == {"RMPUPDATE": GUESTS * (TOUCHED + 2 * SHARED)}
    assert issued(direct, "run") == {}
    assert issued(direct, "page_change") == {"RMPUPDATE": GUESTS * CHANGES}
    assert issued(direct, "destroy") == {
        "SNP_PAGE_RECLAIM": 2 * GUESTS,
        "SNP_DECOMMISSION": GUESTS,
        "RMPUPDATE": GUESTS * (2 + IMAGE + VCPUS + TOUCHED),
    }


@pytest.mark.slow
def test_the_same_calls_of_a_guests_life_reach_the_machine_on_every_path(told: Outcome) -> None:
    paths = by_path(told)
    assert set(paths) == {"direct", "nested", "hosted"}
    for phase in LIFE:
        direct = issued(paths["direct"], phase)
        assert issued(paths["hosted"], phase) == direct, phase
        nested = issued(paths["nested"], phase)
        for name in (direct | nested).keys() - set(INSTRUCTIONS):
            assert nested.get(name) == direct.get(name), (phase, name)


@pytest.mark.slow
def test_what_a_guest_host_keeps_to_itself_is_the_response_page_alone(told: Outcome) -> None:
    """No guest asks for a report here: that page is the firmware's in the emulation only."""
    paths = by_path(told)
    for phase in LIFE:
        direct, nested = issued(paths["direct"], phase), issued(paths["nested"], phase)
        less = {name: direct.get(name, 0) - nested.get(name, 0) for name in INSTRUCTIONS}
        once, reclaimed = GUESTS * (phase in ("create", "destroy")), GUESTS * (phase == "destroy")
        assert less == {"RMPUPDATE": once, "SNP_PAGE_RECLAIM": reclaimed}, phase


@pytest.mark.slow
def test_exits_grow_with_nesting_and_not_with_hosting(told: Outcome) -> None:
    paths = by_path(told)
    for phase in ("boot", "run", "page_change"):
        direct = paths["direct"]["phases"][phase]["exits"]
        assert paths["hosted"]["phases"][phase]["exits"] == direct, phase
        assert paths["nested"]["phases"][phase]["exits"] > direct, phase


@pytest.mark.slow
def test_an_owners_reboot_is_cleaned_up_without_its_help(told: Outcome) -> None:
    """One host reboots and one dies: both its guests' contexts and pages are taken back from below."""
    counts = by_path(told)["nested"]["counts"]
    assert counts["teardown.gctx.l1_reboot"] == counts["teardown.gctx.l1_crash"] == GUESTS // 2
    pages = 1 + IMAGE + VCPUS + TOUCHED  # the context page, the image, VMSAs, what was touched
    assert counts["teardown.page.l1_reboot"] == GUESTS // 2 * pages


@pytest.mark.slow
def test_what_is_lacking_is_absent_with_its_reason_and_never_zero(told: Outcome) -> None:
    for result in told.results:
        for phase in ("swap", "reset"):
            assert result["phases"][phase] is None
            assert result["absent"][f"phases.{phase}"]
        assert result["modelled"]["ns"] > 0


@pytest.mark.slow
def test_claims_are_judged_and_may_fail(told: Outcome) -> None:
    verdicts = {claim["claim"]: claim["holds"] for claim in told.claims}
    assert verdicts["the higher the call, the less is emulated: by the call table"] is False
    assert verdicts["the higher the call, the less is emulated: by the calls that were made"] is False
    assert verdicts["real handles can be passed on, so no call needs a handle map"] is False
    assert verdicts["set-up of the Trusted Entity is emulated whole: it is up already"] is True
    assert verdicts["every page request of a nested guest is at least one more exit"] is True


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["small", "scattered"])
@pytest.mark.parametrize("depth", [1, 2])
def test_two_runs_count_the_same(depth: int, profile: str) -> None:
    """Whatever order the hosts come in, and whether messages go as they are or packed."""
    first = outcome(depth, profile=profile)
    for changes in ({}, {"transport": "packed"}):
        second = outcome(depth, profile=profile, **changes)
        for one, other in zip(first.results, second.results, strict=True):
            assert one | {"contention": {}} == other | {"contention": {}}


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_page_that_comes_with_its_request_costs_no_fault(depth: int) -> None:
    """The calls are those of two faults, in every phase; the faults are gone, on every path."""
    usual, merged = (
        by_path(outcome(depth, strategy=Strategy(pages=pages))) for pages in ("two_fault", "merged_l1")
    )
    for path, result in usual.items():
        for phase in ("boot", "page_change"):
            assert issued(merged[path], phase) == issued(result, phase)
            assert merged[path]["phases"][phase]["exits"] < result["phases"][phase]["exits"]
    fresh = GUESTS * (TOUCHED + SHARED)  # pages that a guest asks for and then validates
    boot = {path: found["direct"]["phases"]["boot"] for path, found in (("usual", usual), ("merged", merged))}
    assert boot["usual"]["exits"] - boot["merged"]["exits"] == fresh


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_memory_that_is_asked_for_ahead_is_all_there_before_the_guest_runs(depth: int) -> None:
    usual, ahead = (
        by_path(outcome(depth, strategy=Strategy(pages=pages))) for pages in ("two_fault", "prefault")
    )
    for path, result in usual.items():
        more = issued(ahead[path], "load")["RMPUPDATE"] - issued(result, "load")["RMPUPDATE"]
        assert more == GUESTS * (256 - IMAGE), path  # a guest of 1 MiB
        assert issued(ahead[path], "boot") == {"RMPUPDATE": GUESTS * SHARED}
        assert ahead[path]["phases"]["boot"]["exits"] < result["phases"]["boot"]["exits"]


@pytest.mark.slow
@pytest.mark.parametrize("pages", ["merged_l1", "prefault"])
def test_runs_of_pages_count_the_same_however_pages_come_in(pages: str) -> None:
    guests = Guests(per_l1=2, memory_mib=4, vcpus=2, image_pages=IMAGE, touch_pages=600, share_pages=20)
    changes = {"guest": guests, "strategy": Strategy(pages=pages)}
    single, bulk = (outcome(1, fidelity=fidelity, **changes) for fidelity in ("call", "bulk"))
    for one, other in zip(single.results, bulk.results, strict=True):
        assert one | {"contention": {}} == other | {"contention": {}}


def test_a_legacy_guest_takes_one_fault_and_there_is_nothing_to_merge() -> None:
    legacy = replace(PROFILES["small"], kind="sev")
    (found,) = mistakes(small(strategy=Strategy(pages="merged_l1")), {"sev": legacy})
    assert "nothing to merge" in found.hint


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_evidence_takes_one_command_and_one_exit_that_asks_for_it(depth: int) -> None:
    """6.6: 1 C, 0 U. The first time a guest accepts and shares two buffers; its launch has a page more."""
    asked = 3
    quiet = replace(small().run, reboots=0, deaths=0, attestations=asked)
    paths = ("direct", "nested", "hosted", "mixed")
    found = by_path(outcome(depth, run=quiet, paths=paths))
    plain = by_path(outcome(depth, run=replace(quiet, attestations=0), paths=("direct",)))["direct"]
    for path in paths:
        calls = issued(found[path], "attest")
        assert calls["SNP_GUEST_REQUEST"] == asked * GUESTS, path
        assert set(calls) == {"SNP_GUEST_REQUEST", "RMPUPDATE"}
        more = issued(found[path], "load")["SNP_LAUNCH_UPDATE"] - issued(plain, "load")["SNP_LAUNCH_UPDATE"]
        assert more == GUESTS
    direct, nested = found["direct"]["phases"]["attest"], found["nested"]["phases"]["attest"]
    assert issued(found["direct"], "attest")["RMPUPDATE"] == 2 * 2 * GUESTS
    exits = direct["exits.1.vmgexit.kernel"]
    assert exits == asked * GUESTS
    assert nested["exits"] > 2 * direct["exits"]
    apart = run(small(depth=depth, run=quiet, paths=("nested",)), Progress(), processes=2)
    (there,) = apart.results
    assert there["phases"] == found["nested"]["phases"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "depth"), [("snp", 2), ("sev", 1)])
def test_runs_of_pages_in_one_step_count_the_same(kind: str, depth: int) -> None:
    """Enough pages that a run crosses tables: all counts, peaks and phases are those of single calls."""
    guests = Guests(per_l1=1, memory_mib=4, vcpus=2, image_pages=IMAGE, touch_pages=550, share_pages=20)
    single, bulk = (
        outcome(depth, arch=(kind,), guest=guests, fidelity=fidelity) for fidelity in ("call", "bulk")
    )
    for one, other in zip(single.results, bulk.results, strict=True):
        assert one | {"contention": {}} == other | {"contention": {}}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"strategy": Strategy(pages="merged_l0")}, "strategy.pages"),
        ({"strategy": Strategy(teardown="async")}, "strategy.teardown"),
        ({"strategy": Strategy(handles="mapped")}, "strategy.handles"),
        ({"strategy": Strategy(donation="bounded")}, "strategy.donation"),
        ({"run": Run(level_swaps=1)}, "run.level_swaps"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(changes: dict[str, Any], where: str) -> None:
    (found,) = mistakes(small(**changes), {"snp": PROFILES["small"]})
    assert found.path == where
    assert found.hint or "not built" in found.allowed


@pytest.mark.slow
def test_two_architectures_stand_side_by_side() -> None:
    """Each has all phases that it can: what one lacks the other keeps."""
    found = run(small(arch=("s390", "snp"), l1=GuestHosts(count=2, memory_mib=2060, cpus=2)), Progress())
    assert [(result["arch"], result["path"]) for result in found.results] == [
        (arch, path) for arch in ("s390", "snp") for path in ("direct", "nested", "hosted")
    ]
    s390, sev = (next(r for r in found.results if r["arch"] == arch) for arch in ("s390", "snp"))
    assert s390["phases"]["swap"]["te_issued"] > 0
    assert sev["phases"]["swap"] is None
    assert {claim["arch"] for claim in found.claims} == {"s390", "snp"}


def counted(found: Outcome) -> Any:
    """Everything that must not depend on where hosts live."""
    return [(result["path"], result["phases"], result["tracking"]) for result in found.results]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_hosts_in_processes_of_their_own_count_the_same(depth: int) -> None:
    scenario = small(depth=depth, paths=("nested",))
    apart = run(scenario, Progress(), processes=3)
    assert counted(apart) == counted(run(scenario, Progress()))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_nested_and_hosted_guests_live_side_by_side_on_one_l0(depth: int) -> None:
    """Half of the guests are L0's own, with ASIDs of its own; nothing of either is left."""
    mixed = by_path(outcome(depth, paths=("mixed",)))["mixed"]
    assert issued(mixed, "create")["SNP_GCTX_CREATE"] == GUESTS
    own = [
        key
        for key in mixed["phases"]["create"]
        if key.startswith("te_calls.SNP_ACTIVATE.") and ".own." in key
    ]
    assert own


@pytest.mark.slow
@pytest.mark.parametrize("vcpus", [1, 2, 4])
@pytest.mark.parametrize("kind", ["sev", "sev-es"])
def test_a_legacy_launch_takes_the_commands_of_the_fact_sheet(kind: str, vcpus: int) -> None:
    """Sections 6.2 and 6.3: r + V + 5 commands of the launch, r = 1; two for the end; three at the probe.

    Every path issues the same, and pages change hands without any: no RMPUPDATE, no RECLAIM.
    """
    guests = replace(small().guest, vcpus=vcpus)
    told = by_path(outcome(1, arch=(kind,), guest=guests))
    assert {told[path]["realism"] for path in told} == {"built", "software"}
    vmsas = {"LAUNCH_UPDATE_VMSA": GUESTS * vcpus} if kind == "sev-es" else {}
    for path in ("direct", "hosted"):
        assert issued(told[path], "create") == {"LAUNCH_START": GUESTS, "ACTIVATE": GUESTS}
        assert issued(told[path], "load") == vmsas | {
            "LAUNCH_UPDATE_DATA": GUESTS,
            "LAUNCH_MEASURE": 2 * GUESTS,
            "LAUNCH_FINISH": GUESTS,
        }
        assert issued(told[path], "destroy") == {"DEACTIVATE": GUESTS, "DECOMMISSION": GUESTS}
        for phase in ("boot", "run", "page_change"):
            assert issued(told[path], phase) == {}
    asked = [key for key in told["nested"]["phases"]["load"] if key.startswith("te_calls.")]
    assert {key.split(".")[1] for key in asked if key.endswith(".1")} == {
        *vmsas,
        "LAUNCH_UPDATE_DATA",
        "LAUNCH_MEASURE",
        "LAUNCH_FINISH",
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sev", "sev-es"])
def test_kinds_run_at_depth_two_beside_l0s_own_and_in_processes(kind: str) -> None:
    found = run(small(arch=(kind,), depth=2, paths=("nested", "mixed")), Progress())
    apart = run(small(arch=(kind,), depth=2, paths=("nested",)), Progress(), processes=2)
    assert counted(apart) == counted(found)[:1]
