"""A claim of the talk is judged by what was counted and may fail; it is silent where nothing speaks of it."""

from __future__ import annotations

from typing import Any

import pytest

from actors.compare.claims import CLAIMS, claims
from actors.compare.outcome import Json
from protocol.arch import load

S390 = list(load("s390").calls.values())


def result(path: str, counts: dict[str, int], tracking: Json | None = None, **phases: dict[str, int]) -> Json:
    """A path's result; what is counted in a phase counts in all, too."""
    return {"path": path, "counts": counts, "phases": phases, "tracking": tracking or {}}


def judged(claim: str, *results: Json, handles: str = "passed") -> Any:
    """The verdict on the one claim that begins so; "silent" where there is none."""
    found = [c["holds"] for c in claims("s390", S390, results, handles) if c["claim"].startswith(claim)]
    return found[0] if found else "silent"


QUERY, CREATE = "te_calls.query.init", "te_calls.create_sec_config.vm"


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({f"{QUERY}.emulated.1": 2}, True),
        ({f"{QUERY}.emulated.1": 2, "te_issued.query.0": 1}, True),
        ({f"{QUERY}.emulated.1": 2, "te_issued.query.1": 1}, False),
        ({"te_issued.query.1": 1}, False),
        ({}, "silent"),
    ],
    ids=["emulated", "L0's own", "one went through", "all went through", "no set-up"],
)
def test_set_up_is_emulated_whole(counts: dict[str, int], verdict: object) -> None:
    assert judged("set-up of the Trusted Entity", result("nested", counts)) == verdict


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ({f"{QUERY}.emulated.1": 2, f"{CREATE}.passed.1": 4}, True),
        ({f"{QUERY}.passed.1": 2, f"{CREATE}.emulated.1": 4}, False),
        ({f"{QUERY}.emulated.1": 2, f"{CREATE}.emulated.0": 4}, True),
    ],
    ids=["falls", "rises", "of guest hosts only"],
)
def test_less_is_emulated_higher_up(counts: dict[str, int], verdict: bool) -> None:
    claim = "the higher the call, the less is emulated: by the calls"
    assert judged(claim, result("nested", counts)) is verdict


def test_a_handle_map_breaks_the_claim_and_asking_for_one_silences_it() -> None:
    claim = "real handles can be passed on"
    assert judged(claim, result("nested", {})) is True
    assert judged(claim, result("nested", {"translations.handle": 1})) is False
    assert judged(claim, result("nested", {}), handles="mapped") == "silent"


@pytest.mark.parametrize(
    ("exits", "pages", "verdict"), [(110, 10, True), (109, 10, False), (500, 0, "silent")]
)
def test_a_page_request_is_an_exit_more(exits: int, pages: int, verdict: object) -> None:
    direct = result("direct", {}, boot={"exits": 100})
    nested = result("nested", {}, boot={"exits": exits, "te_calls.import.memory.modified.1": pages})
    assert judged("every page request", direct, nested) == verdict


def test_exceptions_are_injected_again() -> None:
    claim = "memory exceptions"
    assert judged(claim, result("nested", {"injections.pgm_3e": 1})) is True
    assert judged(claim, result("nested", {"injections.vsock": 9})) is False


def test_a_reboot_needs_calls_at_the_trusted_entity() -> None:
    claim = "a sudden reboot"
    released = {"teardown.page.l1_reboot": 7}
    assert judged(claim, result("nested", released, owner_reboot={"te_issued.destroy.1": 3})) is True
    assert judged(claim, result("nested", released, owner_reboot={"exits": 2})) is False
    assert judged(claim, result("nested", {})) == "silent"


def test_hosting_against_nesting_counts_the_phases_that_both_have() -> None:
    nested = result("nested", {}, boot={"exits": 20}, refill={"exits": 900})
    hosted = {**result("hosted", {}, boot={"exits": 30}), "phases": {"boot": {"exits": 30}, "refill": None}}
    assert judged("hosting costs fewer exits", nested, hosted) is False
    hosted["phases"]["boot"]["exits"] = 10
    assert judged("hosting costs fewer exits", nested, hosted) is True


def test_more_tracking_is_read_as_kinds_and_as_bytes() -> None:
    plane = {"control": {"bytes": 100}}
    nested = result("nested", {"tracking_updates.te_context.create.l0": 1}, {"l0": plane})
    kinds = ("requester", "te_object", "lease")
    hosted = result(
        "hosted", {f"tracking_updates.{kind}.create.l0": 1 for kind in kinds}, {"l0": plane, "l1": plane}
    )
    assert judged("hosting needs more host tracking: bytes", nested, hosted) is True
    assert (
        judged(
            "hosting needs more host tracking: bytes",
            hosted | {"path": "nested"},
            nested | {"path": "hosted"},
        )
        is False
    )
    assert judged("hosting needs more host tracking: kinds", nested, hosted) is True
    few = result(
        "hosted", {"tracking_updates.lease.create.l0": 9, "tracking_updates.secure_page.create.l0": 9}
    )
    assert judged("hosting needs more host tracking: kinds", nested, few) is False


def test_of_one_path_alone_only_the_call_table_can_be_judged() -> None:
    assert {c["by"] for c in claims("s390", S390, [result("direct", {})], "passed")} == {"construction"}
    assert len({text for text, _ in CLAIMS}) == len(CLAIMS)
