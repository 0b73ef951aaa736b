"""up, node, why, doctor, pki as commands: what they say, how they end, and that nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app

SMALL = """name = "lab"
[load]
pause_ms = 1
[set]
"l1.count" = 1
"guest.per_l1" = 1
"guest.touch_pages" = 16
"run.swap_pages" = 2
"""


PARTS = ("l0-0", "l0-0.l1-0", "load")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.toml"
    path.write_text(SMALL)
    return path


def nestbed(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_dry_run_prints_the_parts_and_starts_nothing(lab: Path, tmp_path: Path) -> None:
    done = nestbed("up", lab, "--directory", tmp_path / "run", "--dry-run")
    assert done.exit_code == exit_codes.OK
    assert [part["name"] for part in json.loads(done.stdout)["parts"]] == ["l0-0", "l0-0.l1-0", "load"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--part", "l0-9"], "allowed: l0-0, l0-0.l1-0, load"),
        (["--rank", "0"], "give --count"),
        (["--rank", "1", "--count", "2"], "1 machines leave none for rank 1"),
    ],
)
def test_a_node_that_cannot_be_is_refused_with_what_is_allowed(
    lab: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = nestbed("node", lab, "--directory", tmp_path / "run", *arguments)
    assert (done.exit_code, says in done.stderr) == (exit_codes.USAGE, True)


def test_a_file_with_mistakes_is_refused(lab: Path) -> None:
    lab.write_text("machines = 0\n")
    done = nestbed("up", lab)
    assert done.exit_code == exit_codes.USAGE
    assert "machines = 0" in done.stderr


def test_a_directory_that_others_may_read_is_refused(lab: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = nestbed("up", lab, "--directory", tmp_path)
    assert (done.exit_code, "chmod 700" in done.stderr) == (exit_codes.ENVIRONMENT, True)


def test_nobody_is_there_to_ask(tmp_path: Path) -> None:
    assert nestbed("why", "--directory", tmp_path / "run").exit_code == exit_codes.ENVIRONMENT
    assert nestbed("doctor", "--ready", "--directory", tmp_path / "run").exit_code == exit_codes.FAILED
    assert nestbed("doctor", "--ready", "--url", "ftp://nowhere").exit_code == exit_codes.FAILED


def test_the_doctor_looks_at_this_machine() -> None:
    done = nestbed("doctor", "--json")
    found = {each["what"]: each for each in json.loads(done.stdout)}
    assert found["sealed memory files"]["needed"]
    assert done.exit_code == (
        exit_codes.OK if all(each["good"] or not each["needed"] for each in found.values()) else 3
    )


def test_an_authority_and_a_certificate(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert nestbed("pki", "init", keys).exit_code == exit_codes.OK
    assert nestbed("pki", "init", keys).exit_code == exit_codes.USAGE
    assert nestbed("pki", "issue", keys, "machine", "l0-0").exit_code == exit_codes.OK
    assert (keys / "machine-l0-0.key").exists()
    refused = nestbed("pki", "issue", keys, "te", "l0-0")
    assert (refused.exit_code, "allowed: hosts, machine, driver" in refused.stderr) == (
        exit_codes.USAGE,
        True,
    )
    assert nestbed("pki", "issue", tmp_path, "machine", "l0-0").exit_code == exit_codes.ENVIRONMENT


@contextmanager
def running(lab: Path, place: Path) -> Iterator[subprocess.Popen[str]]:
    """`nestbed up` in a process of its own, up."""
    command = [sys.executable, "-m", "nestbed", "up", str(lab), "--directory", str(place)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while "3 parts ready" not in said[-1]:  # it may end what an earlier one left first, and says so
            assert said[-1], said
            said.append(process.stderr.readline())
        yield process
    finally:
        process.kill()
        process.wait()


def pids(place: Path) -> list[int]:
    """Processes that have a file of the directory open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if str(place) in os.readlink(link):
                found.append(int(link.parts[2]))
        except OSError:
            continue
    return found


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what processes do by themselves."""
    with trio.fail_after(60):
        while not holds():
            await trio.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_takes_everything_down_in_order(lab: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    with running(lab, place) as process:
        assert len(pids(place)) == 3
        assert nestbed("doctor", "--ready", "--directory", place).exit_code == exit_codes.OK
        told = json.loads(nestbed("why", "--directory", place, "--json").stdout)
        assert sorted(told) == ["l0-0", "l0-0.l1-0", "load"]
        assert any("link" in picture for picture in told["l0-0"]["pictures"])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == exit_codes.INTERRUPTED
    assert pids(place) == []
    assert [path for path in place.iterdir() if path.is_socket()] == []


@contextmanager
def at_a_terminal(command: list[str], rows: int = 40, columns: int = 140) -> Iterator[tuple[int, Any]]:
    """`command` in the foreground of a terminal of its own: the terminal's other end, and the process."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        yield master, process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def shown(master: int, until: Callable[[str], bool]) -> str:
    """What the terminal shows until that holds or nothing comes any more; without its control sequences."""
    drawn = b""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(master, 65536):
            drawn += chunk
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode(errors="replace"))
            if until(text):
                return text
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode(errors="replace"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setsid") is None, reason="no setsid to give a process a terminal")
def test_a_terminal_shows_a_live_table_and_its_ctrl_c_ends_everything(lab: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    command = [sys.executable, "-m", "nestbed", "up", str(lab), "--directory", str(place)]
    with at_a_terminal(command) as (master, process):
        up = shown(master, lambda text: all(_row(part, "ready", text) for part in PARTS))
        assert all(_row(part, "ready", up) for part in PARTS), up
        assert "nestbed up: lab" in up
        worked = shown(master, lambda text: bool(re.search(r"load .*ok=[1-9]", text)))
        assert re.search(r"load .*ok=[1-9]", worked), "drawn again, with other numbers"
        os.write(master, b"\x03")
        assert "taking everything down" in shown(master, lambda text: False)
        assert process.wait(60) == exit_codes.INTERRUPTED
    assert pids(place) == []
    assert [path for path in place.iterdir() if path.is_socket()] == []


def _row(part: str, state: str, text: str) -> bool:
    """Whether a row of the table says so."""
    return re.search(rf"{re.escape(part)} +.? *{state}", text) is not None


@pytest.mark.slow
def test_parts_end_when_their_supervisor_is_killed_and_the_next_one_starts_clean(
    lab: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    with running(lab, place) as process:
        before = json.loads((place / "epochs.json").read_text())
        process.kill()
        process.wait()
        trio.run(until, lambda: pids(place) == [])  # they see the end of their lifelines
    with running(lab, place) as process:
        after = json.loads((place / "epochs.json").read_text())
        assert all(after[part] > before[part] for part in before)
        assert len(pids(place)) == 3
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.slow
def test_a_process_says_what_it_is_at_when_it_gets_the_signal(lab: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    with running(lab, place) as process:
        for pid in pids(place):
            os.kill(pid, signal.SIGUSR1)
        assert nestbed("doctor", "--ready", "--directory", place).exit_code == exit_codes.OK
        trio.run(until, lambda: "l0-0:\n" in (place / "l0-0.log").read_text())
        process.send_signal(signal.SIGINT)
        process.wait(60)
