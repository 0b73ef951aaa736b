"""Which operations of a comparison are traced, and what is kept of them.

Sampling decides at the head: of each operation's name one in N is followed, the first among them. Of the
others the time that they took is noted, and those that failed, and the slowest of each name, are kept as
single spans: nobody can say afterwards what went on inside of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.describe import describe
from actors.runtime.actor import Runtime
from actors.runtime.tracing import Tracer
from nestbed import __version__
from protocol.arch import load
from protocol.cost.price import priced
from protocol.cost.table import Costs
from protocol.ledger import Key, Ledger, flatten
from protocol.plan import operations as op
from protocol.plan.workload import NESTED
from protocol.trace.chrome import document, events
from protocol.trace.fold import Row, fold
from protocol.trace.join import Piece, join, pieces
from protocol.trace.span import Span
from protocol.trace.text import label
from protocol.trace.timeline import Bar, Price, timeline

Json = dict[str, Any]
ROWS = 60  # of one picture in the report
Wanted = Callable[[str, str, int], bool]  # path, name of an operation, how often it came before


def sampled(n: int) -> Wanted:
    """One in `n` of each operation on each path."""
    return lambda _path, _name, before: before % n == 0


@dataclass(frozen=True, slots=True)
class Traced:
    """One operation of one path. `followed`: with its messages; else its own span alone, without counts."""

    arch: str
    path: str
    name: str
    root: Span
    followed: bool = True

    @property
    def wall_ns(self) -> int:
        return (self.root.ended_ns or self.root.began_ns) - self.root.began_ns


class Tracing:
    """Traces those operations of a comparison for which `wanted` says so."""

    def __init__(
        self, wanted: Wanted, seed: int = 0, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self.found: list[Traced] = []
        self.examples: dict[tuple[str, ...], str] = {}  # what `exemplars` says, as far as it is known
        self.failed: list[Traced] = []  # that were not followed
        self._slowest: dict[tuple[str, str, str], Traced] = {}
        self.dropped = 0  # messages that were too many to follow
        self._wanted, self._seed, self._clock = wanted, seed, clock
        self._came: Counter[str] = Counter()
        self.tracer: Tracer | None = None  # of the path that is under way
        self._joined = 0  # of `found`, those of paths that are over
        self._machine = ("", "")

    def begin(self, arch: str, path: str, runtime: Runtime, ledger: Ledger) -> None:
        """Another path begins."""
        self._machine = (arch, path)
        self._came.clear()
        self._joined = len(self.found)
        self.tracer = Tracer(runtime, ledger.divert, describe, f"{self._seed}:{arch}:{path}", self._clock)

    def join(self, processes: Iterable[Iterable[Piece]]) -> None:
        """Put what other processes traced on this path below the operations that it belongs to."""
        assert self.tracer is not None, "no path has begun"
        roots = [traced.root for traced in self.found[self._joined :]]
        join(roots, pieces(self.tracer.adopted.values()), *processes)

    @contextmanager
    def operation(self, host: int, act: op.Operation | op.Event) -> Iterator[None]:
        """One act of the plan, traced if it is wanted."""
        arch, path = self._machine
        number = self._came[act.name]
        self._came[act.name] += 1
        tracer = self.tracer
        assert tracer is not None, "no path has begun"
        if not self._wanted(path, act.name, number):
            with self._noted(tracer, f"host {host}", act):
                yield
            return
        with tracer.operation(f"host {host}", describe(act)) as root:
            traced = Traced(arch, path, act.name, root)
            self.found.append(traced)
            yield
        self.examples |= _examples(traced)
        self.dropped += tracer.dropped
        tracer.dropped = 0

    @contextmanager
    def _noted(self, tracer: Tracer, who: str, act: op.Operation | op.Event) -> Iterator[None]:
        """An operation that is not followed: kept if it fails, or is the slowest of its name so far."""
        root = tracer.alone(who, describe(act))
        traced = Traced(*self._machine, act.name, root, followed=False)
        try:
            yield
        except BaseException as error:
            tracer.close(root, error)
            self.failed.append(traced)
            raise
        tracer.close(root, None)
        key = (*self._machine, act.name)
        if key not in self._slowest or traced.wall_ns > self._slowest[key].wall_ns:
            self._slowest[key] = traced

    @property
    def noted(self) -> list[Traced]:
        """What was kept of operations that were not followed."""
        return [*self.failed, *self._slowest.values()]


def price_of(costs: Costs, depth: int, traced: Traced) -> Price:
    """What counts of one path cost, in modelled nanoseconds. `depth` is that of the secure hosts."""
    comparison = load(traced.arch).comparison
    assert comparison is not None
    prices, guests = comparison.prices, depth + 1 if traced.path == NESTED else 1

    def price(counts: Mapping[Key, int]) -> int:
        ns: int = priced(costs, prices, guests, {"": flatten(counts)})["ns"]
        return ns

    return price


def chrome_trace(tracing: Tracing, costs: Costs, depth: int) -> Json:
    """All that was traced, for Perfetto: followed operations in modelled time, and every one in wall time."""
    every: list[Json] = []
    places: dict[str, int] = {}
    for traced in tracing.found:
        bars = timeline(traced.root, price_of(costs, depth, traced))
        every += events(
            f"{traced.arch} {traced.path}, modelled time", bars, _place(places, traced, "modelled")
        )
    for traced in (*tracing.found, *tracing.noted):
        every += events(
            f"{traced.arch} {traced.path}, wall time", _walls(traced), _place(places, traced, "wall")
        )
    return document(every, {"nestbed": __version__, "not followed for want of room": tracing.dropped})


def _place(places: dict[str, int], traced: Traced, time: str) -> int:
    return places.setdefault(f"{traced.arch} {traced.path} {time}", len(places) + 1)


def _walls(traced: Traced) -> list[Bar[Span]]:
    """The spans where the wall clock saw them, from the beginning of the operation."""
    zero = traced.root.began_ns
    return [
        Bar(span, 0, span.began_ns - zero, (span.ended_ns or span.began_ns) - zero)
        for span in traced.root.walk()
    ]


def exemplars(tracing: Tracing) -> dict[tuple[str, ...], str]:
    """The id of a trace for each call that was followed: by arch, path and the ledger's key."""
    found: dict[tuple[str, ...], str] = {}
    for traced in tracing.found:
        found |= _examples(traced)
    return found


