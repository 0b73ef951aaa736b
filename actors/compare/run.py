"""Run a scenario on all of its paths, phase by phase, and say what it cost.

One path after the other, each on a fresh machine with the same seed. Within a phase the hosts work side by
side; a phase begins when all have finished the one before, so that every count belongs to one. Counts
depend on the scenario alone; `wall` says how long this program took, which says nothing about any hardware.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any

import trio

from actors.compare import interrupts
from actors.compare.beside import census
from actors.compare.breakeven import break_even
from actors.compare.claims import claims
from actors.compare.model import model
from actors.compare.outcome import Json, Outcome
from actors.compare.paths import stage
from actors.compare.progress import Progress, Stopped
from actors.compare.sensitivity import guest_level, sensitivity
from actors.compare.stage import MIB, Parts, Say, Stage
from actors.compare.tracing import Tracing
from actors.images import image_of
from actors.keyboard import Options
from actors.record import Transcript, Transcripts
from actors.runtime.actor import open_runtime
from protocol.arch import load
from protocol.arch.contract import Architecture
from protocol.cost.price import priced
from protocol.cost.table import Costs
from protocol.ledger import Ledger
from protocol.nesting.sizes import sizes_of
from protocol.plan.fit import PHASES
from protocol.plan.scenario import Scenario, as_dict
from protocol.plan.workload import DIRECT, MIXED, NESTED, Act, Workload, workload
from protocol.tracking import Book, summary

Perform = Callable[[int, Act], Awaitable[None]]


def run(
    scenario: Scenario,
    progress: Progress,
    transcripts: Transcripts | None = None,
    processes: int = 1,
    costs: Costs | None = None,
    tracing: Tracing | None = None,
    made: Mapping[tuple[str, str], Json] | None = None,
) -> Outcome:
    """Run everything that `scenario` asks for. What is finished when the person stops it is reported.

    With more than one process the guest hosts of the nested path live in the others; no count shows it.
    With `costs` the counts are priced, too. With `tracing` the operations that it wants are followed.
    `made` has results by architecture and path that other machines came to: then nothing is run here.
    """
    began = time.perf_counter()
    plans = {path: workload(scenario, path) for path in scenario.paths}
    plans_of = {
        arch: [plan.without(_lacking(load(arch))) for plan in plans.values()] for arch in scenario.arch
    }
    steps = sum(len(plan.phases) for of_arch in plans_of.values() for plan in of_arch)
    progress.start(steps)
    outcome = Outcome([])
    done = 0
    try:
        for arch in scenario.arch:
            for plan in plans_of[arch]:
                if made is not None:
                    result = made[arch, plan.path]
                else:
                    with alone():
                        path = partial(_path, scenario, load(arch), plan, progress, done, steps, transcripts)
                        result = interrupts.run(path, processes, tracing)
                done += len(plan.phases)
                if costs is not None:
                    result["modelled"] = _modelled(costs, load(arch), result, scenario.guest.vcpus)
                outcome.results.append(result)
                progress.result(result)
    except Stopped:
        outcome = Outcome(outcome.results, stopped=True)
    for arch in scenario.arch:
        outcome.census[arch] = census(load(arch).calls.values())
        results = [result for result in outcome.results if result["arch"] == arch]
        outcome.claims.extend(claims(arch, load(arch).calls.values(), results, scenario.strategy.handles))
        if costs is not None:
            found = sensitivity(costs, as_dict(scenario), load(arch), results)
            outcome.sensitivity.update({arch: found} if found is not None else {})
    if costs is not None:
        outcome.model.update(model(costs, scenario.arch))
    outcome.breakeven.update(break_even(as_dict(scenario), outcome.results))
    outcome.wall["seconds"] = round(time.perf_counter() - began, 3)
    return outcome


def one(scenario: Scenario, arch: str, path: str) -> Json:
    """The result of one architecture on one path, without a price: what an agent is asked for."""
    plan = workload(scenario, path).without(_lacking(load(arch)))
    with alone():
        return trio.run(_path, scenario, load(arch), plan, Progress(), 0, len(plan.phases), None, 1, None)


async def _path(
    scenario: Scenario,
    arch: Architecture,
    plan: Workload,
    progress: Progress,
    done: int,
    steps: int,
    transcripts: Transcripts | None,
    processes: int,
    tracing: Tracing | None,
) -> Json:
    """One architecture on one path."""
    comparison = arch.comparison
    if comparison is None:
        raise ValueError(f"{arch.name} has a console and no comparison yet")
    ledger = Ledger(comparison.prices.entry)
    data = None if scenario.guest.image is None else await trio.Path(scenario.guest.image).read_bytes()
    image = image_of(comparison, scenario, data)
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        parts = Parts(arch.name, scenario, comparison, ledger, runtime, image)
        if transcripts is not None and plan.path in (DIRECT, NESTED):
            written = transcripts.of(plan.path, _keyboard_of(scenario, arch.name, plan.path))
            parts.transcript = partial(_teller, written)
        if tracing is not None:
            tracing.begin(arch.name, plan.path, runtime, ledger)
            parts.tracer = tracing.tracer
        staged = await stage(parts, plan, processes, nursery)
        perform = staged.perform if tracing is None else partial(_traced, staged, tracing)
        progress.attach(arch.name, plan.path, ledger, _LiveBooks(staged))
        progress.staged(arch.name, staged.actors, staged.hosting)
        for number, phase in enumerate(plan.phases):
            progress.phase(plan.path, phase, done + number, steps)
            ledger.phase = phase
            await staged.enter_phase(phase)
            # A run in one step has nobody beside it, and a transcript is the same each time.
            if transcripts is not None or (scenario.fidelity == "bulk" and processes == 1):
                await _in_turn(perform, plan, phase)
            else:
                await _side_by_side(perform, plan, phase)
        _nothing_is_left(staged)
        tallies = [_own_tally(ledger, staged.books()), *await staged.tally()]
        if tracing is not None:
            tracing.join(await staged.traces())
        await staged.close()
        nursery.cancel_scope.cancel()
    return _result(scenario, arch, plan, tallies)


def _lacking(arch: Architecture) -> Mapping[str, str]:
    """Phases that the architecture has not, with reasons."""
    lacking: Mapping[str, str] = getattr(arch.comparison, "lacks", {})
    return lacking


def _own_tally(ledger: Ledger, books: Iterable[Book]) -> Json:
    return {
        "phases": ledger.phases(),
        "contention": dict(ledger.contention),
        "tracking": [[book.holder, summary(book)] for book in books],
    }


@contextmanager
def alone() -> Iterator[None]:
    """One failure comes out as itself, and not in the group that its nursery put around it."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if len(leaves) == 1 or all(isinstance(leaf, Stopped) for leaf in leaves):
            raise leaves[0] from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner


