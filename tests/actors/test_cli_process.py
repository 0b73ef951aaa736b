"""The command as a shell starts it: how quickly, in which colours, into which pipes."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import nestbed
from actors import exit_codes

pytestmark = pytest.mark.slow
NESTBED = [sys.executable, "-m", "nestbed"]


def environment(**more: str) -> dict[str, str]:
    """A plain one: no colours asked for or forbidden, no width given."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "GITHUB_ACTIONS", "PY_COLORS", "TTY_COMPATIBLE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NESTBED_", *dropped))}
    return kept | {"TERM": "xterm"} | more


def run(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NESTBED, *arguments],
        capture_output=True,
        text=True,
        env=environment(**env),
        cwd=cwd,
        timeout=120,
        check=False,
    )


def on_a_terminal(*arguments: str, **env: str) -> str:
    """What a terminal gets to see."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*NESTBED, *arguments], stdout=theirs, stderr=theirs, stdin=theirs, env=environment(**env)
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            seen += more
        process.wait(timeout=120)
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize(
    ("option", "said"), [("--version", f"nestbed {nestbed.__version__}\n"), ("--help", "Usage")]
)
def test_what_is_asked_for_first_needs_nothing_of_weight(option: str, said: str) -> None:
    """So it is there at once: what takes time to start is what is imported."""
    program = (
        f"import sys; sys.argv = ['nestbed', {option!r}]\n"
        "from nestbed.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ('trio', 'numpy', 'pydantic', 'prometheus_client')\n"
        "sys.stderr.write(str([m for m in heavy if m in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]"
    assert said in done.stdout


# -- colours -----------------------------------------------


def test_a_pipe_gets_no_colours() -> None:
    for arguments in (["arch", "list"], ["scenario", "check"], ["calls", "s390", "--brief"]):
        done = run(*arguments)
        assert done.returncode == exit_codes.OK
        assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_gets_colours_unless_it_wants_none() -> None:
    assert "\x1b[1m" in on_a_terminal("arch", "list")
    red = "\x1b[31m"
    assert red in on_a_terminal("compre")
    assert red not in on_a_terminal("compre", NO_COLOR="1")


def test_colours_can_be_forced_into_a_pipe() -> None:
    assert "\x1b[1m" in run("arch", "list", FORCE_COLOR="1").stdout
    assert "\x1b" not in run("arch", "list", "--json", FORCE_COLOR="1").stdout


def test_a_page_is_a_hundred_columns_wide_and_a_terminal_what_it_is() -> None:
    wide = run("calls", "s390").stdout
    assert 80 < max(map(len, wide.splitlines())) <= 100
    assert max(map(len, run("calls", "s390", COLUMNS="60").stdout.splitlines())) <= 60


# -- pipes and encodings -----------------------------------


def test_a_reader_that_has_seen_enough_is_no_drama() -> None:
    with subprocess.Popen(
        [*NESTBED, "calls", "s390"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read().decode()
        process.wait(timeout=60)
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_is_stopped_while_it_writes_goes_on_where_it_was(unbuffered: str) -> None:
    """Ctrl-Z and fg, or a container that is paused: the system cuts short what was being written."""
    whole = run("calls", "tdx", "--json").stdout
    command = [*NESTBED, "calls", "tdx", "--json"]
    env = environment(PYTHONUNBUFFERED=unbuffered)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        room = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
        assert room < len(whole)
        while int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)), sys.byteorder) < room:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read().decode() == whole


def test_a_terminal_that_knows_ascii_only_is_served(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('# Größe\nname = "größe"\n', encoding="utf-8")
    shown = run("scenario", "show", str(path), PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (exit_codes.OK, "")
    broken = run("scenario", "check", str(path), PYTHONIOENCODING="ascii")
    assert broken.returncode == exit_codes.USAGE
    assert "Traceback" not in broken.stderr
    assert run("compare", "--help", PYTHONIOENCODING="ascii").returncode == exit_codes.OK


# -- completion --------------------------------------------


def completed(*words: str, shell: str = "bash") -> list[str]:
    """What the shell would offer for the last word."""
    asked = {
        "_NESTBED_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    return run(**asked).stdout.split()


def test_commands_options_and_names_can_be_completed() -> None:
    assert completed("nestbed", "comp") == ["compare"]
    assert set(completed("nestbed", "scenario", "")) == {"check", "list", "settings", "show"}
    assert "--json" in completed("nestbed", "compare", "--js")
    assert "s390" in completed("nestbed", "calls", "s")
    assert "reboot-storm" in completed("nestbed", "compare", "reb")
    assert completed("nestbed", "compare", "--path", "ne") == ["nested"]
    assert "guest.vcpus=" in completed("nestbed", "compare", "--set", "guest.vc")
    assert "--depth" in completed("nestbed", "console", "--dep")


def test_a_script_for_the_shell_is_printed() -> None:
    done = run("--show-completion", "bash", SHELL="/bin/bash")
    assert "_NESTBED_COMPLETE" in done.stdout


# -- the entry points --------------------------------------


def test_the_installed_command_is_the_module() -> None:
    command = Path(sys.executable).with_name("nestbed")
    if not command.exists():
        pytest.skip("not installed")
    done = subprocess.run(
        [command, "arch", "list", "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == run("arch", "list", "--json").stdout


def test_an_unknown_command_ends_with_2_on_stderr() -> None:
    done = run("compre")
    assert (done.returncode, done.stdout) == (exit_codes.USAGE, "")
    assert "Did you mean 'compare'?" in done.stderr


@pytest.mark.parametrize("command", ["version", "scenario show default", "calls s390", "calls s390 --json"])
def test_a_full_disk_is_the_environments_fault(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*NESTBED, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "nestbed: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (exit_codes.ENVIRONMENT, said)


@pytest.mark.parametrize("command", ["version", "scenario show default", "calls s390", "console --arch s390"])
def test_a_closed_stream_is_nothing_to_stumble_over(command: str) -> None:
    words = " ".join([*NESTBED, command])
    done = subprocess.run(["sh", "-c", f"exec {words} <&- >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (exit_codes.OK, "")
