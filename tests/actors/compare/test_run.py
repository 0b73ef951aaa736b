"""A whole comparison: the same plan on every path, exact counts, nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.requester import Requester
from protocol.arch.s390.comparison import COMPARISON
from protocol.arch.s390.evidence.dump import DumpError, open_dump
from protocol.arch.s390.host.dump import unpack
from protocol.hosting.limits import CHUNK_BYTES
from protocol.plan.fit import PHASES
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario, Strategy

LIFE = (
    "create",
    "load",
    "boot",
    "attest",
    "secret",
    "run",
    "page_change",
    "swap",
    "reset",
    "dump",
    "destroy",
)
Json = dict[str, Any]


def small(**changes: Any) -> Scenario:
    """Two hosts with two guests each, and everything happens to them."""
    exits = Exits(ExitKind(3, "kernel"), ExitKind(2, "vmm"), ExitKind(2, "vmm"), ExitKind(2, "kernel"))
    base = Scenario(
        name="small",
        paths=("direct", "nested", "hosted", "mixed"),
        l1=GuestHosts(count=2, memory_mib=2060, cpus=2),
        guest=Guests(per_l1=2, memory_mib=1, vcpus=2, image_pages=5, touch_pages=12, share_pages=3),
        run=Run(
            exits=exits,
            swap_pages=3,
            page_changes=4,
            attestations=2,
            secrets=1,
            resets=2,
            dumps=1,
            reboots=1,
            deaths=1,
        ),
    )
    return replace(base, **changes)


def results(scenario: Scenario) -> dict[str, Json]:
    outcome = run(scenario, Progress())
    assert not outcome.stopped
    return {result["path"]: result for result in outcome.results}


@pytest.fixture(scope="module")
def told() -> dict[str, Json]:
    return results(small())


def without(result: Json, *names: str) -> Json:
    return {name: value for name, value in result.items() if name not in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"transport": "packed"}],
    ids=["again", "every message packed"],
)
def test_counts_depend_on_the_scenario_and_on_nothing_else(
    told: dict[str, Json], changes: dict[str, Any]
) -> None:
    again = results(small(**changes))
    for path, result in told.items():
        assert without(again[path], "contention") == without(result, "contention"), path


@pytest.mark.slow
def test_bulk_and_call_count_the_same(told: dict[str, Json]) -> None:
    bulk = results(small(fidelity="bulk"))
    for path, result in told.items():
        assert without(bulk[path], "contention") == without(result, "contention"), path


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_hosts_that_come_back_at_once_hold_two_lives_and_count_alike_however_they_run(depth: int) -> None:
    """Two reboots, pages released behind the host's back; the peak of both lives is a count."""
    storm = replace(Run(), swap_pages=0, page_changes=0, resets=0, reboots=2, deaths=1)
    guest = Guests(per_l1=1, memory_mib=1, vcpus=1, image_pages=40, touch_pages=100, share_pages=2)
    scenario = small(
        paths=("nested",),
        depth=depth,
        l1=GuestHosts(count=1, memory_mib=2060, cpus=2),
        guest=guest,
        run=storm,
        strategy=Strategy(teardown="async"),
    )
    (one,) = run(scenario, Progress()).results
    (bulk,) = run(replace(scenario, fidelity="bulk"), Progress()).results
    (apart,) = run(scenario, Progress(), processes=2).results
    assert without(bulk, "contention") == without(one, "contention") == without(apart, "contention")
    old = 40 + 100 + 2 + 2
    assert one["counts"]["teardown.left_over.l1_reboot"] == 2 * old
    assert one["counts"]["peaks.old_and_new_pages"] >= old
    assert one["counts"]["peaks.pages_held_twice"] > 0
    sync = run(replace(scenario, strategy=Strategy()), Progress()).results[0]["counts"]
    assert not [key for key in sync if key.startswith("peaks")]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("depth", [1, 2])
