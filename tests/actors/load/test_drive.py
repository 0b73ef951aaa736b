"""Who is late, and who is charged for it. The clock jumps: nothing here waits."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from actors.load import drive as d
from protocol.errors import OperationFailed
from protocol.load.histogram import Histogram
from protocol.load.requests import Draw, Request, requests
from protocol.plan.scenario import Load

STALL_AT_S, STALL_S, SERVICE_S = 5.0, 2.0, 0.001


class Server:
    """Does one thing after another in a millisecond, and once does nothing for two seconds."""

    def __init__(self, stalls: bool = True) -> None:
        self._line = trio.Lock()
        self._stalls = stalls

    async def ask(self, request: Request, begun: d.Begun) -> None:
        async with self._line:
            begun()
            if self._stalls and trio.current_time() - self.start >= STALL_AT_S:
                self._stalls = False
                await trio.sleep(STALL_S)
            await trio.sleep(SERVICE_S)

    def begin(self) -> Server:
        self.start = trio.current_time()
        return self


def percentile(block: d.Block, percent: float) -> float:
    histogram = Histogram()
    for answer in block.answers:
        histogram.record(answer.latency_ns)
    return (histogram.percentile(percent) or 0) / d.NS


async def test_an_open_load_is_charged_for_all_that_waited_behind_a_stall(autojump_clock: object) -> None:
    """100 a second for 20 s: 200 requests were meant to come during the stall, and each of them waited."""
    load = Load(arrivals="constant", rate_per_min=6000, duration_s=20)
    block = await d.drive_open(Server().begin(), requests(load, (0,), Draw(1, 0)))
    assert len(block.answers) == 1999
    assert percentile(block, 99) > 1.5
    late = sum(answer.latency_ns > 0.1 * d.NS for answer in block.answers)
    assert late == pytest.approx(200, rel=0.15)


async def test_without_a_stall_the_same_load_waits_for_nothing(autojump_clock: object) -> None:
    load = Load(arrivals="constant", rate_per_min=6000, duration_s=20)
    block = await d.drive_open(Server(stalls=False).begin(), requests(load, (0,), Draw(1, 0)))
    assert percentile(block, 99) < 0.002


async def test_a_closed_load_hides_the_stall_because_nobody_asked(autojump_clock: object) -> None:
    """One client, the same rate: one of two thousand answers was late. That is the omission."""
    load = Load(model="closed", clients=1, think_ms=9, duration_s=20)
    block = await d.drive_closed(Server().begin(), load, (0,), Draw(1, 0))
    assert percentile(block, 99) < 0.002
    assert percentile(block, 100) > STALL_S


async def test_a_client_that_waits_sends_nothing(autojump_clock: object) -> None:
    load = Load(model="closed", clients=3, think_ms=0, duration_s=1)
    block = await d.drive_closed(Server(stalls=False).begin(), load, (0,), Draw(1, 0))
    ordered = sorted(answer.end_ns for answer in block.answers)
    assert len(ordered) == pytest.approx(1000, abs=4), "the server is never idle and never asked more than 3"
    assert max(answer.latency_ns for answer in block.answers) <= 3.1 * SERVICE_S * d.NS


async def test_what_fails_is_counted_and_nothing_else(autojump_clock: object) -> None:
    class Broken:
        async def ask(self, request: Request, begun: d.Begun) -> None:
            await trio.sleep(0.01)
            if request.number % 2:
                raise OperationFailed("no")

    seen = []
    load = Load(arrivals="constant", rate_per_min=600, duration_s=2)
    plan = requests(load, (0,), Draw(1, 0))
    block = await d.drive_open(Broken(), plan, lambda answer, under_way: seen.append((answer, under_way)))
    assert (len(block.answers), block.errors) == (10, 9)
    assert len(seen) == 19
    assert seen[-1][1] == 0


async def test_there_is_a_limit_to_what_is_under_way(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(d, "OUTSTANDING", 5)
    load = Load(arrivals="constant", rate_per_min=60_000, duration_s=1)
    block = await d.drive_open(Server(stalls=False).begin(), requests(load, (0,), Draw(1, 0))[:20])
    assert (len(block.answers), block.errors) == (20, 0)

    class Stuck(Server):
        async def ask(self, request: Request, begun: d.Begun) -> None:
            await trio.sleep(10)

    block = await d.drive_open(Stuck().begin(), requests(load, (0,), Draw(1, 0))[:20])
    assert (len(block.answers), block.errors) == (5, 15)
