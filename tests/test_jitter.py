"""`./x jitter`: who belongs to a run is stopped and goes on; nobody else is touched or stays stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import jitter

WAITS = [sys.executable, "-c", "print(flush=True); input()"]
OVER_S = 1e9  # later than any moment that a slot has drawn


@contextmanager
def started(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {jitter.MARK: mark}
    pipe = subprocess.PIPE
    with subprocess.Popen(WAITS, stdin=pipe, stdout=pipe, env=environment) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # until then it was a process of ours, which a run around us may stop
            yield process
        finally:
            process.kill()


def test_a_process_of_the_run_is_stopped_and_goes_on() -> None:
    with started("a run") as mine:
        slot = jitter.Slot(Random(1), longest_s=60.0)
        slot.step(0.0, [mine.pid], "a run")
        assert os.WIFSTOPPED(os.waitpid(mine.pid, os.WUNTRACED)[1])
        slot.step(0.0, [mine.pid], "a run")
        assert jitter._rests(mine.pid), "its time is not over"
        slot.step(OVER_S, [mine.pid], "a run")
        assert os.WIFCONTINUED(os.waitpid(mine.pid, os.WCONTINUED)[1])
        assert slot.stops == 1


def test_whoever_is_not_of_the_run_or_stopped_by_another_is_left_alone() -> None:
    with started("another run") as other:
        assert other.pid in jitter.marked("another run")
        assert other.pid not in jitter.marked("a run")
        slot = jitter.Slot(Random(1), longest_s=60.0)
        slot.step(0.0, [other.pid], "a run")  # its number was one of ours when it was looked up
        assert slot.stops == 0
        mine = jitter.Slot(Random(1), longest_s=60.0)
        mine.step(0.0, [other.pid], "another run")
        os.waitpid(other.pid, os.WUNTRACED)
        slot.step(0.0, [other.pid], "another run")
        assert slot.stops == 0
        mine.let_go()


PASSES = """
import subprocess, sys

def test_it():
    assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True).stdout == b"42\\n"
"""
LEAVES = """
import subprocess

def test_it():
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
"""


@pytest.mark.slow
def test_tests_pass_while_they_are_shaken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_it.py").write_text(PASSES)
    assert jitter.main(["--seed", "7", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert "1 passed" in out
    assert "seed 7: processes were stopped " in out


@pytest.mark.slow
def test_who_is_left_behind_is_named_and_is_a_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_it.py").write_text(LEAVES)
    assert jitter.main([str(tmp_path)]) == 1
    (line,) = (line for line in capfd.readouterr().out.splitlines() if line.startswith("left behind: "))
    os.kill(int(line.split()[2]), signal.SIGKILL)
    assert line.endswith(" sleep 3600")
