"""What every test runs under: no deadline per example, because the machine may be busy.

A machine is one large knot of references, with few objects and much memory, so Python's own collector waits
too long: here it runs after every few tests, over what the tests made and nothing else. What is there between
two files (modules, caches, plugins) is left out of it from then on.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from protocol.nesting import guest_host

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples on every run, so that a red run means a changed program.
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

TESTS_PER_COLLECTION = 3
_tests = count(1)
_last_file = ""


def pytest_collection() -> None:
    gc.disable()  # nothing of what is collected goes away


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two workers refuse to run what they do not both have: a name with an address is another one in each."""
    wrong = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if wrong:
        raise pytest.UsageError(f"tests named by an address (give them ids): {', '.join(wrong)}")


def pytest_collection_finish() -> None:
    gc.enable()
    _leave_out()


def pytest_runtest_logstart(nodeid: str) -> None:
    """The fixtures of the last file are gone by now, and nothing else holds a machine."""
    global _last_file  # noqa: PLW0603 - a hook has no other place
    file = nodeid.partition("::")[0]
    if file != _last_file:
        _last_file = file
        _leave_out()


def pytest_runtest_teardown() -> None:
    if next(_tests) % TESTS_PER_COLLECTION == 0:
        gc.collect()


def _leave_out() -> None:
    gc.collect()
    gc.freeze()


_shuffled: dict[int, tuple[np.ndarray, np.ndarray]] = {}
MADE_OFTEN = 8


def _shuffle(frames: np.ndarray, seed: int, shuffle: Callable[[np.ndarray, int], None]) -> None:
    """As `guest_host.shuffle`, which is most of making a host: tests make the same few again and again."""
    known = _shuffled.get(seed)
    if known is not None and np.array_equal(known[0], frames):
        frames[:] = known[1]
        return
    if len(_shuffled) == MADE_OFTEN:
        _shuffled.clear()
    before = frames.copy()
    shuffle(frames, seed)
    _shuffled[seed] = before, frames.copy()


guest_host.shuffle = partial(_shuffle, shuffle=guest_host.shuffle)


@dataclass(frozen=True)
class Alone:
    """What a program did in a process of its own."""

    text: str  # what it printed
    cpu_s: float  # that its threads worked: how long it took is said by what else the machine had to do
    peak_kib: int  # of resident memory


@pytest.fixture
def alone() -> Callable[[str], Alone]:
    """Run a program by itself: the memory of a test's own process tells of every test before it.

    VmHWM, and not ru_maxrss, which a child takes over from the process that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of a process's memory is read from /proc, which is not here")
    ending = (
        "\nimport pathlib, sys, time; print('CPU:', time.process_time(), file=sys.stderr)"
        f"\nprint(pathlib.Path({str(status)!r}).read_text(), file=sys.stderr)"
    )

    def run(program: str) -> Alone:
        ended = subprocess.run(
            [sys.executable, "-c", program + ending], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", ended.stderr, re.MULTILINE)
        cpu = re.search(r"^CPU: (\S+)$", ended.stderr, re.MULTILINE)
        assert peak is not None and cpu is not None, ended.stderr
        return Alone(ended.stdout, float(cpu[1]), int(peak[1]))

    return run
