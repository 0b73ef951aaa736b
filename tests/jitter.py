# ruff: noqa: T201 - it prints what it found
"""`./x jitter [pytest arguments]`: tests, while each of their processes is stopped and goes on at random.

What fails here and not elsewhere is a race, in a test or in the program, or a bound of time that a busy
machine breaks. A test that stops processes itself, or lives by real leases, may be disturbed: what it had
stopped goes on. A process that outlives the tests is told, and is a failure.
"""

from __future__ import annotations

import argparse
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
SUMMARY = "Tests, while each of their processes is stopped and goes on at random."
MARK = "NESTBED_JITTER"  # in the environment of all that belongs to one run
AT_ONCE = 3  # processes that are stopped
BETWEEN_S = 0.03  # at most, from one stop to the next of the same slot
LOOK_S = 0.05  # how often new processes are looked for
STEP_S = 0.002
ENDING_S = 5.0  # for those who were told to end


def marked(mark: str) -> list[int]:
    """The processes of one run: whoever was started by it, by whomever that was."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _has(int(name), mark)]


def _has(pid: int, mark: str) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # over, or somebody else's
        return False
    return f"{MARK}={mark}".encode() in variables


def _rests(pid: int) -> bool:
    """Is it stopped by somebody else, or over?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtXZ"
    except OSError:
        return True


class Slot:
    """One process at a time is stopped for a while."""

    def __init__(self, draws: Random, longest_s: float) -> None:
        self._draws, self._longest_s = draws, longest_s
        self._stopped: int | None = None  # by a descriptor: its number may be another's by then
        self._next_s = 0.0
        self.stops = 0

    def step(self, now_s: float, pids: list[int], mark: str) -> None:
        """Let the process go on, or stop another one, if it is time for that."""
        if now_s < self._next_s:
            return
        if self._stopped is not None:
            self.let_go()
            self._next_s = now_s + self._draws.uniform(0, BETWEEN_S)
        elif pids and self._stop(self._draws.choice(pids), mark):
            self._next_s = now_s + self._draws.uniform(0, self._longest_s)

    def _stop(self, pid: int, mark: str) -> bool:
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            if _has(pid, mark) and not _rests(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                self._stopped = pidfd
                self.stops += 1
                return True
            os.close(pidfd)
        return False

    def let_go(self) -> None:
        """Whatever is stopped goes on."""
        pidfd, self._stopped = self._stopped, None
        if pidfd is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)


def shake(run: subprocess.Popen[bytes], mark: str, draws: Random, longest_s: float) -> int:
    """Until `run` is over, stop processes of its and let them go on; how often."""
    slots = [Slot(draws, longest_s) for _ in range(AT_ONCE)]
    pids: list[int] = []
    looked_s = 0.0
    try:
        while run.poll() is None:
            now_s = time.monotonic()
            if now_s - looked_s > LOOK_S:
                pids, looked_s = marked(mark), now_s
            for slot in slots:
                slot.step(now_s, pids, mark)
            with suppress(subprocess.TimeoutExpired):
                run.wait(STEP_S)
    finally:
        for slot in slots:
            slot.let_go()
    return sum(slot.stops for slot in slots)


def left_behind(mark: str) -> dict[int, str]:
    """The command lines of those who are still there, a moment after all is over."""
    until_s = time.monotonic() + ENDING_S
    lines = {}
    for pid in marked(mark):
        with suppress(OSError):
            if _ends(pid, until_s - time.monotonic()):
                continue
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    return lines


def _ends(pid: int, seconds: float) -> bool:
    """Is a process over by then?"""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], max(0.0, seconds))[0])
    finally:
        os.close(pidfd)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./x jitter",
        usage="%(prog)s [-h] [--seed N] [--longest MS] [pytest arguments]",
        description=SUMMARY,
        allow_abbrev=False,  # what is not ours is for pytest
    )
    parser.add_argument("--seed", type=int, default=1, help="of who is stopped, and for how long")
    parser.add_argument("--longest", type=int, default=120, help="milliseconds of a stop, at most")
    chosen, arguments = parser.parse_known_args(arguments)
    mark = secrets.token_hex(8)
    command = [sys.executable, "-m", "pytest", "-q", *(arguments or ["-n", "auto"])]
    run = subprocess.Popen(command, cwd=ROOT, env=os.environ | {MARK: mark})
    try:
        stops = shake(run, mark, Random(chosen.seed), chosen.longest / 1000)
    except KeyboardInterrupt:  # pytest has heard it, too
        run.wait()
        raise
    left = left_behind(mark)
    for pid, line in left.items():
        print(f"left behind: {pid} {line}")
    print(f"seed {chosen.seed}: processes were stopped {stops:,} times, {chosen.longest} ms at most")
    return run.returncode or (1 if left else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
