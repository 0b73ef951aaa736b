"""Reads counts where they are kept, when somebody scrapes: no handler holds a line of counting for it.

A *source* is one thing to read: a machine's ledger with its books, a broker's service, the actors of a role,
a link, a supervisor. Sources of equal labels are summed up. One that ends is detached: what it counted stays,
so that no counter ever falls.

Every series that can be named beforehand is there from the first scrape on, at 0: calls from the call table,
records from the kinds of the books, refusals from the table of errors.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.samples import Exemplar

from actors.observe import metrics as m
from nestbed import __version__
from protocol.arch import load
from protocol.calls import CallSpec
from protocol.hosting.channels import HALF_OPEN
from protocol.hosting.errors import ERRORS
from protocol.hosting.messages import MESSAGES
from protocol.hosting.registry import CHANNELS_LIVE
from protocol.hosting.service import Service
from protocol.hosting.states import State
from protocol.ledger import Key, Ledger
from protocol.plan.scenario import PATHS
from protocol.tracking import PLANE_OF, SIZES, Book
from protocol.wire import REASONS

if TYPE_CHECKING:
    from prometheus_client import Metric

    from actors.runtime.actor import Actor
    from actors.runtime.link import Link
    from actors.runtime.supervisor import Supervisor

NESTING, HOSTING = ("nested", "mixed"), ("hosted", "mixed")
OPS = ("create", "update", "delete")
LOOKUPS = ("hit", "miss", "denied")
GUEST_STATES = tuple(str(state).lower() for state in State if state is not State.RELEASED)
RELEASES = {
    "request": "request",
    "lease": "lease",
    "rollback": "rollback",
    "gone": "l1_crash",
    "reboot": "l1_reboot",
    "stray": "l0_restart",
}
CHANNEL_ENDS = ("offer", "requester", HALF_OPEN, *(state for state in State if state not in CHANNELS_LIVE))

Guests = Callable[[], Mapping[str, int]]


class Sums:
    """Values by family and labels, added up. A family with too many series gets one for all of the rest."""

    def __init__(self) -> None:
        self.values: dict[m.Family, dict[tuple[str, ...], float]] = {family: {} for family in m.FAMILIES}

    def add(self, family: m.Family, labels: tuple[str, ...], value: float = 0) -> None:
        series = self.values[family]
        if labels not in series and len(series) >= m.SERIES_LIMIT:
            self.add(m.FOLDED, (family.sample,), 1)
            # What the series is of stays, if the family says so first: machine, role or peer.
            kept = sum(label in (*m.MACHINE, "role", "peer") for label in family.labels)
            labels = labels[:kept] + (m.OTHER,) * (len(labels) - kept)
        series[labels] = series.get(labels, 0) + value

    def highest(self, family: m.Family, labels: tuple[str, ...], value: float) -> None:
        """Keep the highest instead of the sum."""
        series = self.values[family]
        series[labels] = max(series.get(labels, 0), value)

    def merge_counters(self, other: Sums) -> None:
        for family, series in other.values.items():
            if family.kind is m.Kind.COUNTER:
                for labels, value in series.items():
                    self.add(family, labels, value)


class Source(Protocol):
    """One thing to read."""

    def read(self, into: Sums) -> None: ...


class Collector(PrometheusCollector):
    """All sources of one process. Register it with a registry, or take `registry_of`."""

    def __init__(self, calls: Callable[[str], Mapping[int, CallSpec]] | None = None) -> None:
        """`calls` gives the call table of an architecture; by default its own."""
        self._calls = calls or (lambda arch: load(arch).calls)
        self._sources: list[Source] = []
        self._gone = Sums()
        self._started: float | None = None
        # Ids of traces by architecture, path and key of the ledger: who wants them sees them as exemplars.
        self.exemplars: Callable[[], Mapping[tuple[str, ...], str]] = dict

    # -- sources ---------------------------------------------------------------------------

    def attach(
        self,
        arch: str,
        path: str,
        ledger: Ledger,
        books: Iterable[Book] = (),
        *,
        depth: int = 1,
        guests: Guests | None = None,
    ) -> Source:
        """Read a machine from now on. Raises ValueError for an unknown path, KeyError for an architecture.

        `depth` is that of the secure hosts. `books` are looked through at each scrape, so they may come and
        go. `guests` says how many secure guests are in each of GUEST_STATES.
        """
        _known("path", path, PATHS)
        expected = tuple(expected_keys(self._calls(arch).values(), path, depth))
        return self.add(_Machine(arch, path, ledger, books, expected, guests))

    def attach_service(self, arch: str, service: Service) -> Source:
        """Read a broker's service."""
        return self.add(_Hosting(arch, service))

    def attach_actors(self, role: str, actors: Callable[[], Iterable[Actor]]) -> Source:
        """Read the actors of a role, whichever there are at the time."""
        return self.add(_Actors(_known("role", role, m.ROLES), actors))

    def attach_link(self, peer: str, link: Link) -> Source:
        """Read a link to a process of the role `peer`. Detach it when it has ended."""
        return self.add(_Link(_known("peer", peer, m.ROLES), link))

    def attach_supervisor(self, name: str, supervisor: Supervisor) -> Source:
        """Read a supervisor: `root`, or the one of the actors of a role."""
        return self.add(_Supervisor(_known("supervisor", name, m.SUPERVISORS), supervisor))

    def add(self, source: Source) -> Source:
        """Read any source; what it adds has to be of the families in `metrics`."""
        self._sources.append(source)
        return source

    def detach(self, source: Source) -> None:
        """A source has ended: keep what it counted, forget what it had."""
        last = Sums()
        source.read(last)
        self._gone.merge_counters(last)
        self._sources.remove(source)

    def scenario_started(self, at_s: float) -> None:
        """Say when the scenario began, in Unix time."""
        self._started = at_s

    # -- one scrape ------------------------------------------------------------------------

    def read(self) -> Sums:
        """What a scrape would see now."""
        sums = Sums()
        sums.add(m.BUILD, (__version__, platform.python_version()), 1)
        if self._started is not None:
            sums.add(m.STARTED, (), self._started)
        sums.merge_counters(self._gone)
        for source in self._sources:
            source.read(sums)
        return sums

    def collect(self) -> Iterator[Metric]:
        examples = self.exemplars()
        for family, series in self.read().values.items():
            metric = family.metric()
            for labels, value in series.items():
                trace = examples.get((*labels[:2], *_ledger_key(family, labels))) if examples else None
                if trace is None or not isinstance(metric, CounterMetricFamily):
                    metric.add_metric(labels, value)
                else:
                    metric.add_metric(labels, value, exemplar=Exemplar({"trace_id": trace}, 1))
            yield metric

    def describe(self) -> Iterator[Metric]:
        for family in m.FAMILIES:
            yield family.metric()


