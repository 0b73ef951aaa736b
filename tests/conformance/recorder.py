"""What the recorders of all architectures share: which test runs, what it provoked, and where that goes.

A recorder is a pytest plugin, `-p NAME_recorder`. It hooks its architecture so that `provoked` is told of
each check that refuses a call, and takes the hooks of this module over (`from recorder import ...`). What it
finds goes as JSON into the file that NESTBED_RECORD names: for each test a list of (call, place of the check
in its row or -1, code, level). Where several checks of a row answer one code and nothing says which it was,
the place is SEVERAL.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.arch.slices import BaseSlice
from protocol.calls import CallSpec
from protocol.watch import Decided, Watch

SEVERAL = -2

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


def watching(watch: type[Watch]) -> type[Watch]:
    """The same kind of watch, that knows which test runs. Of levels below only what is handed on counts."""

    class Recording(watch):  # type: ignore[valid-type, misc]
        def keep(self, level: Any, refused: Decided) -> None:
            super().keep(level, refused)
            if self.current is not None:
                return
            if refused.general:
                provoked(refused.call, -1, refused.code, refused.number)
            elif refused.places:
                place = refused.places[0] if len(refused.places) == 1 else SEVERAL
                provoked(refused.call, place, refused.code, refused.number)

    return Recording


def watch_consoles(of: type[BaseSlice[Any]], watch: type[Watch]) -> None:
    """Every console of this architecture is watched from now on; nobody else sees a difference."""
    make = of.keyboard

    def keyboard(self: Any, *arguments: Any, **options: Any) -> Any:
        made = make(self, *arguments, **options)
        own, answer = watching(watch)(), made.answer

        def answered(request: dict[str, Any]) -> dict[str, Any]:
            for level in (*made.levels, *(seat.level for seat in made.seats)):
                own.attach(level)
            result: dict[str, Any] = answer(request)
            return result

        made.answer = answered
        return made

    of.keyboard = keyboard  # type: ignore[method-assign]


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