def test_no_count_shows_in_how_many_processes_it_ran(depth: int, processes: int) -> None:
    scenario = small(paths=("nested",), depth=depth)
    one = run(scenario, Progress()).results
    many = run(scenario, Progress(), processes=processes).results
    assert [without(result, "contention") for result in many] == [
        without(result, "contention") for result in one
    ]


@pytest.mark.parametrize("path", ["nested", "hosted", "mixed"])
def test_the_same_calls_reach_the_trusted_entity_on_every_path(told: dict[str, Json], path: str) -> None:
    """Like for like: who issues a call differs, not which ones the guests' lives take."""
    for phase in LIFE:
        assert issued(told[path], phase) == issued(told["direct"], phase), phase


def issued(result: Json, phase: str) -> dict[str, int]:
    """Calls at the real Trusted Entity in one phase, by their name."""
    found: dict[str, int] = {}
    for key, number in result["phases"][phase].items():
        family, _, labels = key.partition(".")
        if family == "te_issued" and labels:
            name = labels.split(".")[0]
            found[name] = found.get(name, 0) + number
    return found


def test_a_direct_guest_traps_to_l0_alone(told: dict[str, Json]) -> None:
    counts = told["direct"]["counts"]
    assert not any(key.startswith(("reflections", "injections", "translations")) for key in counts)
    assert counts["exits"] == counts["entries"]


def test_hosting_adds_messages_and_nothing_per_page_or_exit(told: dict[str, Json]) -> None:
    for phase in ("boot", "run", "page_change", "swap"):
        assert told["hosted"]["phases"][phase]["exits"] == told["direct"]["phases"][phase]["exits"], phase
    assert told["hosted"]["counts"]["hosting.start"] == 4 + 2 * 2  # a reboot and a death fill up again
    assert "hosting" not in told["nested"]["counts"]


def test_nesting_costs_at_every_event(told: dict[str, Json]) -> None:
    for phase in ("create", "load", "boot", "attest", "secret", "run", "swap", "reset", "dump", "destroy"):
        nested = told["nested"]["phases"][phase]["exits"]
        assert nested > told["direct"]["phases"].get(phase, {}).get("exits", 0), phase


def test_evidence_and_secrets_are_the_guests_own_affair(told: dict[str, Json]) -> None:
    """Calls of four guests at the real Ultravisor: no hypervisor is on the way, and no owner is asked."""
    for path, result in told.items():
        counts = result["counts"]
        assert counts["te_calls.attest.guest.native.guest"] == 2 * 4, path
        assert counts["te_calls.add_secret.guest.native.guest"] == 4, path
        assert not [key for key in counts if key.startswith(("te_issued.attest", "te_issued.add_secret"))]
    for phase in ("attest", "secret"):
        direct, hosted = (told[path]["phases"][phase] for path in ("direct", "hosted"))
        assert hosted == direct, phase


