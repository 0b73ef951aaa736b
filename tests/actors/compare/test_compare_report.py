"""The report: one file, well-formed, that asks for nothing else and believes nobody."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from actors.compare import report as r
from actors.compare.bundle import bundle
from actors.compare.outcome import Outcome
from actors.compare.style import STYLE
from protocol.plan.scenario import Scenario, parse_threshold

Json = dict[str, Any]


def content(results: list[Json], claims: list[Json] | None = None, **more: Any) -> Json:
    made = bundle(Scenario(), Outcome(results, claims or [], wall={"seconds": 1.5}), {"seed": "file"}, [])
    return made | {"environment": made["environment"] | {"revision": "abc123-dirty"}} | more


def tree(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page)


def texts(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


@pytest.fixture
def page(results: list[Json], claims: list[Json]) -> str:
    return r.report(content(results, claims), {"s390": "IBM Z Secure Execution"})


def test_it_is_well_formed(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>\n")
    html = tree(page)
    assert (html.tag, html.get("lang")) == ("html", "en")
    assert [child.tag for child in html] == ["head", "body"]


def test_every_identifier_is_unique(page: str) -> None:
    identifiers = [element.get("id") for element in tree(page).iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    links = [element.get("href", "") for element in tree(page).iter("a")]
    assert all(link.startswith("#") and link[1:] in identifiers for link in links)


def test_it_asks_for_nothing(page: str) -> None:
    """No script, no address of anything, neither in attributes nor in the style."""
    allowed = {
        "html",
        "head",
        "body",
        "meta",
        "title",
        "style",
        "header",
        "main",
        "footer",
        "div",
        "svg",
        "rect",
    }
    allowed |= {"text", "h1", "h2", "h3", "p", "a", "ul", "li", "strong", "details", "summary"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td"}
    allowed |= {"defs", "pattern", "line", "path", "polyline", "circle"}
    assert {element.tag for element in tree(page).iter()} <= allowed
    for element in tree(page).iter():
        assert not {"src", "srcset", "data", "action", "style", "onclick"} & set(element.attrib)
        if "href" in element.attrib:
            assert element.get("href", "").startswith("#")
    assert re.search(r"url\(|@import|https?:|//", STYLE) is None
    assert "http" not in page


def test_the_verdict_is_in_the_first_screen(page: str) -> None:
    """The header holds what was asked: the cost of each path, whether the claims hold, and a picture."""
    header = tree(page).find("body/header")
    assert header is not None
    said = texts(header)
    assert "direct 132; nested 267 (2.0x direct); hosted 162 (1.2x direct)" in said
    assert "1 of 2 claims hold" in said
    assert header.find("svg") is not None
    assert len(said) < 1500


def test_seed_revision_and_environment_are_in_the_footer(page: str) -> None:
    footer = tree(page).find("body/footer")
    assert footer is not None
    said = texts(footer)
    assert "revision abc123-dirty, seed 1" in said
    assert "Python 3." in said
    assert "Wall clock of the emulator itself: seconds 1.5. It says nothing about any hardware." in said


def test_a_program_without_a_revision_says_that_it_is_not_known(results: list[Json]) -> None:
    made = content(results)
    made["environment"]["revision"] = None
    assert "revision not known" in r.report(made)


@pytest.mark.parametrize(
    "nasty", ["<script>alert(1)</script>", "\"'><b>&amp;", "\x00\x1f\ud800]]>", "https://x/"]
)
def test_what_comes_from_outside_is_text(results: list[Json], nasty: str) -> None:
    made = content(results, [{"claim": nasty, "by": nasty, "holds": True, "figures": {nasty: nasty}}])
    made["scenario"]["name"] = nasty
    made["scenario"][nasty] = nasty
    made["environment"]["kernel"] = nasty
    for each in made["results"]:
        each["arch"] = each["realism"] = nasty
        each["counts"][f"exits.1.{nasty}.kernel"] = 1
        each["absent"] = {"phases.swap": nasty}
    made["thresholds"] = [{"what": nasty, "wanted": nasty, "arch": nasty, "value": None, "holds": False}]
    made["breakeven"] = {nasty: [{"text": nasty}]}
    html = tree(r.report(made, {nasty: nasty}))
    assert list(html.iter("script")) == []
    assert list(html.iter("b")) == []
    assert [element for element in html.iter() if element.get("href", "#")[0] != "#"] == []


def test_numbers_of_the_tables_are_those_of_the_results(page: str, results: list[Json]) -> None:
    main = tree(page).find("body/main")
    assert main is not None
    table = next(table for table in main.iter("table") if "swap" in texts(table))
    rows = {row[0].text: [texts(cell) for cell in row[1:]] for row in table.iter("tr")}
    assert rows["swap"] == ["20", "40", "2.0x", "-", ""]
    assert "hosted: no swap: the owner cannot reach the pages" in texts(main)


def test_every_count_is_listed_while_there_is_room(page: str, results: list[Json]) -> None:
    said = texts(tree(page))
    for result in results:
        for name in result["counts"]:
            assert name in said


@pytest.mark.slow
def test_it_stays_small_whatever_there_is_to_say(result: Any) -> None:
    results = []
    for arch in ("a", "b", "c", "d", "e"):
        for path in ("direct", "nested", "hosted", "mixed"):
            each = result(path, arch=arch)
            names = {f"te_calls.some_rather_long_name_{n}.vm.passed.1": n for n in range(600)}
            results.append(each | {"counts": each["counts"] | names})
    page = r.report(content(results))
    assert len(page.encode()) < r.SIZE
    said = texts(tree(page))
    assert re.search(r"The counts of [a-e, ]+ are in run.json, beside this file.", said)
    assert "a: all" in said, "what fits is there"


def test_it_has_a_dark_side_and_a_paper_side() -> None:
    assert "prefers-color-scheme: dark" in STYLE
    assert "@media print" in STYLE


def test_charts_draw_what_the_tables_say(page: str) -> None:
    """Widths of bars are to each other as the counts are."""
    header = tree(page).find("body/header")
    assert header is not None
    bars = [float(bar.get("width", "0")) for bar in header.iter("rect")]
    assert bars == pytest.approx([400 * n / 267 for n in (132, 267, 162)], abs=0.1)


def test_shares_of_treatments_fill_their_bar(page: str) -> None:
    charts = {svg.get("aria-label", ""): svg for svg in tree(page).iter("svg")}
    chart = next(svg for label, svg in charts.items() if label.startswith("Treatment"))
    widths = [float(bar.get("width", "0")) for bar in chart.iter("rect") if bar.find("title") is not None]
    assert widths == [400.0, 400.0], "all calls of vm are modified, all of memory are passed"


def test_a_failed_threshold_is_seen_at_once(results: list[Json]) -> None:
    from actors.compare.diff import verdicts

    judged = [each.as_dict() for each in verdicts((parse_threshold("counts.nested.exits", "< 10"),), results)]
    header = tree(r.report(content(results, thresholds=judged))).find("body/header")
    assert header is not None
    assert "threshold counts.nested.exits < 10 on s390: FAILED (307)" in texts(header)


def test_an_empty_run_still_makes_a_report() -> None:
    page = r.report(content([], interrupted=True))
    assert "The run was stopped" in texts(tree(page))
