"""What every test runs under: no deadline per example, because the machine may be busy.

A machine is one large knot of references, with few objects and much memory, so Python's own collector waits
too long: here it runs after every few tests, over what the tests made and nothing else.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples on every run, so that a red run means a changed program.
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

TESTS_PER_COLLECTION = 10
_tests = count(1)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown() -> None:
    if next(_tests) % TESTS_PER_COLLECTION == 0:
        gc.collect()


@dataclass(frozen=True)
class Alone:
    """What a program did in a process of its own."""

    text: str  # what it printed
    seconds: float
    peak_kib: int  # of resident memory


@pytest.fixture
def alone() -> Callable[[str], Alone]:
    """Run a program by itself: the memory of a test's own process tells of every test before it.

    VmHWM, and not ru_maxrss, which a child takes over from the process that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of a process's memory is read from /proc, which is not here")
    ending = f"\nimport pathlib, sys; print(pathlib.Path({str(status)!r}).read_text(), file=sys.stderr)"

    def run(program: str) -> Alone:
        began = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", program + ending], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        assert ended.returncode == 0, ended.stderr
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", ended.stderr, re.MULTILINE)
        assert peak is not None, ended.stderr
        return Alone(ended.stdout, seconds, int(peak[1]))

    return run