def test_dumps_take_the_same_calls_and_travel_where_somebody_else_makes_them(told: dict[str, Json]) -> None:
    made = issued(told["direct"], "dump")
    assert {name: n for name, n in made.items() if name.startswith("dump")} == {
        "dump_init": 4,
        "dump_cpu": 4 * 2,
        "dump_storage_state": 4 * 1,
        "dump_complete": 4,
    }
    exported = made["convert_from_secure"]
    assert made["pin"] == exported, "tried first, for each page that refused the host's load"
    assert told["nested"]["phases"]["dump"]["injections.pgm_3d"] == exported
    for path, guests in (("hosted", 4), ("mixed", 2)):
        phase = told[path]["phases"]["dump"]
        bytes_each = phase["copied_bytes.hosting_dump"] / guests
        assert exported // 4 * 4096 < bytes_each < (exported // 4 + 16) * 4096, (
            "the memory, and what seals it"
        )
        assert phase["hosting.dump"] == guests * -(-bytes_each // CHUNK_BYTES)


def test_a_hosted_guests_owner_opens_the_dump_that_l0_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key that never left it."""
    got: list[bytes] = []
    fetch = Requester.dump

    async def kept(self: Requester, guest: int) -> bytes:
        got.append(await fetch(self, guest))
        return got[-1]

    monkeypatch.setattr(Requester, "dump", kept)
    scenario = small(paths=("hosted",))
    run(scenario, Progress())
    assert len(set(got)) == len(got) == 4, "one of each guest, each sealed anew"
    image = COMPARISON.image(scenario.seed, scenario.guest.image_pages, None)
    for data in got:
        dump, pages = unpack(data)
        opened = open_dump(image.cck, dump.completion, dump.cpus, dump.storage_state, pages)
        assert len(opened.cpus) == scenario.guest.vcpus
        assert opened.read(0x10000, 0x1000).strip(b"\0"), "the image, as the guest has it"
        assert opened.pages[16] != pages[16], "which L0 cannot read"
        with pytest.raises(DumpError):
            open_dump(bytes(32), dump.completion, dump.cpus, dump.storage_state, pages)


def test_a_reboot_is_cleaned_up_with_no_call_of_the_guest_host(told: dict[str, Json]) -> None:
    phase = told["nested"]["phases"]["owner_reboot"]
    assert phase["teardown"] > 0
    made = {key for key in phase if key.startswith("te_calls.") and not key.endswith(".0")}
    assert made == {"te_calls.query.init.emulated.1", "te_calls.init.init.emulated.1"}, "it only boots again"


def test_what_a_path_lacks_is_null_with_its_reason(told: dict[str, Json]) -> None:
    for result in told.values():
        for name, why in result["absent"].items():
            assert result["phases"][name.removeprefix("phases.")] is None
            assert why
    assert told["direct"]["phases"]["owner_reboot"] is None
    assert told["nested"]["phases"]["owner_reboot"] is not None


def test_the_mixed_path_runs_both_kinds_at_once(told: dict[str, Json]) -> None:
    counts = told["mixed"]["counts"]
    assert counts["hosting.start"] == 2 + 2
    assert counts["reflections"] > 0


@pytest.mark.slow
def test_a_level_more_costs_more_and_shows_the_guest_host_the_same(told: dict[str, Json]) -> None:
    deeper = results(small(depth=2, paths=("nested",)))["nested"]
    assert deeper["counts"]["exits"] > 2 * told["nested"]["counts"]["exits"]
    for phase in LIFE:
        assert issued(deeper, phase) == issued(told["nested"], phase), phase


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        Strategy(handles="mapped"),
        Strategy(donation="bounded"),
        Strategy(donation="off"),
        Strategy(teardown="async"),
        Strategy(pages="merged_l1"),
        Strategy(pages="merged_l0"),
        Strategy(pages="prefault"),
    ],
    ids=lambda strategy: "-".join(
        getattr(strategy, name)
        for name in strategy.__slots__
        if getattr(strategy, name) != getattr(Strategy(), name)
    ),
)
def test_every_strategy_runs_and_leaves_nothing(strategy: Strategy) -> None:
    paths = ("nested",) if strategy.pages == "merged_l0" else ("direct", "nested")
    found = results(small(strategy=strategy, paths=paths))
    assert found["nested"]["counts"]["exits"] > 0


def test_a_person_may_stop_it_and_keeps_what_is_finished() -> None:
    class Impatient(Progress):
        def phase(self, path: str, phase: str, done: int, total: int) -> None:
            self.stopped = path == "nested" and phase == "boot"
            super().phase(path, phase, done, total)

    outcome = run(small(paths=("direct", "nested")), Impatient())
    assert outcome.stopped
    assert [result["path"] for result in outcome.results] == ["direct"]
    assert outcome.claims


def test_an_interruption_is_told_as_itself() -> None:
    class Broken(Progress):
        def phase(self, path: str, phase: str, done: int, total: int) -> None:
            raise OSError("no more progress")

    with pytest.raises(OSError, match="no more progress"):
        run(small(paths=("direct",)), Broken())


def test_every_phase_of_a_result_is_one_of_the_plan(told: dict[str, Json]) -> None:
    known = {*PHASES, "refill", "refill_again"}
    for result in told.values():
        assert set(result["phases"]) <= known
