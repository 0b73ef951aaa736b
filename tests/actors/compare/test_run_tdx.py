"""A whole comparison with TDs: every path to its end, exact counts, nothing left behind."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lives
from lives import EXITS, by_path

from actors.compare.outcome import Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from protocol.arch.tdx.firmware import mrtd
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.profiles import PROFILES
from protocol.plan.fit import FIRST_PAGES, mistakes
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario, Strategy

LIFE = ("create", "load", "boot", "run", "page_change", "destroy")
GUESTS, VCPUS, IMAGE, TOUCHED, SHARED, CHANGES = 4, 2, 5, 12, 3, 4
TABLES = 3  # of the Secure EPT: a guest has less than 2 MiB
Json = dict[str, Any]


def small(**changes: Any) -> Scenario:
    """Two hosts with two guests each, and everything happens to them."""
    base = Scenario(
        name="small",
        arch=("tdx",),
        l1=GuestHosts(count=2, memory_mib=256, cpus=2),
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


def issued(result: Json, phase: str) -> dict[str, int]:
    """Entries aside."""
    return lives.issued(result, phase, but=("vp_enter",))


@pytest.fixture(scope="module", params=[1, 2])
def told(request: pytest.FixtureRequest) -> Outcome:
    return outcome(request.param)


@pytest.mark.slow
def test_a_tds_life_takes_the_calls_of_the_fact_sheet(told: Outcome) -> None:
    """Counted by hand: what a guest has of pages and VCPUs says how many of each."""
    direct = by_path(told)["direct"]
    assert issued(direct, "create") == {
        "mng_create": GUESTS,
        "mng_key_config": GUESTS,
        "mng_addcx": 6 * GUESTS,
        "mng_init": GUESTS,
        "mng_rd": 2 * GUESTS,
        "vp_create": VCPUS * GUESTS,
        "vp_addcx": 5 * VCPUS * GUESTS,
        "vp_init": VCPUS * GUESTS,
        "vp_wr": 4 * VCPUS * GUESTS,
    }
    assert issued(direct, "load") == {
        "mem_sept_add": TABLES * GUESTS,
        "mem_page_add": IMAGE * GUESTS,
        "mr_extend": 16 * IMAGE * GUESTS,
        "mr_finalize": GUESTS,
    }
    removals = dict.fromkeys(
        ("mem_range_block", "mem_track", "mem_page_remove", "phymem_page_wbinvd"), SHARED * GUESTS
    )
    # Every buffer is accepted, then shared.
    assert issued(direct, "boot") == {"mem_page_aug": (TOUCHED + SHARED) * GUESTS, **removals}
    assert issued(direct, "run") == {}
    half = CHANGES // 2 * GUESTS
    assert issued(direct, "page_change") == dict.fromkeys((*removals, "mem_page_aug"), half)
    assert issued(direct, "destroy") == {
        "vp_flush": VCPUS * GUESTS,
        "mng_vpflushdone": GUESTS,
        "phymem_cache_wb": GUESTS,
        "mng_key_freeid": GUESTS,
        "phymem_page_reclaim": (IMAGE + TOUCHED + TABLES + 6 * VCPUS + 6 + 1) * GUESTS,
        "phymem_page_wbinvd": GUESTS,
    }


@pytest.mark.slow
def test_the_same_calls_of_a_tds_life_reach_the_module_on_every_path(told: Outcome) -> None:
    paths = by_path(told)
    assert set(paths) == {"direct", "nested", "hosted"}
    for phase in LIFE:
        direct = issued(paths["direct"], phase)
        assert issued(paths["hosted"], phase) == direct, phase
        assert issued(paths["nested"], phase) == direct, phase


@pytest.mark.slow
def test_a_guest_hosts_own_module_needs_nothing_of_the_real_one(told: Outcome) -> None:
    paths = by_path(told)
    assert issued(paths["direct"], "host_setup")["sys_tdmr_init"] == 1
    assert issued(paths["nested"], "host_setup") == {}


@pytest.mark.slow
def test_exits_grow_with_nesting_and_not_with_hosting(told: Outcome) -> None:
    paths = by_path(told)
    for phase in ("boot", "run", "page_change"):
        direct = paths["direct"]["phases"][phase]["exits"]
        assert paths["hosted"]["phases"][phase]["exits"] == direct, phase
        assert paths["nested"]["phases"][phase]["exits"] > direct, phase


@pytest.mark.slow
def test_an_owners_reboot_is_cleaned_up_without_its_help(told: Outcome) -> None:
    """One host reboots and one dies: all pages of both its TDs are taken back from below."""
    counts = by_path(told)["nested"]["counts"]
    pages = IMAGE + TOUCHED + TABLES + 6 * VCPUS + 6 + 1
    for cause in ("l1_reboot", "l1_crash"):
        assert counts[f"teardown.td.{cause}"] == GUESTS // 2
        assert counts[f"teardown.vcpu.{cause}"] == GUESTS // 2 * VCPUS
        assert counts[f"teardown.page.{cause}"] == GUESTS // 2 * pages


@pytest.mark.slow
def test_what_is_lacking_is_absent_with_its_reason_and_never_zero(told: Outcome) -> None:
    for result in told.results:
        for phase in ("swap", "reset"):
            assert result["phases"][phase] is None
            assert result["absent"][f"phases.{phase}"]
        assert result["modelled"]["ns"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_two_runs_count_the_same(depth: int) -> None:
    """Whichever host comes first: they reboot and die side by side, so locks and write-backs may meet."""
    everybody = Run(page_changes=CHANGES, reboots=5, deaths=4)
    hosts = GuestHosts(count=4, memory_mib=256, cpus=2)
    first, second, packed = (
        outcome(depth, run=everybody, l1=hosts, paths=("nested",), transport=transport)
        for transport in ("memory", "memory", "packed")
    )
    for again in (second, packed):
        for one, other in zip(first.results, again.results, strict=True):
            assert one | {"contention": {}} == other | {"contention": {}}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_the_measurement_is_the_same_on_every_path(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that a hosted guest's image travels in, too: neither path, depth nor neighbours are in it."""
    found: list[bytes] = []
    perform = Machine.perform

    def watched(machine: Machine, spec: Any, call: Any) -> Any:
        tdr = call.r[1] >> 12
        status = yield from perform(machine, spec, call)
        if spec.name == "mr_finalize":
            found.append(machine.tds[tdr].mrtd)
        return status

    monkeypatch.setattr(Machine, "perform", watched)
    image = tmp_path / "firmware"
    image.write_bytes(bytes(range(256)) * 16 * IMAGE)
    outcome(depth, guest=replace(small().guest, image=str(image)))
    assert len(found) >= 3 * GUESTS  # direct, nested, hosted; some are loaded again after a reboot
    assert set(found) == {mrtd(image.read_bytes(), FIRST_PAGES << 12)}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_evidence_takes_one_call_of_the_guest_and_one_exit(depth: int) -> None:
    """And the first time a page of the guest's own, and a buffer that it shares."""
    found = by_path(outcome(depth, run=Run(attestations=3)))
    for path in ("direct", "nested", "hosted"):
        phase = found[path]["phases"]["attest"]
        assert phase["te_calls.tdg_mr_report.guest.native.guest"] == 3 * GUESTS, path
        assert issued(found[path], "attest")["mem_page_aug"] == 3 * GUESTS
    quotes = {name: n for name, n in found["direct"]["phases"]["attest"].items() if ".tdvmcall." in name}
    assert sum(quotes.values()) == (3 + 1) * GUESTS  # each quote, and MapGPA of the buffer


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_runs_of_pages_in_one_step_count_the_same(depth: int) -> None:
    """Enough pages that a run crosses tables: all counts, peaks and phases are those of single calls."""
    guests = Guests(per_l1=2, memory_mib=8, vcpus=2, image_pages=IMAGE, touch_pages=1200, share_pages=20)
    single, bulk = (outcome(depth, guest=guests, fidelity=fidelity) for fidelity in ("call", "bulk"))
    for one, other in zip(single.results, bulk.results, strict=True):
        assert one | {"contention": {}} == other | {"contention": {}}


