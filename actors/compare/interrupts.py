"""Ctrl-C while something runs: the first lets the step that runs be the last one, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import trio

from actors.compare.progress import Stopped

if TYPE_CHECKING:
    from actors.compare.progress import Progress

Result = TypeVar("Result")


class _First:
    """Who takes the first Ctrl-C; `then` takes the second."""

    def __init__(self, progress: Progress, say: Callable[[str], None]) -> None:
        self.progress, self._say = progress, say
        self.then: signal._HANDLER = signal.default_int_handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.progress.stopped = True
        signal.signal(signal.SIGINT, self.then)
        self._say("stopping after this step; what is finished will be reported (Ctrl-C again: at once)")


@contextmanager
def stoppable(progress: Progress, say: Callable[[str], None]) -> Iterator[None]:
    """Within: the first Ctrl-C stops `progress` at its next step, the second interrupts at once.

    What comes out is Stopped or KeyboardInterrupt by itself, never a group around it.
    """
    before = signal.signal(signal.SIGINT, _First(progress, say))
    try:
        yield
    except BaseExceptionGroup as group:  # whatever ran in a nursery comes out of it in one of these
        for kind in (KeyboardInterrupt, Stopped):
            if group.subgroup(kind) is not None:
                raise kind from group
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        progress.end()


def run(function: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
    """`trio.run`; within `stoppable` the second Ctrl-C is Trio's to deliver.

    Trio takes SIGINT only where nobody else has. A KeyboardInterrupt of anybody else's may come in the middle
    of its own work, which then ends as a heap of complaints.
    """
    first = signal.getsignal(signal.SIGINT)
    if not isinstance(first, _First) or threading.current_thread() is not threading.main_thread():
        return trio.run(function, *arguments)

    async def within() -> Result:
        first.then = signal.signal(signal.SIGINT, first)
        return await function(*arguments)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return trio.run(within)
    finally:
        first.then = signal.default_int_handler
        signal.signal(signal.SIGINT, first.then if first.progress.stopped else first)
