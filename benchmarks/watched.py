"""What it costs to be watched: calls through actors with tracing and with metrics, beside the same without.

Both are measured in turns of the same run, on the same actors, so that a machine that gets slower gets slower
for both; seconds are of the CPU's time, that of the thread that reads metrics among them. Sampled tracing
follows one operation in SAMPLE; metrics are read SCRAPES_A_SECOND times, many times as often as a Prometheus
does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from statistics import median
from urllib.request import urlopen

import trio

from actors.commands.metrics import served
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.host import SecureHost
from actors.kvm import Kvm
from actors.observe.collector import Collector, registry_of
from actors.observe.exporter import serve
from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.mailbox import MailboxFull
from actors.runtime.port import ignore
from actors.runtime.tracing import Tracer
from actors.scenario import load
from actors.te import TrustedEntity
from benchmarks.run import Case
from benchmarks.uv_calls import no_end, prepared
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.linked import LinkedUltravisor
from protocol.effects import Fault, Step
from protocol.ledger import Ledger

TURNS = 30
TURN_S = 0.05
SAMPLE = 100
SCRAPES_A_SECOND = 10
SCRAPES = 40
CALLERS = 256

Watch = Callable[[Runtime, Ledger], AbstractContextManager[Tracer | None]]


def traced(runtime: Runtime, ledger: Ledger) -> AbstractContextManager[Tracer | None]:
    """A tracer that follows what the measurement asks it to."""
    return nullcontext(Tracer(runtime, ledger.divert))


@contextmanager
def scraped(_runtime: Runtime, ledger: Ledger) -> Iterator[None]:
    """Somebody reads all metrics again and again, from a thread of its own, as the exporter does."""
    collector, over = Collector(), threading.Event()
    collector.attach("s390", "nested", ledger, (), depth=1)

    def scrape() -> None:
        while not over.wait(1 / SCRAPES_A_SECOND):
            list(collector.collect())

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def in_turns(watch: Watch) -> tuple[float, float]:
    """Calls a second watched and not, in turns: the medians."""
    host = prepared(1, apart=True)
    nested, machine = host.rig.below(0)
    async with open_runtime() as runtime:
        port = Kvm("kvm", TrustedEntity(machine, runtime).actor, runtime).add("l1", nested, no_end)
        level = LinkedUltravisor(host.level, host.level.cpus)
        at, cpu = host.issuer.scratch, host.issuer.cpu

        def perform(cpu: Cpu) -> Step[int | Fault]:
            return level.call(cpu, at)

        l1 = SecureHost("l1", perform, port, runtime)
        rates: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(2 * TURNS):
            watched = bool(turn % 2)
            with watch(runtime, host.rig.ledger) if watched else nullcontext() as tracer:
                rates[watched].append(await _turn(l1, cpu, tracer))
        return median(rates[True]), median(rates[False])


async def _turn(l1: SecureHost, cpu: Cpu, tracer: Tracer | None) -> float:
    done, begin = 0, time.process_time()
    while (took := time.process_time() - begin) < TURN_S:
        with nullcontext() if tracer is None else tracer.operation("bench", "call"):
            await l1.perform(cpu)
        for _ in range(SAMPLE - 1):
            await l1.perform(cpu)
        done += SAMPLE
    return done / took


# -- an answer while the program is busy -----------------------------------------------------


def scrapes(busy: bool) -> float:
    """Milliseconds that the slowest of SCRAPES answers took, with a comparison under way or not."""
    with served(0, depth=1) as (watching, port):
        progress = Progress()
        progress.on_attach, progress.on_staged = watching.attach, watching.staged
        over = threading.Event()

        def compare() -> None:
            while not over.is_set():
                run(load("default", flags={"paths": "nested"}, environment={}).scenario, progress)

        thread = threading.Thread(target=compare if busy else over.wait)
        thread.start()
        try:
            return max(_scrape(port) for _ in range(SCRAPES))
        finally:
            over.set()
            thread.join()


async def overloaded(busy: bool) -> float:
    """Milliseconds that the slowest of SCRAPES answers of a process took whose mailbox is never empty."""
    collector, slowest = Collector(), 0.0
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        actor = Actor("kvm", lambda message: message, runtime)
        collector.attach_actors("kvm", lambda: [actor])
        async with serve(registry_of(collector), 0) as port:
            for _ in range(CALLERS if busy else 0):
                nursery.start_soon(_flood, actor)
            for _ in range(SCRAPES):
                slowest = max(slowest, await trio.to_thread.run_sync(_scrape, port))
        nursery.cancel_scope.cancel()
    return slowest


async def _flood(actor: Actor) -> None:
    """Ask without an end; who finds the mailbox full asks again."""
    while True:
        try:
            actor.submit("something", ignore)
            await actor.ask("something")
        except MailboxFull:
            await trio.lowlevel.checkpoint()


def _scrape(port: int) -> float:
    begin = time.perf_counter()
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        answer.read()
    time.sleep(0.05)
    return 1000 * (time.perf_counter() - begin - 0.05)


@cache
def _measured(watch: Watch) -> tuple[float, float]:
    return trio.run(in_turns, watch)


def cases() -> Iterable[Case]:
    """Yield what this module measures."""
    for name, watch in ((f"one in {SAMPLE} traced", traced), ("metrics read", scraped)):
        yield Case(
            f"UV call through actors, {name}",
            "call/s",
            partial(lambda watch: _measured(watch)[0], watch),
            partial(lambda watch: _measured(watch)[1], watch),
        )
    yield Case(
        "slowest scrape while a comparison runs", "ms", partial(scrapes, True), partial(scrapes, False)
    )
    yield Case(
        "slowest scrape of an overloaded process",
        "ms",
        partial(trio.run, overloaded, True),
        partial(trio.run, overloaded, False),
    )
