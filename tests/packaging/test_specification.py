"""SPECIFICATION.md: whoever is named there as holding a promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.observe import exporter, metrics
from actors.runtime import actor
from benchmarks import run as bench
from protocol import wire
from protocol.hosting import Limits


@pytest.fixture(scope="module")
def rows(root: Path) -> list[str]:
    """The rows of the tables of promises and of measurements, without heads and rules."""
    found: list[str] = []
    before, wanted = "", False
    for line in (root / "SPECIFICATION.md").read_text().splitlines():
        if line.startswith("| ") and not before.startswith("| "):  # the head of a table
            wanted = line.startswith(("| promise", "| what"))
        elif line.startswith("| ") and wanted and not line.startswith("| ---"):
            found.append(line)
        before = line
    return found


def test_every_promise_is_held_by_something(rows: list[str]) -> None:
    assert len(rows) > 20
    assert [row for row in rows if "::" not in row and "./x bench --only" not in row] == []


@pytest.mark.parametrize(
    ("promise", "number"),
    [
        ("body of a frame between actors", f"{wire.FRAME_LIMIT >> 20} MiB"),
        ("depth of a message", f"{wire.DEPTH}"),
        ("inline calls between two passes", f"{actor.INLINE_CALLS}"),
        ("time of inline calls", f"{actor.INLINE_SECONDS * 1000:g} ms"),
        ("inline calls inside of each other", f"{actor.INLINE_DEPTH}"),
        ("life of an idempotency key", f"{Limits().key_life // 60_000} min"),
        ("a lease that is not renewed", f"after {Limits().lease // 1000} s"),
        ("series of one family", f"{metrics.SERIES_LIMIT}"),
        ("request to the metrics endpoint", f"{exporter.HEAD_BYTES} bytes"),
        ("connections to the metrics endpoint", f"{exporter.CONNECTIONS}"),
    ],
)
def test_limits_are_the_programs_own(rows: list[str], promise: str, number: str) -> None:
    (row,) = (row for row in rows if row.startswith(f"| {promise}"))
    assert row.split("|")[2].strip() == number


def test_every_test_that_is_named_is_there(rows: list[str], root: Path) -> None:
    named = [found for row in rows for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)]
    assert named
    wrong = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"def {name}\(", (root / file).read_text() if (root / file).exists() else "")
    ]
    assert wrong == []


def test_every_benchmark_that_is_named_measures_one_thing(rows: list[str]) -> None:
    cases = [case.name for case in bench.collect()]
    named = {found: row for row in rows for found in re.findall(r'--only "([^"]+)"', row)}
    assert named
    for words, row in named.items():
        wanted = row.split("|")[1].strip()
        assert wanted in cases, row
        assert wanted in [case for case in cases if words in case], row


def test_every_benchmark_is_in_the_table(rows: list[str]) -> None:
    said = {row.split("|")[1].strip() for row in rows}
    parts = "part of a "  # these stand in a table of their own, all together
    names = [case.name for case in bench.collect() if not case.name.startswith(parts)]
    assert [name for name in names if name not in said] == []
