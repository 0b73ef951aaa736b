"""A short run of every target of `./x fuzz`, and the inputs that once failed; long runs are the command's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run import TARGETS, corpus, main, one

INPUTS = 2


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_few_inputs_of_every_target(name: str) -> None:
    for number in range(1 if name.startswith("calls-") else INPUTS):
        assert sum(one(name, 0, number).values())


def test_what_once_failed_does_not() -> None:
    for name, seed, number in corpus():
        one(name, seed, number)


def test_a_failure_is_named_with_the_command_that_makes_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise AssertionError("a bug")

    monkeypatch.setitem(TARGETS, "frames", broken)
    assert main(["--only", "frames", "--seed", "5", "--seconds", "0.01", "--processes", "1"]) == 1
    assert "again: ./x fuzz --only frames --seed 5 --input 0" in capsys.readouterr().out
    assert main(["--only", "records", "--seed", "5", "--seconds", "0.01", "--processes", "1"]) == 0
