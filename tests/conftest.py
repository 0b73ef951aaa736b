"""What every test runs under: no deadline per example, because the machine may be busy.

A machine is one large knot of references, with few objects and much memory, so Python's own collector waits
too long: here it runs after every few tests, over what the tests made and nothing else.
"""

from __future__ import annotations

import gc
import os
from itertools import count

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
