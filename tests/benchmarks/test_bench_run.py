"""The benchmarks as a program: what it collects, what it prints, how it says that there is nothing to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run as bench
from benchmarks.s390_host import at_depth

MODULE = """
from benchmarks.run import Case

def cases():
    yield Case("twice as fast", "thing/s", lambda: 20.0, lambda: 10.0)
    yield Case("alone", "byte", lambda: 3.0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of benchmarks that takes no time."""
    (tmp_path / "quick.py").write_text(MODULE)
    (tmp_path / "host.py").write_text('"""No cases here."""\n')
    collect = bench.collect
    monkeypatch.setattr(bench, "collect", lambda: collect(tmp_path))
    return tmp_path


def test_every_module_with_cases_contributes(folder: Path) -> None:
    assert [case.name for case in bench.collect()] == ["twice as fast", "alone"]


def test_json_is_an_array_of_figures_each_beside_its_baseline(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "twice as fast", "value": 20.0, "unit": "thing/s", "baseline": 10.0, "ratio": 2.0},
        {"name": "alone", "value": 3.0, "unit": "byte", "baseline": None, "ratio": None},
    ]


def test_a_table_is_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["what", "value", "unit", "baseline", "ratio"]
    assert first.split() == ["twice", "as", "fast", "20", "thing/s", "10", "2.00"]
    assert second.split() == ["alone", "3", "byte"]


def test_only_measures_what_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json", "--only", "alone"]) == 0
    assert [figure["name"] for figure in json.loads(capsys.readouterr().out)] == ["alone"]


def test_a_name_that_names_nothing_is_told_what_there_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--only", "warp"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "'warp'" in said.err
    assert "twice as fast" in said.err


def test_the_real_benchmarks_can_be_collected_without_measuring() -> None:
    names = [case.name for case in bench.collect()]
    assert len(set(names)) == len(names)
    assert any("UV call" in name for name in names)
    assert any("ask" in name for name in names)


def test_a_life_takes_as_many_calls_as_are_counted_for_it() -> None:
    host = at_depth(0)
    before = host.rig.ledger.flat()["te_calls"]
    assert host.life(host.image(3)) == host.rig.ledger.flat()["te_calls"] - before


def test_a_life_leaves_nothing_behind() -> None:
    host = at_depth(0)
    free = host.pool.free
    for _ in range(2):
        host.life(host.image(3))
    assert host.pool.free == free