@pytest.mark.parametrize("fidelity", ["call", "bulk"])
@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_memory_that_is_asked_for_ahead_is_all_there_before_the_guest_runs(depth: int, fidelity: str) -> None:
    """Pages are added while the TD is loaded; what it then accepts makes nobody leave."""
    usual, ahead = (
        by_path(outcome(depth, strategy=Strategy(pages=pages), fidelity=fidelity))
        for pages in ("two_fault", "prefault")
    )
    for path, result in usual.items():
        assert issued(ahead[path], "load")["mem_page_aug"] == GUESTS * (256 - IMAGE), path  # of 1 MiB
        assert "mem_page_aug" not in issued(ahead[path], "boot")
        accepted = "te_calls.tdg_mem_page_accept.guest.native.guest"
        assert accepted in result["phases"]["boot"]
        assert ahead[path]["phases"]["boot"]["exits"] < result["phases"]["boot"]["exits"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"strategy": Strategy(pages="merged_l1")}, "strategy.pages"),
        ({"strategy": Strategy(pages="merged_l0")}, "strategy.pages"),
        ({"strategy": Strategy(teardown="async")}, "strategy.teardown"),
        ({"strategy": Strategy(handles="mapped")}, "strategy.handles"),
        ({"strategy": Strategy(donation="bounded")}, "strategy.donation"),
        ({"run": Run(level_swaps=1)}, "run.level_swaps"),
        ({"l1": GuestHosts(memory_mib=127)}, "l1.memory_mib"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(changes: dict[str, Any], where: str) -> None:
    (found,) = mistakes(small(**changes), {"tdx": PROFILES["small"]})
    assert found.path == where
    assert found.hint or "not built" in found.allowed or "own range" in found.allowed


def test_a_host_has_a_cpu_in_each_package() -> None:
    (found,) = mistakes(small(l1=GuestHosts(memory_mib=256, cpus=1)), {"tdx": PROFILES["small-2p"]})
    assert (found.path, found.value) == ("l1.cpus", 1)
    assert found.allowed.startswith("at least 2")


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
    """Half of the TDs are L0's own, with KeyIDs of its own; nothing of either is left."""
    mixed = by_path(outcome(depth, paths=("mixed",)))["mixed"]
    assert issued(mixed, "create")["mng_create"] == GUESTS
    made = {key: n for key, n in mixed["phases"]["create"].items() if key.startswith("te_calls.mng_create.")}
    assert sum(n for key, n in made.items() if ".own." in key) == GUESTS // 2
    assert sum(n for key, n in made.items() if ".modified." in key) == GUESTS // 2 * depth
