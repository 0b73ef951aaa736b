"""`./x coverage` in small: a branch that no test takes is found, and one that is argued is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import covered

SOURCE = """\
def sign(number):
    if number < 0:
        return "-"
    if number == 0:{}
        return ""
    return "+"
"""
TEST = """\
from protocol.signs import sign

def test_it():
    assert sign(-1) == "-"
    assert sign(1) == "+"
"""


def test_every_exception_is_argued():
    assert [place for place in covered.exceptions() if not place[2]] == []


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with this one's settings, whose only test leaves one branch out."""
    monkeypatch.setattr(covered, "ROOT", tmp_path)
    settings = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    start = settings.index("[tool.coverage.run]")
    (tmp_path / "pyproject.toml").write_text(settings[start : settings.index("[tool.ruff]")])
    for name, text in (
        ("protocol/__init__.py", ""),
        ("protocol/signs.py", SOURCE.format("")),
        ("test_it.py", TEST),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_place_says_why_it_is_not_reached(project):
    (project / "protocol" / "signs.py").write_text(SOURCE.format("  # pragma: no cover - nought has no sign"))
    (project / "protocol" / "more.py").write_text("for _ in 1, 2:  # pragma: no branch\n    pass\n")
    found = list(covered.exceptions())
    assert found == [("protocol/more.py", 1, ""), ("protocol/signs.py", 4, "nought has no sign")]


@pytest.mark.slow
def test_a_branch_that_no_test_takes_fails(project, capfd):
    assert covered.main(["-n0"]) == 1
    assert "signs.py" in capfd.readouterr().out


@pytest.mark.slow
def test_a_branch_with_a_reason_does_not(project, capfd):
    (project / "protocol" / "signs.py").write_text(SOURCE.format("  # pragma: no cover - nought has no sign"))
    assert covered.main(["-n0"]) == 0
    assert "1 places are argued" in capfd.readouterr().out


def test_its_help_runs_no_test(capsys):
    with pytest.raises(SystemExit) as ended:
        covered.main(["--help"])
    assert ended.value.code == 0
    assert "./x coverage" in capsys.readouterr().out
