"""A pytest plugin that writes down which test provokes which check of the Ultravisor: `-p s390_recorder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import provoked, pytest_runtest_protocol, pytest_sessionfinish, watch_consoles  # noqa: F401

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.machine import steps
from protocol.arch.s390.slice import S390
from protocol.arch.s390.structs import Outcome
from protocol.arch.s390.watch import S390Watch

ROWS = {row.name: row for row in CALLS.values()}


def of_a_guest(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """A guest's call whose code is written down."""

    def handled(*arguments: Any) -> Any:
        outcome = handler(*arguments)
        if isinstance(outcome, Outcome):
            for at, check in enumerate(ROWS[name].checks):
                if (check.code, check.reason) == (outcome.rc, outcome.rrc):
                    provoked(name, at, outcome.rc)
        return outcome

    return handled


def pytest_configure() -> None:
    watch_consoles(S390, S390Watch)
    for name, handler in list(steps._GUEST_CALLS.items()):
        steps._GUEST_CALLS[name] = of_a_guest(name, handler)
