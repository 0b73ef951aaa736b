"""Two comparisons against each other: which numbers changed, and which never do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from actors.compare import diff as d
from protocol.plan.scenario import parse_threshold

Json = dict[str, Any]


def texts(before: list[Json], now: list[Json]) -> list[str]:
    return [change.text() for change in d.changes(before, now)]


def test_a_comparison_equals_itself_in_any_order(results: list[Json]) -> None:
    assert d.changes(results, list(reversed(copy.deepcopy(results)))) == []


def test_a_changed_count_is_named_with_both_numbers(result: Any) -> None:
    before, now = result("nested"), result("nested")
    now["counts"]["exits"] += 1_000
    assert texts([before], [now]) == ["s390 nested depth 1: counts.exits: 307 -> 1,307 (+1,000)"]


def test_counts_of_phases_and_tracking_are_compared_as_well(result: Any) -> None:
    before, now = result("nested"), result("nested")
    now["phases"]["run"]["exits"] -= 1
    now["tracking"]["l0"]["page"]["records"] += 1
    assert [change.name for change in d.changes([before], [now])] == [
        "phases.run.exits",
        "tracking.l0.page.records",
    ]


def test_contention_and_times_are_not_compared(result: Any) -> None:
    before, now = result("nested"), result("nested")
    now["contention"]["absorbed_busy"] += 5
    now["modelled"] = {"total_ns": 7}
    assert d.changes([before], [now]) == []


def test_a_count_that_never_happened_is_zero(result: Any) -> None:
    before, now = result("nested"), result("nested")
    now["counts"]["injections.pgm.1"] = 2
    assert texts([before], [now]) == ["s390 nested depth 1: counts.injections.pgm.1: 0 -> 2 (+2)"]


def test_a_path_that_only_one_side_has_is_not_zero_there(result: Any) -> None:
    one, both = [result("direct")], [result("direct"), result("nested")]
    assert d.changes(one, both) == d.changes(both, one) == []
    assert d.one_sided(one, both) == ["only in this run: s390 nested depth 1"]
    assert d.one_sided(both, one) == ["only in the base: s390 nested depth 1"]


def test_a_phase_that_a_path_lacked_before_is_told_count_by_count(result: Any) -> None:
    """Lacking is not zero: neither for the phase as a whole nor for what is counted in it."""
    found = d.changes([result("hosted", lacks=["swap"])], [result("hosted")])
    in_swap = {change.name: (change.before, change.now) for change in found if ".swap" in change.name}
    assert in_swap["phases.swap.exits"] == (None, 20)
    assert "phases.swap" not in in_swap
    assert {before for before, _ in in_swap.values()} == {None}
    back = d.changes([result("hosted")], [result("hosted", lacks=["swap"])])
    assert ("phases.swap.exits", 20, None) in {(change.name, change.before, change.now) for change in back}


def test_a_phase_that_both_lack_is_no_change(result: Any) -> None:
    assert d.changes([result("hosted", lacks=["swap"])], [result("hosted", lacks=["swap"])]) == []


def test_a_lacking_phase_against_one_in_which_nothing_happened_is_a_change(result: Any) -> None:
    lacking, empty = result("hosted", lacks=["swap"]), result("hosted", lacks=["swap"])
    del empty["phases"]["swap"]
    assert texts([lacking], [empty]) == ["s390 hosted depth 1: phases.swap: - -> 0"]


# -- the base ----------------------------------------------


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_base_is_an_output_or_a_bundle(results: list[Json], tmp_path: Path) -> None:
    base = {"results": results, "scenario": {}}
    assert d.read_base(written(tmp_path / "base.json", base)) == base
    written(tmp_path / "run.json", base)
    assert d.read_base(tmp_path) == base


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no list of results"),
        ({"results": {}}, "no list of results"),
        ({"results": [5]}, r"results\[0\] has no arch"),
        (
            {"results": [{"arch": "a", "path": "p", "depth": True, "counts": {}, "phases": {}}]},
            r"results\[0\]",
        ),
        ({"results": [{"arch": "a", "path": "p", "depth": 1, "counts": [], "phases": {}}]}, r"results\[0\]"),
        ({"results": [], "scenario": 5}, "scenario"),
    ],
    ids=str,
)
def test_what_is_no_comparison_is_refused_with_the_reason(content: object, why: str, tmp_path: Path) -> None:
    with pytest.raises(d.BadBase, match=why):
        d.read_base(written(tmp_path / "base.json", content))


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(d.BadBase, match="No such file"):
        d.read_base(tmp_path / "nothing.json")
    with pytest.raises(d.BadBase, match=r"run\.json: No such file"):
        d.read_base(tmp_path)


def test_odd_values_in_a_base_are_no_numbers(result: Any, tmp_path: Path) -> None:
    odd = result("direct") | {"tracking": [1], "counts": {"exits": 1.5, "a": True, "b": [1], "c": "x"}}
    base = d.read_base(written(tmp_path / "base.json", {"results": [odd]}))
    assert {change.name for change in d.changes(base["results"], base["results"])} == set()


def test_settings_that_differ_are_named_but_for_the_name() -> None:
    before = {"scenario": {"name": "a", "guest": {"vcpus": 2}, "run": {"swap_pages": 1}}}
    now = {"scenario": {"name": "b", "guest": {"vcpus": 4}, "run": {"swap_pages": 1}, "seed": 1}}
    assert d.other_scenario(before, now) == ["guest.vcpus: 2 -> 4", "seed: null -> 1"]


# -- thresholds --------------------------------------------


def test_thresholds_are_judged_on_every_architecture(result: Any) -> None:
    results = [result("nested"), result("nested", arch="sev", scale=10)]
    bounds = (parse_threshold("counts.nested.exits", "< 1000"),)
    judged = d.verdicts(bounds, results)
    assert [(each.arch, each.holds) for each in judged] == [("s390", True), ("sev", False)]
    assert judged[0].text() == "holds: s390 counts.nested.exits < 1000: 307"
    assert judged[1].as_dict() == {
        "what": "counts.nested.exits",
        "wanted": "< 1000",
        "arch": "sev",
        "value": 3043,
        "holds": False,
    }


def test_thresholds_reach_into_phases_and_into_counts_with_labels(result: Any) -> None:
    bounds = (
        parse_threshold("phases.nested.run.exits", "== 160"),
        parse_threshold("counts.nested.te_calls.unpack.memory.passed.1", "== 40"),
        parse_threshold("counts.nested.injections", "== 0"),
    )
    assert [each.holds for each in d.verdicts(bounds, [result("nested")])] == [True, True, True]


def test_what_cannot_be_judged_does_not_hold(result: Any) -> None:
    bounds = (
        parse_threshold("phases.hosted.swap.exits", "< 1000"),
        parse_threshold("counts.mixed.exits", "> 0"),
    )
    lacking, nowhere = d.verdicts(bounds, [result("hosted", lacks=["swap"])])
    assert (lacking.value, lacking.holds, nowhere.arch, nowhere.holds) == (None, False, "any", False)
