"""How a load test is told: a table while it runs, another when it is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from actors.load.drive import Answer, Watch
from protocol.load.histogram import Histogram

Json = dict[str, Any]
MS = 1_000_000
LINE_SECONDS = 10.0
COLUMNS = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "rate_per_s", "errors")
MODELS = {
    "open": "open model: requests come when they come; latency counts from when one was meant to be sent",
    "closed": "closed model: a client that waits sends nothing, so these are no percentiles of arrivals",
}
CLOCKS = {
    "wall": "wall clock of this program, which says nothing about any hardware",
    "virtual": "virtual time: recorded operations, priced with the table of costs, that queue for its locks",
}


def lines(arch: str, answer: Json, load: Json, clock: str) -> Iterator[RenderableType]:
    """The answer of one architecture."""
    yield Text()
    yield Text(f"{arch}: {verdict(answer['comparison'])}", style="bold")
    grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    grid.add_column("", no_wrap=True, min_width=6)
    for name in ("requests", "cut", *COLUMNS):  # heads of two words may take two lines, so that 80 columns do
        grid.add_column(name.replace("_", " "), justify="right", min_width=max(map(len, name.split("_"))))
    for path, side in answer["paths"].items():
        values = [_number(side["figures"][name]) for name in COLUMNS]
        grid.add_row(path, _number(side["measured"]), _number(side["warm_up"]), *values)
    yield grid
    if any(side["unsteady_blocks"] for side in answer["paths"].values()):
        yield Text(
            "  some blocks did not become steady, or are too short: nothing was cut of them", style="yellow"
        )
    yield Text(f"  {MODELS[load['model']]}", style="dim")
    yield Text(f"  {CLOCKS[clock]}", style="dim")


def verdict(comparison: Json | None) -> str:
    """Nested against hosted in a sentence."""
    if comparison is None:
        return "one of nested and hosted did not run, so nothing is compared"
    low, high = comparison["low_ms"], comparison["high_ms"]
    interval = f"{comparison['difference_ms']:+.3g} ms, 95 % interval {low:+.3g} to {high:+.3g}"
    times = "" if comparison["ratio"] is None else f", {comparison['ratio']:.2f} times"
    word = comparison["verdict"]
    said = "cannot tell which is faster" if word == "cannot tell" else f"nested is {word} than hosted"
    return f"{said}: nested less hosted {interval}{times}, of {comparison['pairs']} pairs"


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


# -- while it runs -----------------------------------------


class Board:
    """What is known so far, path by path; drawn anew at most ten times in a second."""

    def __init__(self) -> None:
        self._latency: dict[str, Histogram] = {}
        self._errors: dict[str, int] = {}
        self._under_way: dict[str, int] = {}
        self._began = time.monotonic()

    def watch(self, path: str) -> Watch:
        """Whom the driver of a block tells what it sees."""
        latency = self._latency.setdefault(path, Histogram())
        self._errors.setdefault(path, 0)

        def seen(answer: Answer | None, under_way: int) -> None:
            self._under_way[path] = under_way
            if answer is None:
                self._errors[path] += 1
            else:
                latency.record(answer.latency_ns)
            self.changed()

        return seen

    def changed(self) -> None:
        """Something is new."""

    def table(self) -> Grid:
        grid = Grid(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
        grid.add_column(f"{time.monotonic() - self._began:.0f} s")
        for name in ("answered", "under way", "p50 ms", "p99 ms", "errors"):
            grid.add_column(name, justify="right")
        for path, latency in self._latency.items():
            marks = [latency.percentile(percent) for percent in (50, 99)]
            grid.add_row(
                path,
                f"{latency.count:,}",
                f"{self._under_way.get(path, 0):,}",
                *(_number(None if mark is None else mark / MS) for mark in marks),
                f"{self._errors[path]:,}",
            )
        return grid

    def line(self) -> str:
        parts = []
        for path, latency in self._latency.items():
            p99 = latency.percentile(99)
            parts.append(f"{path} {latency.count:,} answered, p99 {_number(p99 and p99 / MS)} ms")
        return "; ".join(parts)


class _LiveBoard(Board):
    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live = live

    def changed(self) -> None:
        self._live.update(self.table())


class _LineBoard(Board):
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last = clock()

    def changed(self) -> None:
        if self._clock() - self._last >= LINE_SECONDS:
            self._last = self._clock()
            sys.stderr.write(f"nestbed: {self.line()}\n")
            sys.stderr.flush()


@contextmanager
def board(quiet: bool) -> Iterator[Board]:
    """What suits standard error: a live table on a terminal, a line now and then elsewhere."""
    if quiet:
        yield Board()
    elif sys.stderr.isatty():
        with Live(console=Console(stderr=True), transient=True, refresh_per_second=10) as live:
            yield _LiveBoard(live)
    else:
        yield _LineBoard()