def _ledger_key(family: m.Family, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The key in the ledger of one of its series."""
    return (m.LEDGER_NAME.get(family, ""), *labels[2:])


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry of this collector and of the process it is in, and of nothing else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


def expected_keys(calls: Iterable[CallSpec], path: str, depth: int) -> Iterator[Key]:
    """The ledger's keys that a machine of this path can have by its call table and its books."""
    for row in calls:
        if row.for_guest():
            yield "te_calls", row.name, row.category, "native", "guest"
        if not row.for_host():
            continue
        yield "te_calls", row.name, row.category, "own", "0"
        yield "te_issued", row.name, "0"
        if path in NESTING:
            for level in range(1, depth + 1):
                yield "te_calls", row.name, row.category, row.treatment, str(level)
                yield "te_issued", row.name, str(level)
    if path in NESTING:
        for host in range(depth):
            yield "reflections", str(host), str(host + 1)
        for kind in ("vm_map", "vcpu_map"):
            for result in ("hit", "miss"):
                yield "lookups", kind, result
    for level in range(1, depth + 2):
        yield "entries", str(level)
    if path in HOSTING:
        for message in MESSAGES:
            yield "hosting", message


def _known(what: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"no {what} {value!r}; there are {', '.join(allowed)}")
    return value


class _Machine:
    """A ledger and the books that write into it."""

    def __init__(
        self,
        arch: str,
        path: str,
        ledger: Ledger,
        books: Iterable[Book],
        expected: tuple[Key, ...],
        guests: Guests | None,
    ) -> None:
        self._of = (arch, path)
        self._ledger, self._books, self._guests = ledger, books, guests
        self._expected = expected

    def read(self, into: Sums) -> None:
        books = list(self._books)
        counts = dict.fromkeys(self._expected, 0)
        for holder in {book.holder for book in books}:
            counts |= {("tracking_updates", kind, op, holder): 0 for kind in SIZES for op in OPS}
        counts |= self._ledger.counts()
        for key, n in counts.items():
            into.add(m.BY_LEDGER[key[0]], (*self._of, *map(str, key[1:])), n)
        for what, n in dict(self._ledger.contention).items():
            into.add(m.CONTENTION, (*self._of, what), n)
        for book in books:
            live = book.records()
            for kind, size in SIZES.items():
                labels = (*self._of, kind, PLANE_OF[kind], book.holder)
                into.add(m.RECORDS, labels, live.get(kind, 0))
                into.add(m.MODEL_BYTES, labels, live.get(kind, 0) * size)
        if self._guests is not None:
            there = self._guests()
            for state in (*GUEST_STATES, *(there.keys() - set(GUEST_STATES))):
                known = state if state in GUEST_STATES else m.OTHER
                into.add(m.GUESTS, (*self._of, known), there.get(state, 0))


class _Hosting:
    """The service of a broker."""

    def __init__(self, arch: str, service: Service) -> None:
        self._of = (arch, "hosted")
        self._service = service

    def read(self, into: Sums) -> None:
        said = self._service.statistics()
        into.add(m.LEASE_RENEWALS, self._of, said.leases.get("renewed", 0))
        into.add(m.LEASE_EXPIRED, self._of, said.leases.get("expired", 0))
        into.add(m.IMAGE_BYTES, self._of, said.image_bytes)
        for family, names, counts in (
            (m.REPLAYS, ("same", "conflict"), said.replays),
            (m.REQUESTS, MESSAGES, said.messages),
            (m.REFUSALS, [code.name for code in ERRORS], said.refusals),
            (m.HOST_LOOKUPS, LOOKUPS, said.lookups),
            (m.CHANNEL_BYTES, ("sent", "received"), said.channel_bytes),
            (m.CHANNEL_WAIT, ("sent", "received"), said.channel_wait_s),
            (m.CHANNELS, ("offered", "open"), said.channels),
            (m.CHANNEL_LIMIT, ("requester", "host"), said.channel_limits),
        ):
            for name in names:
                into.add(family, (*self._of, name), counts.get(name, 0))
        for cause, name in RELEASES.items():
            into.add(m.HOST_RELEASES, (*self._of, name), said.teardowns.get(cause, 0))
        for cause in CHANNEL_ENDS:
            into.add(m.CHANNEL_RESETS, (*self._of, cause.lower()), said.channel_resets.get(cause, 0))
        into.add(m.CHANNELS_REFUSED, self._of, said.channels_refused)
        into.add(m.ORPHANS, self._of, said.strays)
        for state in GUEST_STATES:
            into.add(m.GUESTS, (*self._of, state), said.children.get(state.upper(), 0))


class _Actors:
    """Actors of one role."""

    def __init__(self, role: str, actors: Callable[[], Iterable[Actor]]) -> None:
        self._role, self._actors = role, actors

    def read(self, into: Sums) -> None:
        of = (self._role,)
        live = dead = depth = capacity = peak = parked = 0
        fullest = 0.0
        for actor in self._actors():
            waiting, in_flight = actor.statistics()
            dead += actor.dead is not None
            live += actor.dead is None
            depth += waiting.depth
            capacity += waiting.capacity
            parked += in_flight
            peak = max(peak, waiting.peak)
            fullest = max(fullest, waiting.depth / waiting.capacity)
        into.add(m.ACTORS, (*of, "live"), live)
        into.add(m.ACTORS, (*of, "dead"), dead)
        into.add(m.MAILBOX_DEPTH, of, depth)
        into.add(m.MAILBOX_CAPACITY, of, capacity)
        into.add(m.IN_FLIGHT, of, parked)
        into.highest(m.MAILBOX_PEAK, of, peak)
        into.highest(m.MAILBOX_FULLEST, of, fullest)


class _Link:
    """One link."""

    def __init__(self, peer: str, link: Link) -> None:
        self._peer, self._link = peer, link

    def read(self, into: Sums) -> None:
        of, said = (self._peer,), self._link.statistics()
        into.add(m.LINKS, of, 1)
        into.add(m.LINK_FRAMES, (*of, "sent"), said.sent)
        into.add(m.LINK_FRAMES, (*of, "received"), said.received)
        into.add(m.LINK_BYTES, (*of, "sent"), said.bytes_sent)
        into.add(m.LINK_BYTES, (*of, "received"), said.bytes_received)
        into.add(m.LINK_CALLS, (*of, "outstanding"), said.outstanding)
        into.add(m.LINK_CALLS, (*of, "held"), said.held)
        into.add(m.LINK_CALLS, (*of, "serving"), said.serving)
        into.add(m.LINK_EXPIRED, of, said.expired)
        for reason in REASONS:
            into.add(m.FRAME_ERRORS, (*of, reason), said.violations.get(reason, 0))


class _Supervisor:
    """One supervisor."""

    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self._name, self._supervisor = name, supervisor

    def read(self, into: Sums) -> None:
        of, said = (self._name,), self._supervisor.statistics()
        into.add(m.CHILDREN, of, said.children)
        into.add(m.RESTARTS, of, said.restarts)
        into.add(m.RESTARTS_LEFT, of, said.left)
