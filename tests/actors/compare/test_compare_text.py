"""The answer on a terminal and in a file."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from actors.compare import bundle
from actors.compare.answer import answer
from actors.compare.outcome import Outcome
from actors.compare.text import lines
from protocol.plan.scenario import Scenario

Json = dict[str, Any]


def written(results: list[Json], width: int = 100, colour: bool = False, **more: Any) -> str:
    """What a console of that width shows."""
    document = bundle.document(Scenario(), Outcome(results), []) | more
    file = io.StringIO()
    to = Console(file=file, width=width, force_terminal=colour, color_system="standard" if colour else None)
    for each in lines(answer(document, {"s390": "IBM Z Secure Execution"}), width):
        to.print(each)
    return file.getvalue()


def test_what_was_asked_stands_first(results: list[Json], claims: list[Json]) -> None:
    text = written(results, claims=claims)
    head = [line.strip() for line in text.splitlines()[:5]]
    assert head[0].startswith("scenario default, seed 1")
    assert head[1].startswith("s390: exits that arrive at L0")
    order = [
        "1 of 2 claims hold",
        "Break-even",
        "Exits that arrive at L0\n",
        "Calls of the Trusted Entity",
        "What the talk claims",
    ]
    places = [re.sub(" +\n", "\n", text).index(word) for word in order]
    assert places == sorted(places)


def test_a_threshold_stands_before_everything_else(results: list[Json]) -> None:
    failed = {"what": "counts.nested.exits", "wanted": "< 10", "arch": "s390", "value": 1234, "holds": False}
    second = written(results, thresholds=[failed]).splitlines()[1]
    assert second.strip() == "threshold counts.nested.exits < 10 on s390: FAILED (1,234)"


def test_a_run_that_was_stopped_says_so(results: list[Json]) -> None:
    assert "STOPPED" in written(results[:1], interrupted=True)
    assert "STOPPED" not in written(results)


def test_four_paths_fit_into_a_hundred_columns(result: Any) -> None:
    """With counts in the billions: nothing is cut, no line is longer."""
    results = [result(path, scale=12_345_678) for path in ("direct", "nested", "hosted", "mixed")]
    text = written(results)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for each in results:
        assert f"{each['counts']['exits']:,}" in text


def test_a_lacking_count_is_a_dash_with_its_reason_below(results: list[Json]) -> None:
    rows = written(results).splitlines()
    swap = next(place for place, row in enumerate(rows) if row.split()[:1] == ["swap"])
    assert rows[swap].split() == ["swap", "20", "40", "2.0x", "-"]
    assert any("hosted: no swap: the owner cannot reach the pages" in row for row in rows[swap:])


def test_without_colours_there_is_no_escape_code(results: list[Json], claims: list[Json]) -> None:
    assert "\x1b" not in written(results, claims=claims)
    assert "\x1b[" in written(results, claims=claims, colour=True)


def test_names_are_not_taken_for_markup(result: Any) -> None:
    strange = result("direct", arch="[bold]x[/bold]")
    strange["counts"]["exits"] += 0
    assert "[bold]x[/bold]: exits" in written([strange])


def test_no_time_is_made_up(results: list[Json]) -> None:
    text = written(results)
    assert "No time is modelled in this run." in " ".join(text.split())
    assert re.search(r"\d\s*(ns|us|ms|µs|seconds)\b", text) is None


def test_what_the_program_took_stands_last_and_is_told_apart(results: list[Json]) -> None:
    last = written(results, wall={"seconds": 2.5}).splitlines()[-1]
    assert last.strip() == "This program itself took: seconds 2.5; that says nothing about any hardware."


def test_modelled_time_is_labelled(result: Any) -> None:
    text = written([result("direct") | {"modelled": {"total_ns": 5}}])
    assert "Modelled time (virtual, not measured)" in text
    assert "No time is modelled" not in text


@pytest.mark.parametrize("width", [70, 80, 200])
def test_other_widths_lose_no_number(results: list[Json], width: int) -> None:
    numbers = set(re.findall(r"\d[\d,]*", written(results)))
    assert numbers <= set(re.findall(r"\d[\d,]*", written(results, width)))
