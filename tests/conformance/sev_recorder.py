"""A pytest plugin that writes down which test provokes which check of the secure processor.

`-p sev_recorder`. Where two checks of a command answer one status, which of them it was is not known, and
nothing is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from recorder import (  # noqa: F401 - the hooks
    only_place,
    provoked,
    pytest_runtest_protocol,
    pytest_sessionfinish,
)

from protocol.arch.sev.front import Front
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.nesting import Nested

begun: list[int] = []  # levels that came to the command's own checks


def performing(perform: Callable[..., Any]) -> Callable[..., Any]:
    def performed(self: Any, *arguments: Any) -> Any:
        begun.append(id(self))
        return perform(self, *arguments)

    return performed


def answering(mailbox: Callable[..., Any]) -> Callable[..., Any]:
    def answered(self: Any, cpu: Any, cmdresp: int, *rest: Any, **more: Any) -> Generator[Any, Any, Any]:
        before = len(begun)
        answer = yield from mailbox(self, cpu, cmdresp, *rest, **more)
        spec, status = self.calls.get(cmdresp >> 16 & 0x7FF), answer & 0xFFFF
        level = 0 if isinstance(self, Machine) else self.level
        if status and not cpu.origin:
            if id(self) not in begun[before:]:
                provoked(spec.name if spec else "", -1, status, level)
            elif spec is not None and (place := only_place(spec, status)) is not None:
                provoked(spec.name, place, status, level)
        return answer

    return answered


def pytest_configure() -> None:
    Machine.perform = performing(Machine.perform)  # type: ignore[method-assign]
    Nested.perform = performing(Nested.perform)  # type: ignore[method-assign]
    Front.mailbox = answering(Front.mailbox)  # type: ignore[method-assign]
