"""A pytest plugin that writes down which test provokes which check of the Ultravisor: `-p s390_recorder`.

The levels of every console that a test makes are watched while the plugin is on; nobody else sees a
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import provoked, pytest_runtest_protocol, pytest_sessionfinish  # noqa: F401 - the hooks

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.machine import steps
from protocol.arch.s390.slice import S390
from protocol.arch.s390.structs import Outcome
from protocol.arch.s390.watch import Watch

ROWS = {row.name: row for row in CALLS.values()}


class Recording(Watch):
    """A watch that knows which test runs."""

    def keep(
        self, on: int, cpu: int, rc: int, rrc: int, level: str, call: str, check: int, *rest: str
    ) -> None:
        super().keep(on, cpu, rc, rrc, level, call, check, *rest)
        provoked(call, check, rc, int(level.startswith("emulation")))


def recorded(make: Callable[..., Any]) -> Callable[..., Any]:
    """Consoles whose levels are watched, those of hosts that come later, too."""

    def keyboard(self: S390, *arguments: Any, **options: Any) -> Any:
        made = make(self, *arguments, **options)
        watch, answer = Recording(), made.answer

        def answered(request: dict[str, Any]) -> dict[str, Any]:
            for level in (*made.levels, *(seat.level for seat in made.seats)):
                watch.attach(level)
            result: dict[str, Any] = answer(request)
            return result

        made.answer = answered
        return made

    return keyboard


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
    S390.keyboard = recorded(S390.keyboard)  # type: ignore[method-assign]
    for name, handler in list(steps._GUEST_CALLS.items()):
        steps._GUEST_CALLS[name] = of_a_guest(name, handler)
