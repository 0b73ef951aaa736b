"""A finished run as OpenMetrics text with timestamps, for whoever wants it in a Prometheus of their own.

The families and labels are those of /metrics. A counter has a point where its path begins, at 0, one at
the end of each phase, and one at the end of the run; its last point is the count in run.json. The times
are those of this program's own run: they order the phases, and say nothing about any hardware.
"""

from __future__ import annotations

import platform
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.samples import Exemplar

from actors.observe import metrics as m
from actors.observe.collector import expected_keys
from nestbed import __version__
from protocol.arch import load
from protocol.ledger import FAMILIES, Key, Ledger
from protocol.tracking import PLANE_OF, SIZES, Book

if TYPE_CHECKING:
    from prometheus_client import Metric

Json = dict[str, Any]
Labels = tuple[str, ...]
Point = tuple[float, float]  # when, in Unix time, and how much
TICK_S = 0.001  # Prometheus keeps milliseconds: two boundaries are never in the same one
FREE = ("call", "reason")  # labels whose words may hold dots; a family has one of them at most


@dataclass(slots=True)
class _Machine:
    """When each phase of one path ended, and what its books held then."""

    began: float
    books: Iterable[Book] = ()
    phase: str | None = None
    ends: dict[str, float] = field(default_factory=dict)
    held: list[tuple[float, dict[tuple[str, str], int]]] = field(default_factory=list)


class Recording:
    """Notes when phases begin and end, and what lives then. Hand it to a Progress."""

    def __init__(self, clock: Callable[[], float] = time.time, *, books: bool = True) -> None:
        """Without `books` no gauge is written: those of hosts in other processes cannot be looked at."""
        self._clock, self._books = clock, books
        self._last = 0.0
        self._machines: dict[tuple[str, str], _Machine] = {}
        self._current: _Machine | None = None
        self.began = self._now()

    def _now(self) -> float:
        self._last = max(round(self._clock(), 3), round(self._last + TICK_S, 3))
        return self._last

    def attach(self, arch: str, path: str, ledger: Ledger, books: Iterable[Book]) -> None:
        """A machine is about to run."""
        self._current = _Machine(self._now(), books if self._books else ())
        self._machines[arch, path] = self._current

    def phase(self, name: str | None) -> None:
        """The phase before is over, and `name` begins; None: the path is over."""
        machine = self._current
        if machine is None:
            return
        if machine.phase is not None:
            machine.ends[machine.phase] = now = self._now()
            if self._books:
                machine.held.append((now, _held(machine.books)))
        machine.phase = name
        if name is None:
            machine.books, self._current = (), None  # a finished machine gives its memory back

    def text(self, results: Iterable[Json], exemplars: Mapping[tuple[str, ...], str] | None = None) -> str:
        """The recorded run, ending in `# EOF`: the paths that were finished.

        `exemplars` are ids of traces by architecture, path and key of the ledger.
        """
        points = _Points(self.began, self._now(), exemplars or {})
        for result in results:
            machine = self._machines.get((result["arch"], result["path"]), _Machine(self.began))
            points.add_counts(result, machine.began, machine.ends)
            points.add_books(result, machine.held)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(points)
        encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
        return encode(registry).decode()


def _held(books: Iterable[Book]) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for book in books:
        live = book.records()
        for kind in SIZES:
            found[kind, book.holder] += live.get(kind, 0)
    return dict(found)


class _Points(PrometheusCollector):
    """Points by family and labels, each series in the order of time."""

    def __init__(
        self, began: float, ended: float, exemplars: Mapping[tuple[str, ...], str] | None = None
    ) -> None:
        self._exemplars = {
            (m.BY_LEDGER[family], (arch, path, *labels)): Exemplar({"trace_id": trace}, 1)
            for (arch, path, family, *labels), trace in (exemplars or {}).items()
        }
        self._series: dict[m.Family, defaultdict[Labels, list[Point]]] = {
            family: defaultdict(list) for family in m.FAMILIES
        }
        self._ended = ended
        self._add(m.BUILD, (__version__, platform.python_version()), [(began, 1)])
        self._add(m.STARTED, (), [(began, began)])

    def _add(self, family: m.Family, labels: Labels, points: list[Point]) -> None:
        """A series, without the points in which nothing changes; its end is the run's."""
        if all(value == points[0][1] for _, value in points):
            points = points[:1]
        self._series[family][labels] = [*points, (self._ended, points[-1][1])]

    def add_counts(self, result: Json, began: float, ends: Mapping[str, float]) -> None:
        """The counters of one path."""
        of = (result["arch"], result["path"])
        phases = {name: _keys(counts) for name, counts in result["phases"].items() if counts is not None}
        rows = load(result["arch"]).calls.values()
        keys = dict.fromkeys(expected_keys(rows, result["path"], result["depth"]))
        keys |= dict.fromkeys(key for counts in phases.values() for key in counts)
        for key in keys:
            total, points = 0, [(began, 0.0)]
            for name, counts in sorted(phases.items(), key=lambda phase: ends.get(phase[0], self._ended)):
                total += counts.get(key, 0)
                points.append((ends.get(name, self._ended - TICK_S), total))
            self._add(m.BY_LEDGER[key[0]], (*of, *key[1:]), _in_order(points))
        for what, n in result["contention"].items():
            self._add(m.CONTENTION, (*of, what), [(began, 0), (max(ends.values(), default=self._ended), n)])

    def add_books(self, result: Json, held: list[tuple[float, dict[tuple[str, str], int]]]) -> None:
        """What lived at the end of each phase. A holder that is not there yet, or no more, holds nothing."""
        of = (result["arch"], result["path"])
        for kind, holder in dict.fromkeys(key for _, found in held for key in found):
            labels = (*of, kind, PLANE_OF[kind], holder)
            points = [(at, found.get((kind, holder), 0)) for at, found in held]
            self._add(m.RECORDS, labels, [(at, n) for at, n in points])
            self._add(m.MODEL_BYTES, labels, [(at, n * SIZES[kind]) for at, n in points])

    def collect(self) -> Iterator[Metric]:
        for family, series in self._series.items():
            if not series:
                continue
            metric = family.metric()
            for labels, points in series.items():
                example = self._exemplars.get((family, labels))
                for at, value in _in_order(points):
                    _add_point(metric, labels, value, at, example if value == points[-1][1] else None)
            yield metric


def _add_point(
    metric: CounterMetricFamily | GaugeMetricFamily,
    labels: Labels,
    value: float,
    at: float,
    example: Exemplar | None,
) -> None:
    if example is None:
        metric.add_metric(labels, value, timestamp=at)
    else:
        assert isinstance(metric, CounterMetricFamily), "only what is counted has an example"
        metric.add_metric(labels, value, timestamp=at, exemplar=example)


def _in_order(points: list[Point]) -> list[Point]:
    """One point a time, the latest said: phases whose end nobody saw end together."""
    return sorted({round(at, 3): value for at, value in points}.items())


def _keys(counts: Mapping[str, int]) -> dict[Key, int]:
    """Counts under the keys of the ledger, out of the dotted names of run.json. Totals are left out."""
    return {_key(name): n for name, n in counts.items() if name not in FAMILIES}


def _key(name: str) -> Key:
    family, *words = name.split(".")
    labels = FAMILIES[family][0]
    at = next((place for place, label in enumerate(labels) if label in FREE), 0)
    more = len(words) - len(labels) + 1
    return (family, *words[:at], ".".join(words[at : at + more]), *words[at + more :])
