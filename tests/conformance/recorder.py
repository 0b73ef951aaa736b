"""What the recorders of all architectures share: which test runs, what it provoked, and where that goes.

A recorder is a pytest plugin, `-p NAME_recorder`. It hooks its architecture so that `provoked` is told of
each check that refuses a call, and takes the hooks of this module over (`from recorder import ...`). What it
finds goes as JSON into the file that NESTBED_RECORD names: for each test a list of (call, place of the check
in its row or -1, code, level).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.calls import CallSpec

found: dict[str, set[tuple[str, int, int, int]]] = defaultdict(set)
_running = ""


def provoked(call: str, place: int, code: int, level: int = 0) -> None:
    """The running test provoked check number `place` of the call's row; -1: a check that every call makes.

    `level` is 0 for the machine's own check, otherwise that of the host for which an emulation made it.
    """
    found[_running].add((call, place, code, level))


def only_place(row: CallSpec, code: int, reason: int = 0) -> int | None:
    """The place of the one check that answers this code; None where there is none, or more than one."""
    places = [at for at, check in enumerate(row.checks) if (check.code, check.reason) == (code, reason)]
    return places[0] if len(places) == 1 else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    global _running  # noqa: PLW0603 - pytest has one test at a time
    _running = item.nodeid
    return (yield)


@pytest.hookimpl
def pytest_sessionfinish() -> None:
    to = os.environ.get("NESTBED_RECORD")
    if to:
        said = {test: sorted(checks) for test, checks in found.items() if test}
        Path(to).write_text(json.dumps(said))
