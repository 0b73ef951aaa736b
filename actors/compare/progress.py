"""How far a comparison is, for a person who waits.

On a terminal one live line, elsewhere plain lines, at most one in ten seconds. All of it on standard error.
The comparison tells: `start`, `phase`, `result`, `end`; and asks nothing. The first Ctrl-C makes the next
`phase` raise Stopped (`interrupts.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.progress import Progress as Bar

    from actors.compare.openmetrics import Recording
    from actors.runtime.actor import Actor
    from protocol.hosting import Service
    from protocol.ledger import Ledger
    from protocol.tracking import Book

LINE_SECONDS = 10.0
Attach = Callable[[str, str, "Ledger", "Iterable[Book]"], None]
Cast = Callable[[], "Iterable[tuple[str, Actor]]"]
Staged = Callable[[str, Cast, "Service | None"], None]


class Stopped(Exception):
    """The person wants no more. What is finished until now stands in `Progress.results`."""


class Progress:
    """Collects what a comparison tells, and shows nothing."""

    def __init__(self) -> None:
        self.stopped = False
        self.results: list[dict[str, Any]] = []
        self.on_attach: Attach | None = None
        self.on_staged: Staged | None = None
        self.recording: Recording | None = None

    def start(self, total: int) -> None:
        """The run has `total` steps."""

    def phase(self, path: str, phase: str, done: int, total: int) -> None:
        """`done` of `total` steps are over, the next is `phase` of `path`. Raises Stopped."""
        if self.stopped:
            raise Stopped
        if self.recording is not None:
            self.recording.phase(phase)

    def result(self, result: dict[str, Any]) -> None:
        """One path is finished: kept, so that it is reported even if the run is stopped later."""
        self.results.append(result)
        if self.recording is not None:
            self.recording.phase(None)

    def attach(self, arch: str, path: str, ledger: Ledger, books: Iterable[Book] = ()) -> None:
        """A machine is about to run: its counts and books may be looked at from now on."""
        if self.on_attach is not None:
            self.on_attach(arch, path, ledger, books)
        if self.recording is not None:
            self.recording.attach(arch, path, ledger, books)

    def staged(self, arch: str, actors: Cast, hosting: Service | None) -> None:
        """Who plays on the path that begins, and its broker's service if there is one."""
        if self.on_staged is not None:
            self.on_staged(arch, actors, hosting)

    def end(self) -> None:
        """The run is over, whatever the way."""


class Lines(Progress):
    """Plain lines, for a log."""

    def __init__(self, to: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._to = sys.stderr if to is None else to
        self._clock = clock
        self._last: float | None = None

    def phase(self, path: str, phase: str, done: int, total: int) -> None:
        super().phase(path, phase, done, total)
        now = self._clock()
        if self._last is None or now - self._last >= LINE_SECONDS:
            self._last = now
            self._to.write(f"nestbed: {done}/{total} {path}: {words(phase)}\n")
            self._to.flush()


class Live(Progress):
    """A bar that moves, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None

    def start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._bar.add_task("starting", total=total)

    def phase(self, path: str, phase: str, done: int, total: int) -> None:
        super().phase(path, phase, done, total)
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, description=f"{path}: {words(phase)}", completed=done, total=total)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def words(phase: str) -> str:
    """A phase's name as it is said."""
    return phase.replace("_", " ")


def choose(quiet: bool) -> Progress:
    """What suits standard error."""
    if quiet:
        return Progress()
    return Live() if sys.stderr.isatty() else Lines()