def _keyboard_of(scenario: Scenario, arch: str, path: str) -> Options:
    """The keyboard that has the hosts of a path: on the direct one L0, with room for the guests of all."""
    direct = path == DIRECT
    sizes = sizes_of(scenario, 0 if direct else scenario.depth)
    return Options(
        arch,
        sizes.depth,
        1 if direct else sizes.hosts,
        sizes.memory_bytes // MIB,
        sizes.cpus,
        sizes.profile,
        sizes.seed,
        shares=sizes.hosts if direct else 1,
        strategy=tuple(sorted(sizes.strategy.items())),
    )


def _teller(written: Transcript, host: int) -> Say:
    """How what one host asks is written down."""

    def say(request: Json, answer: Json) -> None:
        written.say(host, {**request, "host": host} if host else request, answer)

    return say


def _nothing_is_left(staged: Stage) -> None:
    """All guests were destroyed and all hosts ended: whatever is still there is a mistake in this program."""
    leaks, remains = staged.rig.leaks(), staged.rig.remains()
    assert not leaks, f"the books and the machine do not agree: {leaks}"
    assert not any(remains.values()), f"the machine still holds {remains}"


class _LiveBooks:
    """The books of a stage as they are whenever somebody looks."""

    def __init__(self, staged: Stage) -> None:
        self._staged = staged

    def __iter__(self) -> Iterator[Book]:
        return iter(self._staged.books())


