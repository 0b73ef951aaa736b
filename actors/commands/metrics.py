"""Metrics of a comparison while it runs: the exporter on a loop of its own, in a thread of its own.

The comparison is ordinary code that never waits, so nothing could answer a scrape on its thread. A scrape
reads counts while they grow: each number is right at some moment of the scrape, not all at the same one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector as PrometheusCollector

from actors.observe.collector import Collector
from actors.observe.exporter import serve

if TYPE_CHECKING:
    from prometheus_client import Metric

    from actors.compare.progress import Cast
    from actors.observe.collector import Source
    from actors.runtime.actor import Actor
    from protocol.hosting import Service
    from protocol.ledger import Ledger
    from protocol.tracking import Book

CAST = ("te", "kvm", "host", "guest", "broker")
READS = 20  # a table that got a new key while it was read is read again


class Watching:
    """What a comparison tells of itself, put where scrapes find it."""

    def __init__(self, collector: Collector, depth: int) -> None:
        self._collector, self._depth = collector, depth
        self._on_stage: list[Source] = []
        self.lock = threading.Lock()  # no scrape while the cast changes: a counter would step back

    def exemplify(self, exemplars: Callable[[], Mapping[tuple[str, ...], str]]) -> None:
        """Show these ids of traces beside the counts of calls, to whoever asks for OpenMetrics."""
        self._collector.exemplars = exemplars

    def attach(self, arch: str, path: str, ledger: Ledger, books: Iterable[Book] = ()) -> None:
        with self.lock:
            self._collector.attach(arch, path, ledger, books, depth=self._depth)

    def staged(self, arch: str, actors: Cast, hosting: Service | None) -> None:
        """Another path begins; who played on the last one is gone."""
        with self.lock:
            while self._on_stage:
                self._collector.detach(self._on_stage.pop())
            for role in CAST:
                of_role = partial(_playing, actors, role)
                self._on_stage.append(self._collector.attach_actors(role, of_role))
            if hosting is not None:
                self._on_stage.append(self._collector.attach_service(arch, hosting))


def _playing(actors: Cast, role: str) -> list[Actor]:
    return [actor for played, actor in actors() if played == role]


class _Patient(PrometheusCollector):
    """Reads again where a table grew in the middle: the comparison's thread does not wait for scrapes."""

    def __init__(self, inner: Collector, lock: threading.Lock) -> None:
        self._inner, self._lock = inner, lock

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            return self._read()

    def _read(self) -> Iterator[Metric]:
        for _ in range(READS - 1):
            try:
                return iter(list(self._inner.collect()))
            except RuntimeError:
                continue
        return iter(list(self._inner.collect()))


@contextmanager
def served(port: int, depth: int) -> Iterator[tuple[Watching, int]]:
    """Serve on the loopback while the block runs; gives what a comparison is to tell, and the port.

    Raises CannotListen.
    """
    collector = Collector()
    collector.scenario_started(time.time())
    watching = Watching(collector, depth)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Patient(collector, watching.lock))
    ProcessCollector(registry=registry)
    said: SimpleQueue[int | BaseException] = SimpleQueue()
    scope = trio.CancelScope()
    token: list[trio.lowlevel.TrioToken] = []

    async def until_cancelled() -> None:
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with serve(registry, port) as chosen:
                said.put(chosen)
                await trio.sleep_forever()

    def loop() -> None:
        try:
            trio.run(until_cancelled)
        except Exception as error:
            said.put(error)

    thread = threading.Thread(target=loop, name="metrics", daemon=True)
    thread.start()
    answer = said.get()
    if isinstance(answer, BaseException):
        thread.join()
        raise answer

    try:
        yield watching, answer
    finally:
        with suppress(trio.RunFinishedError):  # it ended by itself
            token[0].run_sync_soon(scope.cancel)
        thread.join()
