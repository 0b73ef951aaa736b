"""`./x bench --growth`: curves are measured, drawn point by point, and counts are held to their laws."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import run as bench
from benchmarks.growth import run as growth
from benchmarks.growth.curve import Curve, Kind, Law, holds, power
from benchmarks.growth.ground import Ground, guests_at_most
from benchmarks.growth.measures import DIMENSIONS, FULL, QUICK
from benchmarks.growth.page import found, report
from benchmarks.growth.picture import picture
from benchmarks.steps import steps
from benchmarks.uv_calls import cheap_calls, prepared

TINY = replace(QUICK, guests=(2, 4), pages=(16, 32, 64), hosts=(1, 2), depths=(0, 1, 2, 3), traced=4)


def curve(points: list[tuple[int, float]], law: Law = Law.LINEAR, kind: Kind = Kind.COUNT) -> Curve:
    return Curve("pages", "s390", "nested", kind, "something", law, tuple(points))


# -- laws ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "values", "kept"),
    [
        (Law.SAME, [7, 7, 7], True),
        (Law.SAME, [7, 7, 8], False),
        (Law.LINEAR, [50, 98, 194], True),
        (Law.LINEAR, [50, 98, 195], False),
        (Law.DOUBLING, [2, 22, 62, 142], True),
        (Law.DOUBLING, [2, 22, 62, 143], False),
    ],
)
def test_a_count_follows_its_law_to_the_unit(law: Law, values: list[float], kept: bool) -> None:
    sizes = range(len(values)) if law is Law.DOUBLING else (16, 32, 64)
    assert holds(curve(list(zip(sizes, values, strict=True)), law)) is kept


def test_whole_tables_are_in_proportion_and_parts_of_them_are_not() -> None:
    """A table more for every 256 pages: linear from the first whole ones on, not across one that is begun."""
    points = [(n, 3.0 * n + -(-n // 256)) for n in (16, 64, 1024, 4096, 16384)]
    assert holds(curve(points)) is True
    assert holds(curve([*points[:-1], (16384, points[-1][1] + 1)])) is False


def test_what_could_not_be_contradicted_does_not_hold() -> None:
    assert holds(curve([(16, 1.0), (32, 2.0)])) is None
    assert found(curve([(16, 1.0), (32, 2.0)])) == "too few points"


def test_a_power_is_fitted_to_large_n() -> None:
    square = curve([(n, 5.0 * n * n) for n in (1, 2, 4, 8)], kind=Kind.CPU)
    assert power(square) == pytest.approx(2)
    begun = curve([(n, 1000.0 + 10 * n) for n in (1, 10, 1_000, 100_000, 10_000_000)], kind=Kind.MEMORY)
    assert power(begun) == pytest.approx(1, abs=0.05)
    depth = curve([(0, 10.0), (1, 12.0), (2, 14.0), (4, 18.0)], kind=Kind.CPU)
    assert power(depth) == pytest.approx(1), "what depth 0 costs is no part of what a level costs"


# -- what is counted -----------------------------------------------------------------------


def test_an_ultravisor_call_at_depth_d_costs_one_less_than_two_to_the_d() -> None:
    exits = []
    for depth in range(4):
        host = prepared(depth)
        before = host.rig.ledger.flat().get("exits", 0)
        cheap_calls(host, 1)
        exits.append(host.rig.ledger.flat().get("exits", 0) - before)
    assert exits == [2**depth - 1 for depth in range(4)]


# Where all guests are looked at nevertheless, and why that may be.
LOOKS = {
    "protocol.arch.sev.books.Platform.free_handle": "a table of 1,024, the lowest free one is wanted",
    "protocol.arch.tdx.nesting.keys.really_write_back": "there are no more of them than KeyIDs",
    "protocol.arch.tdx.nesting.memory.flush_page": "there are no more of them than KeyIDs",
}


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("arch", ["s390", "sev", "tdx", "pef"])
def test_a_guest_more_is_made_and_ended_without_a_look_at_all_others(arch: str, depth: int) -> None:
    ground, have, found = Ground(arch, depth, guests=16), 0, []
    for others in (4, 12):
        for number in range(have, others):
            ground.make(0, number)
        have = others
        for _ in range(2):  # what is made once for all
            ground.live(0, others)
        found.append(steps(lambda: ground.live(0, others)))  # noqa: B023 - called at once
    few, many = found
    more = {name.split(".<locals>")[0] for name in many if few[name] != many[name]}
    assert more <= LOOKS.keys()


@pytest.mark.parametrize("dimension", list(DIMENSIONS))
def test_counts_of_every_dimension_follow_their_law(dimension: str) -> None:
    curves = list(DIMENSIONS[dimension]("s390", TINY))
    assert [holds(each) for each in curves if each.kind is Kind.COUNT].count(True) >= 1
    assert not [each for each in curves if each.kind is Kind.COUNT and holds(each) is False]
    assert all(value > 0 for each in curves for _, value in each.points)


def test_an_architecture_that_allows_few_guests_is_measured_with_few() -> None:
    assert guests_at_most("tdx") < FULL.guests[-1] <= guests_at_most("s390")
    ground = Ground("pef", 0, guests=3)
    ground.make(0, 0)
    with pytest.raises(ValueError, match="0"):
        ground.make(0, 0)


# -- the bundle ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("growth") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "QUICK", TINY)
        assert bench.main(["--growth", str(out), "--quick", "--arch", "pef"]) == 0
    return out


def test_a_bundle_has_every_point_and_a_circle_for_each(bundle: Path) -> None:
    curves: list[dict[str, Any]] = json.loads((bundle / "run.json").read_text())["growth"]
    assert {each["dimension"] for each in curves} == {"guests", "pages", "L1s", "depth"}
    assert {each["kind"] for each in curves} == {"cpu", "memory", "count"}
    for each in curves:
        assert ("holds" in each) == (each["kind"] == "count"), "only what is counted can be held to a law"
    page = ElementTree.fromstring((bundle / "report.html").read_text().removeprefix("<!DOCTYPE html>\n"))
    assert len(list(page.iter("circle"))) == sum(len(each["points"]) for each in curves)
    assert len(list(page.iter("polyline"))) == len(curves)
    assert "6 of 6 laws of counts hold exactly" in "".join(page.itertext())


def test_the_page_asks_for_nothing(bundle: Path) -> None:
    text = (bundle / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\(|https?://", text)


def test_no_picture_mixes_what_is_counted_with_what_is_measured() -> None:
    points = [(1, 1.0), (2, 2.0)]
    with pytest.raises(AssertionError, match="no axis in common"):
        picture("both", [curve(points), curve(points, kind=Kind.CPU)])


def test_nothing_is_drawn_that_somebody_else_wrote() -> None:
    odd = replace(curve([(1, 1.0), (2, 2.0)]), arch="<b>&")
    ElementTree.fromstring(report([odd], {"revision": "<i>"}).removeprefix("<!DOCTYPE html>\n"))


def test_a_count_that_breaks_its_law_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = curve([(1, 1.0), (2, 2.0)], Law.SAME)
    monkeypatch.setattr(growth, "measured", lambda _arches, _sizes: [wrong])
    assert bench.main(["--growth", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["growth"][0]["holds"] is False
    assert "DOES NOT HOLD" in (tmp_path / "report.html").read_text()


def test_an_unknown_architecture_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--growth", str(tmp_path / "none"), "--arch", "vax"]) == 2
    assert "vax" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(growth, "measured", lambda _arches, _sizes: [curve([(1, 1.0), (2, 2.0)])])
    assert bench.main(["--growth", str(tmp_path / "file")]) == 3
    assert "cannot be written" in capsys.readouterr().err