async def _traced(staged: Stage, tracing: Tracing, host: int, act: Act) -> None:
    with tracing.operation(host, act):
        await staged.perform(host, act)


async def _side_by_side(perform: Perform, plan: Workload, phase: str) -> None:
    async with trio.open_nursery() as hosts:
        for host in plan.hosts:
            hosts.start_soon(_host, perform, host.number, host.phases.get(phase, ()))


async def _host(perform: Perform, number: int, acts: Iterable[Act]) -> None:
    for act in acts:
        await perform(number, act)


async def _in_turn(perform: Perform, plan: Workload, phase: str) -> None:
    """One act of each host, then the next of each. No count depends on the order between hosts."""
    for acts in zip_longest(*(host.phases.get(phase, ()) for host in plan.hosts)):
        for host, act in zip(plan.hosts, acts, strict=True):
            if act is not None:
                await perform(host.number, act)


def _result(scenario: Scenario, arch: Architecture, plan: Workload, tallies: Sequence[Json]) -> Json:
    phases: dict[str, Any] = _summed([tally["phases"] for tally in tallies])
    counts: Counter[str] = Counter()
    for of_phase in phases.values():
        counts.update(of_phase)
    contention: Counter[str] = Counter()
    for tally in tallies:
        contention.update(tally["contention"])
    absent = {f"phases.{phase}": why for phase, why in plan.absent.items()}
    for phase in plan.absent:
        phases[phase] = None
    return {
        "arch": arch.name,
        "path": plan.path,
        "depth": 0 if plan.path == DIRECT else scenario.depth,
        "realism": _realism(arch, scenario) if plan.path in ("nested", "mixed") else "built",
        "counts": dict(sorted(counts.items())),
        "phases": phases,
        "contention": dict(sorted(contention.items())),
        "tracking": _tracking(pair for tally in tallies for pair in tally["tracking"]),
        "modelled": None,
        "absent": absent,
    }


def _realism(arch: Architecture, scenario: Scenario) -> str:
    """How real the nested path is: a profile may say otherwise than its architecture."""
    return getattr(arch.profiles[scenario.profile], "realism", "") or arch.realism


def _modelled(costs: Costs, arch: Architecture, result: Json, vcpus: int) -> Json | None:
    """The price of what was counted.

    On the mixed path secure guests run at two levels, and no rule tells their exits from those of hosts.
    """
    if result["path"] == MIXED or arch.comparison is None:
        return None
    prices = arch.comparison.prices.of_guests_with(vcpus)
    return priced(costs, prices, guest_level(result), result["phases"])


def _summed(parts: Sequence[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Counts by phase, added up over processes; phases in the order of a run."""
    found: dict[str, Counter[str]] = {}
    for phases in parts:
        for phase, counts in phases.items():
            found.setdefault(phase, Counter()).update(counts)
    order = {phase: place for place, phase in enumerate(PHASES)}
    return {
        phase: dict(sorted(found[phase].items())) for phase in sorted(found, key=lambda name: order[name])
    }


def _tracking(peaks: Iterable[Sequence[Any]]) -> Json:
    """Peaks by holder and plane, added up over the guest hosts: no sum depends on their order."""
    found: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for holder, planes in peaks:
        for plane, numbers in planes.items():
            into = found[holder].setdefault(plane, {"records": 0, "bytes": 0})
            for name, value in numbers.items():
                into[name] += value
    return dict(sorted(found.items()))
