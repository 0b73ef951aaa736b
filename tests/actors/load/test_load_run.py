"""Blocks, their merging, their verdict; against the emulator itself and in virtual time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from actors.costs import shipped
from actors.load import run as r
from actors.load.drive import Answer, Block
from actors.load.target import deployed, lacking
from actors.scenario import load as scenario_of
from protocol.arch import load as arch_of
from protocol.load.histogram import Histogram
from protocol.load.requests import Draw, Request
from protocol.plan.scenario import Scenario, parse_threshold

MS = 1_000_000
SMALL = {
    "l1.count": "1",
    "guest.per_l1": "2",
    "guest.image_pages": "4",
    "guest.touch_pages": "4",
    "guest.share_pages": "2",
    "paths": "nested,hosted",
    "load.duration_s": "1",
    "load.rate_per_min": "600",
    "run.swap_pages": "2",
    "load.mix.swap": "1",
    "run.exits.diag_notify.count": "2",
    "run.exits.diag_500.count": "1",
    "run.exits.sclp.count": "1",
    "run.exits.wait.count": "1",
}


def scenario(**more: str) -> Scenario:
    return scenario_of(
        None, flags=SMALL | {name.replace("__", "."): text for name, text in more.items()}
    ).scenario


def made(latency_of: dict[str, Any]) -> r.RunBlock:
    """Blocks in which request n of a path takes so long."""

    async def run_block(path: str, draw: Draw) -> Block:
        answers = [
            Answer(
                Request(n, n / 10, "run", 0),
                n * 100 * MS,
                n * 100 * MS,
                n * 100 * MS + latency_of[path](draw.pair, n),
            )
            for n in range(100)
        ]
        return Block(answers, errors=1, took_s=10.0)

    return run_block


def of(latency_of: dict[str, Any], plan: Scenario) -> Any:
    return trio.run(r.blocks, plan, 0, made(latency_of))


STEADY = {
    "nested": lambda pair, n: (20 + pair + n % 5) * MS,
    "hosted": lambda pair, n: (10 + pair + n % 5) * MS,
}


def test_nested_against_hosted_has_a_verdict_with_its_interval() -> None:
    answer = r.judged(scenario(), of(STEADY, scenario()))
    said = answer["comparison"]
    assert said["verdict"] == "slower"
    assert (said["difference_ms"], said["low_ms"], said["high_ms"]) == (10.0, 10.0, 10.0)
    assert said["pairs"] == 4
    figures = answer["paths"]["nested"]["figures"]
    assert figures["p50_ms"] == pytest.approx(23.5, rel=0.05)
    assert figures["rate_per_s"] == 10.0
    assert figures["errors"] == 4


def test_the_beginning_is_cut_for_both_paths_alike() -> None:
    slow_start = STEADY | {"nested": lambda pair, n: (500 if n < 10 else 20 + n % 5) * MS}
    sides = of(slow_start, scenario())
    assert {path: side["warm_up"] for path, side in sides.items()} == {"nested": 40, "hosted": 40}
    assert of(slow_start, scenario(load__warm_up="none"))["nested"]["warm_up"] == 0


def test_processes_are_merged_and_not_averaged() -> None:
    parts = [of(STEADY, scenario()) for _ in range(3)]
    whole = r.added(json.loads(json.dumps(part)) for part in parts)
    assert whole["nested"]["measured"] == 3 * parts[0]["nested"]["measured"]
    assert Histogram.of(whole["nested"]["latency"]).count == whole["nested"]["measured"]
    assert r.judged(scenario(), whole)["comparison"] == r.judged(scenario(), parts[0])["comparison"]


def test_whoever_stops_gets_the_pairs_that_are_whole() -> None:
    """The fourth block is the last: two pairs are whole; the fifth never begins."""
    begun: list[str] = []
    run_block = made(STEADY)

    async def counted(path: str, draw: Draw) -> Block:
        begun.append(path)
        return await run_block(path, draw)

    sides = trio.run(r.blocks, scenario(), 0, counted, lambda: len(begun) >= 5)
    assert len(begun) == 5
    assert r.judged(scenario(), sides)["comparison"]["pairs"] == 2


def test_thresholds_are_judged_by_figure() -> None:
    answer = r.judged(scenario(), of(STEADY, scenario()))
    bounds = [
        parse_threshold("load.nested.p99_ms", "< 30"),
        parse_threshold("load.hosted.p99_ms", "< 1"),
        parse_threshold("load.direct.p99_ms", "< 100"),
        parse_threshold("counts.nested.exits", "< 1"),
    ]
    assert [each["holds"] for each in r.verdicts(bounds, "s390", answer)] == [True, False, False]


@pytest.mark.parametrize("path", ["direct", "nested", "hosted"])
async def test_a_deployment_does_what_it_is_asked_and_leaves_nothing(path: str) -> None:
    """That nothing is left is asserted when it goes down."""
    plan = scenario(paths="direct,nested,hosted")
    kinds = ("run", "restart", "page_change", "swap", "restart", "run")
    async with deployed(plan, arch_of("s390"), path) as deployment:
        begun: list[int] = []
        async with trio.open_nursery() as nursery:
            for number, kind in enumerate(kinds):
                request = Request(number, 0.0, kind, number % 2)
                nursery.start_soon(deployment.ask, request, lambda n=number: begun.append(n))
        assert sorted(begun) == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["s390", "snp", "tdx", "pef"])
def test_every_architecture_bears_a_load(arch: str) -> None:
    swap = "0" if arch in ("snp", "tdx") else "1"
    plan = scenario(arch=arch, load__pairs="1", load__mix__swap=swap)
    sides = r.run(plan, arch_of(arch))
    assert all(side["errors"] == 0 and side["measured"] > 0 for side in sides.values())


def test_what_an_architecture_lacks_is_known_with_its_reason() -> None:
    assert set(lacking(scenario(arch="tdx"), arch_of("tdx"))) == {"swap"}
    assert lacking(scenario(), arch_of("s390")) == {}


# -- virtual time ------------------------------------------


@pytest.mark.parametrize("model", ["open", "closed"])
def test_virtual_time_says_the_same_each_time(model: str) -> None:
    pytest.importorskip("simpy", reason="queueing needs the extra `model`")
    plan = scenario(load__model=model, load__think_ms="10")
    one, other = (r.run_virtual(plan, arch_of("s390"), shipped()) for _ in range(2))
    assert one == other
    answer = r.judged(plan, one)
    assert answer["comparison"]["verdict"] == "slower"
    assert answer["paths"]["nested"]["figures"]["p50_ms"] > answer["paths"]["hosted"]["figures"]["p50_ms"]


def test_a_request_alone_takes_what_its_operations_cost() -> None:
    pytest.importorskip("simpy", reason="queueing needs the extra `model`")
    from actors.load.recorded import record
    from actors.load.virtual import VirtualTarget, drive_open
    from protocol.cost.price import span

    plan = scenario(paths="nested")
    recorded = record(plan, arch_of("s390"), ["nested"])["nested"]
    target = VirtualTarget(shipped(), recorded, 2)
    block = drive_open(target, [Request(0, 0.5, "restart", 1)])
    wanted = sum(span(shipped(), "s390", paid)["ns"] for paid in recorded.request("restart"))
    assert block.answers[0].latency_ns == pytest.approx(wanted, abs=10)
