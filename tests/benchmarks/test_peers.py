"""`./x bench --peers`: rows with ratios and spread; what is not installed, or fails, is named."""

from __future__ import annotations

import json

import pytest

from benchmarks.peers import compare
from benchmarks.peers.measures import DEATH, LOCAL, MEMORY, UNITS, Stretch


def test_a_ratio_above_one_is_in_favour_of_nestbed() -> None:
    done = {
        "nestbed": [{LOCAL: 100.0, MEMORY: 300.0}, {LOCAL: 300.0, MEMORY: 300.0}, {LOCAL: 200.0}],
        "Other": [{LOCAL: 50.0, MEMORY: 600.0, DEATH: 7.0}],
    }
    rows = {row["name"]: row for row in compare.rows(done)}
    assert rows[f"{LOCAL}, beside Other"]["ratio"] == 4
    assert rows[f"{LOCAL}, beside Other"]["spread"] == 1
    assert rows[f"{MEMORY}, beside Other"]["ratio"] == 2
    assert len(rows) == 2, "what only one of two can do is no row"


def test_what_is_missing_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        compare, "PEERS", {"Nobody": ("no_such_module", "nobody.py"), "Json": ("json", "x.py")}
    )
    told = {"nestbed_itself.py": {LOCAL: 10.0}, "x.py": "it failed"}
    monkeypatch.setattr(compare, "figures", told.__getitem__)
    assert compare.main(1, as_json=True) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "Nobody is left out: not installed" in err
    assert "Json is left out: it failed" in err


@pytest.mark.slow
def test_nestbed_itself_is_measured_in_every_discipline() -> None:
    told = compare.figures("nestbed_itself.py")
    assert isinstance(told, dict), told
    assert min(told.values()) > 0
    assert len(told) == len(UNITS)


def test_the_cpus_time_of_children_counts() -> None:
    stretch = Stretch()
    for _ in range(10_000):
        assert sum(range(100_000))
        if stretch.spent > 0:  # the system tells it in steps
            return
    raise AssertionError("it was told nothing")
