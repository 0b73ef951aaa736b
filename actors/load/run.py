"""Blocks of every path in turn, the beginning of each cut by rule, and what the pairs say.

What one process found is a plain table (`Json`), so that those of several can be added up: histograms by
merging, means of pairs by their sums.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import numpy as np
import trio

from actors.compare import interrupts
from actors.load.drive import Block, Watch, drive_closed, drive_open
from actors.load.target import deployed
from protocol.arch.contract import Architecture
from protocol.cost.table import Costs
from protocol.load.histogram import Histogram, merged
from protocol.load.paired import compared, order
from protocol.load.requests import Draw, requests
from protocol.load.warmup import cut
from protocol.plan.scenario import Scenario, Threshold

Json = dict[str, Any]
RunBlock = Callable[[str, Draw], Awaitable[Block]]  # of a path
PERCENTS = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p999_ms": 99.9}
COMPARED = ("nested", "hosted")
MS = 1_000_000


async def blocks(
    scenario: Scenario, shard: int, run_block: RunBlock, stopped: Callable[[], bool] = lambda: False
) -> Json:
    """Every block of every path; what came of it, ready to be merged with other processes'.

    Once `stopped`, no other block begins; a pair that is not whole is left out.
    """
    found: dict[tuple[str, int], Block] = {}
    for pair, which in order(scenario.load.pairs, len(scenario.paths)):
        if stopped():
            break
        path = scenario.paths[which]
        found[path, pair] = await run_block(path, Draw(scenario.seed, pair, shard))
    whole = [n for n in range(scenario.load.pairs) if all((path, n) in found for path in scenario.paths)]
    return {path: _side(scenario, path, whole, found) for path in scenario.paths}


def emulated(
    scenario: Scenario,
    arch: Architecture,
    shards: int = 1,
    replay: Sequence[float] = (),
    watch: Callable[[str], Watch] | None = None,
) -> RunBlock:
    """A block against a deployment in this process, which is made for it alone."""

    async def run_block(path: str, draw: Draw) -> Block:
        async with deployed(scenario, arch, path) as deployment:
            seen = None if watch is None else watch(path)
            if scenario.load.model == "closed":
                return await drive_closed(deployment, scenario.load, deployment.guests, draw, seen)
            plan = requests(scenario.load, deployment.guests, draw, shards, replay)
            return await drive_open(deployment, plan, seen)

    return run_block


def _side(scenario: Scenario, path: str, pairs: Sequence[int], found: dict[tuple[str, int], Block]) -> Json:
    """What the blocks of one path say."""
    latency, service = Histogram(), Histogram()
    kept, left_out, unsteady, sums = 0, 0, 0, []
    for pair in pairs:
        block = found[path, pair]
        first, steady = _beginning(scenario, pair, found)
        answers = [answer for answer in block.answers if answer.request.number >= first]
        for answer in answers:
            latency.record(answer.latency_ns)
            service.record(answer.service_ns)
        kept, left_out = kept + len(answers), left_out + len(block.answers) - len(answers)
        unsteady += not steady
        sums.append([sum(answer.latency_ns for answer in answers), len(answers)])
    return {
        "latency": latency.as_dict(),
        "service": service.as_dict(),
        "measured": kept,
        "warm_up": left_out,
        "unsteady_blocks": unsteady,
        "errors": sum(found[path, pair].errors for pair in pairs),
        "seconds": sum(found[path, pair].took_s for pair in pairs),
        "pairs": sums,
    }


def _beginning(scenario: Scenario, pair: int, found: dict[tuple[str, int], Block]) -> tuple[int, bool]:
    """The first request of a pair that counts: the same on all paths, so that they stay pairs."""
    if scenario.load.warm_up == "none" or scenario.load.model == "closed":
        return 0, True
    cuts = [cut([answer.latency_ns for answer in found[path, pair].answers]) for path in scenario.paths]
    return max(first for first, _ in cuts), all(steady for _, steady in cuts)


def added(parts: Iterable[Json]) -> Json:
    """What several processes found, as if it had been one."""
    whole: Json = {}
    for part in parts:
        for path, side in part.items():
            whole[path] = side if path not in whole else _together(whole[path], side)
    return whole


def _together(one: Json, other: Json) -> Json:
    both: Json = {
        name: merged(Histogram.of(side[name]) for side in (one, other)).as_dict()
        for name in ("latency", "service")
    }
    both |= {name: one[name] + other[name] for name in ("measured", "warm_up", "unsteady_blocks", "errors")}
    both["seconds"] = max(one["seconds"], other["seconds"])
    both["pairs"] = [
        [a + b for a, b in zip(mine, theirs, strict=True)]
        for mine, theirs in zip(one["pairs"], other["pairs"], strict=True)
    ]
    return both


def judged(scenario: Scenario, sides: Json) -> Json:
    """Figures of every path, and of nested against hosted the difference with its interval and a word."""
    found: Json = {path: side | {"figures": figures(side)} for path, side in sides.items()}
    answer: Json = {"paths": found, "comparison": None}
    if all(path in sides for path in COMPARED):
        means = [
            (a / n, b / m)
            for (a, n), (b, m) in zip(*(sides[path]["pairs"] for path in COMPARED), strict=True)
            if n and m
        ]
        random = np.random.default_rng(scenario.seed)
        said = compared([a for a, _ in means], [b for _, b in means], random)
        answer["comparison"] = {
            "verdict": said.verdict,
            "difference_ms": round(said.difference / MS, 6),
            "low_ms": round(said.low / MS, 6),
            "high_ms": round(said.high / MS, 6),
            "ratio": None if said.ratio is None else round(said.ratio, 4),
            "pairs": said.pairs,
        }
    return answer


def figures(side: Json) -> Json:
    """Percentiles and the like, in milliseconds; None where nothing was measured."""
    latency = Histogram.of(side["latency"])

    def ms(value: float | None) -> float | None:
        return None if value is None else round(value / MS, 6)

    answered = side["measured"] + side["warm_up"]
    return {
        "mean_ms": ms(latency.mean),
        **{name: ms(latency.percentile(percent)) for name, percent in PERCENTS.items()},
        "max_ms": ms(latency.largest if latency.count else None),
        "service_p50_ms": ms(Histogram.of(side["service"]).percentile(50)),
        "rate_per_s": round(answered / side["seconds"], 3) if side["seconds"] else None,
        "errors": side["errors"],
    }


def verdicts(thresholds: Iterable[Threshold], arch: str, answer: Json) -> list[Json]:
    """Which thresholds on load hold. One whose path did not run, or that has no value, does not."""
    found = []
    for threshold in thresholds:
        kind, path, figure = threshold.what.split(".")[:3]
        if kind == "load":
            value = answer["paths"].get(path, {}).get("figures", {}).get(figure)
            holds = value is not None and threshold.holds(value)
            found.append(
                {
                    "what": threshold.what,
                    "wanted": threshold.text(),
                    "arch": arch,
                    "value": value,
                    "holds": holds,
                }
            )
    return found


def run_virtual(scenario: Scenario, arch: Architecture, costs: Costs, replay: Sequence[float] = ()) -> Json:
    """All blocks in virtual time. Raises ValueError where a path cannot do what the mix asks for."""
    from actors.load import virtual
    from actors.load.recorded import record

    recorded = record(scenario, arch, scenario.paths)
    guests = range(scenario.l1.count * scenario.guest.per_l1)

    async def run_block(path: str, draw: Draw) -> Block:
        target = virtual.VirtualTarget(costs, recorded[path], scenario.guest.per_l1)
        if scenario.load.model == "closed":
            return virtual.drive_closed(target, scenario.load, guests, draw)
        return virtual.drive_open(target, requests(scenario.load, guests, draw, 1, replay))

    return dict(trio.run(blocks, scenario, 0, run_block))


def run(
    scenario: Scenario,
    arch: Architecture,
    shard: int = 0,
    shards: int = 1,
    replay: Sequence[float] = (),
    watch: Callable[[str], Watch] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Json:
    """All blocks of one process, by the clock of the world."""
    run_block = emulated(scenario, arch, shards, replay, watch)
    return dict(interrupts.run(blocks, scenario, shard, run_block, stopped))
