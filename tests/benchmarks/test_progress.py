"""Whoever waits for something long hears how far it is, and not too often."""

from __future__ import annotations

import re

import pytest

from benchmarks.progress import Progress

Capture = pytest.CaptureFixture[str]


def told(capsys: Capture) -> list[str]:
    out, lines = capsys.readouterr()
    assert out == "", "what is found goes there"
    return [line.partition(", ")[0] for line in lines.splitlines()]


def test_in_a_hurry_the_last_part_alone_is_told(capsys: Capture) -> None:
    said = Progress("soak", 2_000, "seeds", every=1e9)
    for done in range(1, 2_001):
        said(done)
    assert told(capsys) == ["soak: 2,000 of 2,000 seeds"]


def test_when_it_is_time_each_part_is_told(capsys: Capture) -> None:
    said = Progress("soak", 3, "seeds", every=0)
    for done in range(1, 4):
        said(done)
    assert told(capsys) == [f"soak: {done} of 3 seeds" for done in (1, 2, 3)]


def test_a_line_says_how_long_it_took_and_what_else_there_is(capsys: Capture) -> None:
    Progress("orders", 1, "stories")(1, "114 states")
    line = capsys.readouterr().err
    assert re.fullmatch(r"orders: 1 of 1 stories, [0-9,]+ s, 114 states\n", line)
