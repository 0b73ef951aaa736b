"""The console as a process of its own, in lines of JSON: the same contract over a pipe."""

from __future__ import annotations

import pytest
from driver import Keyboard, ProcessConsole, in_own_process
from s390_field import Host
from s390_guest import IMAGE_AT, boot_guest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("depth", [0, 2])
def test_a_guest_boots_over_a_pipe(depth: int) -> None:
    with in_own_process("s390", depth, "--seed", "5") as console:
        host = Host(Keyboard(console, depth))
        host.init()
        guest = boot_guest(host)
        assert guest.fetch(IMAGE_AT, 7) == b"this is"
        guest.destroy()
        assert host.audit()["leaks"] == []


def test_options_reach_the_machine() -> None:
    arguments = ("--hosts", "2", "--memory", "2100", "--cpus", "2", "--profile", "full")
    with in_own_process("s390", 1, *arguments) as console:
        info = Host(Keyboard(console, 1)).ok("info")
    assert (info["hosts"], info["memory"], info["cpus"], info["profile"]) == (2, 2100 << 20, 2, "full")


def complaint(console: ProcessConsole, line: str) -> str:
    """The code of the error that answers `line`."""
    code: str = console.answer_line(line)["error"]["code"]
    return code


def test_lines_that_are_not_json_are_called_so_and_the_next_one_is_answered() -> None:
    with in_own_process("s390", 0) as console:
        for line in ("{", "nonsense", '{"id": 1', '{"id": 1, "op": "info"} x', "\x00"):
            assert complaint(console, line) == "bad_json"
        for line in ("[]", "5", "null", '"info"'):
            assert complaint(console, line) in ("bad_request", "bad_json")
        assert "ok" in console.answer_line('{"id": 1, "op": "info"}')


def test_a_line_that_is_too_long_is_an_error() -> None:
    """console.md: over 8 MiB."""
    with in_own_process("s390", 0) as console:
        padding = " " * (8 << 20)
        assert "error" in console.answer_line('{"id": 1, "op": "info"' + padding + "}")
        assert "ok" in console.answer_line('{"id": 2, "op": "info"}')


def test_no_option_makes_no_sense_silently() -> None:
    import subprocess
    import sys

    for arguments in (
        ["--depth", "-1"],
        ["--arch", "vax"],
        ["--profile", "huge"],
        ["--memory", "0"],
        ["--hosts", "0"],
    ):
        command = [sys.executable, "-m", "nestbed", "console", "--arch", "s390", "--depth", "0", *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2, (arguments, done)
        assert done.stdout == ""
