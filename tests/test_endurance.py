"""`./x endurance` in small: every part says what came of it, and a failure is one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import endurance

from actors import exit_codes

SMALL = ["--calls", "4", "--seeds", "1", "--seed", "4"]


@pytest.mark.slow
def test_the_table_says_what_was_done(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endurance, "STEPS", 300)
    assert endurance.main(["--only", "soak", "--only", "fuzz", *SMALL]) == 0
    out, progress = capfd.readouterr()
    table = out.rpartition("part ")[2]
    assert "soak: 1 of 1 seeds, " in progress
    assert "fuzz: 4 of 4 calls, " in progress
    assert "seeds 4 to 4: " in table
    assert "0 violations" in table
    assert "seed 4, " in table


def test_a_part_that_fails_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(endurance.PARTS, "dump", lambda _: (False, "mib 1"))
    monkeypatch.setitem(endurance.PARTS, "soak", lambda _: (True, "1 step"))
    assert endurance.main(["--only", "dump", "--only", "soak"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "1 step" in out


def test_who_interrupts_it_is_told_what_was_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> tuple[bool, str]:
        raise KeyboardInterrupt

    monkeypatch.setitem(endurance.PARTS, "dump", lambda _: (True, "mib 1"))
    monkeypatch.setitem(endurance.PARTS, "soak", interrupted)
    assert endurance.main(["--only", "dump", "--only", "soak"]) == exit_codes.INTERRUPTED
    table = capsys.readouterr().out.rpartition("part ")[2]
    assert "mib 1" in table
    assert "soak" not in table