def _examples(traced: Traced) -> dict[tuple[str, ...], str]:
    return {
        (traced.arch, traced.path, *key): traced.root.trace_id.hex()
        for span in traced.root.walk()
        for key, n in span.counts.items()
        if key[0] == "te_calls" and n > 0
    }


def waterfalls(tracing: Tracing, costs: Costs, depth: int) -> list[Json]:
    """The first operation of each name that was followed, folded, as the report draws it."""
    made: dict[tuple[str, str, str], Json] = {}
    for traced in tracing.found:
        key = (traced.arch, traced.path, traced.name)
        if key not in made:
            bars = timeline(fold(traced.root), price_of(costs, depth, traced))
            made[key] = {
                "arch": traced.arch,
                "path": traced.path,
                "operation": traced.root.what,
                "trace_id": traced.root.trace_id.hex(),
                "modelled_ns": bars[0].took_ns,
                "rows": [_row(bar) for bar in bars[:ROWS]],
                "more_rows": max(0, len(bars) - ROWS),
            }
    return list(made.values())


def _row(bar: Bar[Row]) -> Json:
    row = bar.span
    return {
        "depth": bar.depth,
        "message": label(row),
        "at": row.who,
        "treatment": row.error or " ".join(dict.fromkeys(call.treatment for call in row.calls)),
        "exits": row.amount("exits"),
        "begin_ns": bar.begin_ns,
        "end_ns": bar.end_ns,
    }
