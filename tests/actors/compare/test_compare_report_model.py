"""The report of a real run: modelled time apart from measured, the same bytes for the same seed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from actors.compare.bundle import bundle
from actors.compare.progress import Progress
from actors.compare.report import SIZE, report
from actors.compare.run import run
from actors.costs import shipped
from actors.load.drive import Answer, Block
from actors.load.run import blocks, judged
from actors.scenario import load
from protocol.load.requests import Request

Json = dict[str, Any]
CHROMIUM = os.environ.get("NESTBED_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SMALL = {
    "l1.count": "1",
    "guest.per_l1": "1",
    "guest.touch_pages": "16",
    "guest.image_pages": "8",
    "run.swap_pages": "4",
    "run.reboots": "0",
    "run.deaths": "0",
}


def made(**more: str) -> Json:
    resolved = load(None, flags=SMALL | {name.replace("__", "."): text for name, text in more.items()})
    outcome = run(resolved.scenario, Progress(), costs=shipped())
    return json.loads(json.dumps(bundle(resolved.scenario, outcome, resolved.origins, [])))


@pytest.fixture(scope="module")
def content() -> Json:
    return made()


@pytest.fixture(scope="module")
def loaded(content: Json) -> Json:
    """The same with a load test beside it, by the clock of this program."""
    import trio

    async def run_block(path: str, draw: Any) -> Block:
        slow = 2 if path == "nested" else 1
        return Block(
            [
                Answer(Request(n, n, "run", 0), n * 10**8, n * 10**8, n * 10**8 + slow * (n % 9 + 1) * 10**6)
                for n in range(60)
            ]
        )

    scenario = load(None, flags=SMALL).scenario
    answer = judged(scenario, trio.run(blocks, scenario, 0, run_block))
    return content | {"load": {"clock": "wall", "load": {"s390": answer}}}


def tree(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page)


def texts(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def without_wall(page: str) -> str:
    """The report without what a clock or this machine put into it: whatever is of class wall."""
    html = tree(page)
    for parent in list(html.iter()):
        for child in list(parent):
            if "wall" in child.get("class", "").split():
                parent.remove(child)
    return ElementTree.tostring(html, encoding="unicode")


def test_the_same_seed_makes_the_same_report_but_for_wall_clock(content: Json) -> None:
    again = made()
    again["wall"] = {"seconds": content["wall"]["seconds"] + 1}
    assert report(again) != report(content), "or this says nothing"
    assert without_wall(report(again)) == without_wall(report(content))


def test_two_seeds_differ_within_the_interval_that_is_shown(content: Json) -> None:
    other = made(seed="2")
    for one, two in zip(content["results"], other["results"], strict=True):
        assert one["modelled"]["low_ns"] <= two["modelled"]["ns"] <= one["modelled"]["high_ns"]
    rests = content["sensitivity"]["s390"]
    assert rests["low"] <= other["sensitivity"]["s390"]["ratio"] <= rests["high"]


def test_modelled_time_is_hatched_and_what_a_clock_measured_is_not(loaded: Json) -> None:
    html = tree(report(loaded))
    pictures = {svg.get("aria-label", ""): svg for svg in html.iter("svg")}
    for name, svg in pictures.items():
        drawn = ElementTree.tostring(svg, encoding="unicode")
        if "modelled" in name:
            assert "hatch-" in drawn or "stroke-dasharray" in drawn, name
        if "measured" in name:
            assert "hatch-" not in drawn, name
            assert "stroke-dasharray" not in drawn, name
    assert any("measured by this program" in name for name in pictures)
    hatches = {pattern.get("id") for pattern in html.iter("pattern")}
    used = set(re.findall(r"url\(#([\w-]+)\)", ElementTree.tostring(html, encoding="unicode")))
    assert used <= hatches


def test_it_has_everything_that_is_asked_for(loaded: Json) -> None:
    html = tree(report(loaded))
    said = texts(html)
    for heading in (
        "What was run",
        "What that rests on",
        "Break-even in modelled time",
        "Under load",
        "Depth",
        "How a page becomes secure",
        "A host reboots with 8 guests of 4 GiB",
        "Published figures",
        "Sources of all costs",
    ):
        assert heading in said, heading
    assert "NOT reproduced" in said
    assert "fitted" in said
    assert len(report(loaded).encode()) < SIZE < 400_000


def test_a_report_with_many_traced_operations_stays_small_and_shows_some_of_each(content: Json) -> None:
    row = {
        "depth": 1, "begin_ns": 0, "end_ns": 10, "treatment": "modified", "exits": 1,
        "message": "m" * 200, "at": "kvm",
    }  # fmt: skip
    traces = [
        {
            "arch": arch, "path": "nested", "operation": f"create {n}", "modelled_ns": 10, "more_rows": 0,
            "rows": [row] * 20,
        }
        for arch in ("s390", "tdx")
        for n in range(40)
    ]  # fmt: skip
    page = report(content | {"traces": traces})
    assert len(page.encode()) < SIZE
    shown = {arch: page.count(f"<summary>{arch} nested: create") for arch in ("s390", "tdx")}
    assert 0 < shown["tdx"] <= shown["s390"] <= shown["tdx"] + 1
    assert f"{80 - sum(shown.values())} of 80 are in run.json" in page


def test_the_published_points_lie_on_the_depth_curve_that_was_fitted_to_them() -> None:
    html = tree(report(made(arch="tdx", run__swap_pages="0", run__resets="0")))
    chart = next(svg for svg in html.iter("svg") if "null exit" in svg.get("aria-label", ""))
    line = next(iter(chart.iter("polyline"))).get("points", "")
    places = [tuple(map(float, point.split(","))) for point in line.split()]
    circles = [(float(c.get("cx", "0")), float(c.get("cy", "0"))) for c in chart.iter("circle")]
    assert len(circles) == 3
    for (x, y), (wanted_x, wanted_y) in zip(circles, places, strict=False):
        assert (x, y) == pytest.approx((wanted_x, wanted_y), abs=3)


# -- the command -------------------------------------------


def test_a_load_test_in_a_bundle_is_shown_and_a_broken_one_left_out(tmp_path: Path, loaded: Json) -> None:
    plain = copy.deepcopy(loaded)
    beside = plain.pop("load")
    (tmp_path / "run.json").write_text(json.dumps(plain))
    (tmp_path / "load.json").write_text(json.dumps(beside))
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == exit_codes.OK
    assert "Under load" in (tmp_path / "report.html").read_text()
    for broken in (
        "{}",
        "[]",
        "x",
        '{"clock": "wall", "load": {"s390": {"paths": {"nested": {"latency": 5}}}}}',
    ):
        (tmp_path / "load.json").write_text(broken)
        done = CliRunner().invoke(app, ["report", str(tmp_path)])
        assert done.exit_code == exit_codes.OK
        assert "load.json: left out: " in done.stderr
        assert "Under load" not in (tmp_path / "report.html").read_text()


def test_two_runs_are_told_apart(tmp_path: Path, content: Json) -> None:
    for name, run_ in (("a", content), ("b", made(run__swap_pages="8"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run_))
    same = CliRunner().invoke(app, ["report", "--diff", str(tmp_path / "a"), str(tmp_path / "a")])
    assert (same.exit_code, same.stdout.strip()) == (exit_codes.OK, "no count differs")
    done = CliRunner().invoke(app, ["report", "--diff", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == exit_codes.MISSED
    assert "other setting: run.swap_pages: 4 -> 8" in done.stdout
    assert "modelled: s390 nested depth 1: " in done.stdout
    page = tree((tmp_path / "b" / "diff.html").read_text())
    assert "run.swap_pages: 4 -> 8" in texts(page)
    assert list(page.iter("script")) == []


@pytest.mark.parametrize("arguments", [("a", "b"), ("--diff", "a")])
def test_a_difference_needs_two_runs(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["report", *arguments])
    assert done.exit_code == exit_codes.USAGE
    assert "--diff compares two runs" in done.stderr


# -- in a browser ------------------------------------------


def shown(folder: Path, page: str) -> tuple[Path, list[str], set[str]]:
    """A picture of a page, what its console said, and what it (and not the browser by itself) asked for."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (Debian: apt install chromium)")
    file, net, shot = folder / "report.html", folder / "net.json", folder / "report.png"
    file.write_text(page)
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}",
            "--window-size=1100,2000", f"--screenshot={shot}", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shot.is_file(), done.stderr[-2000:]
    asked = set()
    for line in net.read_text().splitlines():
        found = re.search(r'"initiator":"([^"]*)".*"url":"([^"]+)"', line)
        if found and found[1] != "not an origin":
            asked.add(found[2])
    return shot, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.slow
def test_a_browser_shows_it_without_a_request_or_a_complaint(tmp_path: Path, loaded: Json) -> None:
    """The picture is kept where NESTBED_ARTIFACTS says."""
    shot, complaints, asked = shown(tmp_path, report(loaded))
    assert shot.stat().st_size > 20_000, "a picture with something on it"
    assert complaints == []
    assert asked == set()
    if artefacts := os.environ.get("NESTBED_ARTIFACTS"):
        Path(artefacts).mkdir(parents=True, exist_ok=True)
        shutil.copy(shot, Path(artefacts) / "report.png")


@pytest.mark.slow
def test_a_page_that_asks_and_complains_would_be_noticed(tmp_path: Path) -> None:
    page = '<img src="http://127.0.0.1:9/x.png"/><script>console.error("wrong")</script>'
    _, complaints, asked = shown(tmp_path, f"<!DOCTYPE html><html><body>{page}</body></html>")
    assert asked == {"http://127.0.0.1:9/x.png"}
    assert any("wrong" in complaint for complaint in complaints)
