"""`nestbed answers`: which pages there are, where they go, and that a stale one is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("simpy", reason="the answers need the extra `model`")

from actors import exit_codes
from actors.cli import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["answers", *arguments])


@pytest.mark.parametrize("question", ["h", "fences"])
def test_a_question_is_named_by_letter_or_name(question: str) -> None:
    done = run(question)
    assert done.exit_code == exit_codes.OK
    assert done.stdout.startswith("# (h) Which features have to be fenced off?")


def test_a_page_that_says_something_else_is_noticed(tmp_path: Path) -> None:
    assert run("h", "--out", str(tmp_path)).exit_code == exit_codes.OK
    assert run("h", "--out", str(tmp_path), "--check").exit_code == exit_codes.OK
    page = tmp_path / "fences.md"
    page.write_text(page.read_text().replace("5", "6", 1))
    done = run("h", "--out", str(tmp_path), "--check")
    assert done.exit_code == exit_codes.FAILED
    assert "fences.md says something else than its run" in done.stderr
    page.unlink()
    assert run("h", "--out", str(tmp_path), "--check").exit_code == exit_codes.FAILED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("z",), "z: no such question; there are: a (impact)"), (("--check",), "give --out, too")],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == exit_codes.USAGE
    assert said in done.stderr
