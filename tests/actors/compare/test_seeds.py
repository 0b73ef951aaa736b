"""Several seeds of one scenario: what is drawn, and that other seeds stay within what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from actors.compare.bundle import bundle
from actors.compare.progress import Progress, Stopped
from actors.compare.report import report
from actors.compare.run import run
from actors.compare.seeds import chance, over_seeds, seeds_of
from actors.costs import shipped
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario

COUNT = 9  # another seed falls into their range with 80 %
OTHERS = range(1000, 1005)
Json = dict[str, Any]
# On POWER pages that are swapped are drawn, and several of the plan lie in one of the ultravisor's.
DRAWN = Scenario(
    name="drawn",
    arch=("pef",),
    l1=GuestHosts(count=1),
    guest=Guests(per_l1=1, vcpus=1, image_pages=16, touch_pages=64, share_pages=4),
    run=Run(swap_pages=12, page_changes=2, resets=0, reboots=0, deaths=0),
)


@pytest.fixture(scope="module")
def found() -> Json:
    first = run(DRAWN, Progress(), costs=shipped())
    first.seeds.update(over_seeds(DRAWN, first, COUNT, shipped(), Progress()))
    return json.loads(json.dumps(bundle(DRAWN, first, {}, [])))


def test_other_seeds_differ_within_the_interval_that_is_shown(found: Json) -> None:
    rows = found["seeds"]["rows"]
    assert any(len(set(row["exits"])) > 1 for row in rows), "or nothing depends on the seed here"
    inside = 0
    for seed in OTHERS:
        other = run(replace(DRAWN, seed=seed), Progress(), costs=shipped())
        for row, result in zip(rows, other.results, strict=True):
            inside += min(row["exits"]) <= result["counts"]["exits"] <= max(row["exits"])
            inside += min(row["ns"]) <= result["modelled"]["ns"] <= max(row["ns"])
    assert inside >= (chance(COUNT) - 0.1) * 2 * len(rows) * len(OTHERS)


def test_the_report_draws_both_ranges_apart_and_says_what_they_are(found: Json) -> None:
    html = ElementTree.fromstring(report(found))
    (picture,) = (svg for svg in html.iter("svg") if "over seeds" in svg.get("aria-label", ""))
    said = " ".join("".join(picture.itertext()).split())
    for path in ("direct", "nested", "hosted"):
        assert f"pef {path}, seeds" in said
        assert f"pef {path}, costs" in said
    assert sum(each.get("class") == "whisker" for each in picture.iter("path")) == 2 * 3
    assert "Another seed falls between with a probability of 80%" in report(found)


def test_a_report_of_one_seed_has_no_range_over_seeds() -> None:
    outcome = run(DRAWN, Progress(), costs=shipped())
    content = bundle(DRAWN, outcome, {}, [])
    assert "seeds" not in content
    assert "Over the seeds" not in report(json.loads(json.dumps(content)))


def test_seeds_go_on_at_zero_behind_the_largest() -> None:
    last = 2**63 - 1
    assert seeds_of(replace(DRAWN, seed=last), 3) == [last, 0, 1]


def test_a_person_who_stops_gets_the_first_seed_alone() -> None:
    first = run(DRAWN, Progress(), costs=shipped())
    progress = Progress()
    progress.stopped = True
    with pytest.raises(Stopped):
        over_seeds(DRAWN, first, 3, shipped(), progress)


def test_the_command_says_the_range_and_leaves_it_in_the_bundle(tmp_path: Path) -> None:
    given = ("--arch", "pef", "--path", "nested", "--set", "run.reboots=0", "--set", "run.deaths=0")
    done = CliRunner().invoke(app, ["compare", "-q", *given, "--seeds", "3", "--out", str(tmp_path)])
    assert done.exit_code == exit_codes.OK
    assert "Over the seeds" in done.output
    assert len(json.loads((tmp_path / "run.json").read_text())["seeds"]["seeds"]) == 3


def test_agents_run_one_seed(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["compare", "--seeds", "2", "--on", "127.0.0.1:1", "--keys", str(tmp_path), "-q"]
    )
    assert done.exit_code == exit_codes.USAGE
    assert "--seeds" in done.output
