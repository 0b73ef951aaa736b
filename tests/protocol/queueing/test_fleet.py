"""A fleet: its queues against the engine and a formula, its million guests against clock and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("simpy", reason="queueing needs the extra `model`")

from protocol.queueing.engine import Job, Step, simulate
from protocol.queueing.fleet import started


def test_one_machine_waits_as_the_engine_says() -> None:
    gaps = np.random.default_rng(4).exponential(150.0, 300)
    arrivals = np.cumsum(gaps)
    jobs = [Job(str(n), float(at), (Step(100.0, ("psp",)), Step(50.0))) for n, at in enumerate(arrivals)]
    outcome = simulate({}, jobs)
    found = started(1, 300, 100.0, 50.0, 150.0, np.random.default_rng(4))
    assert found.mean_ns == pytest.approx(sum(done.latency_ns for done in outcome.done) / 300)
    assert found.last_ns == pytest.approx(outcome.end_ns)


def test_a_fleet_of_them_waits_as_md1_says() -> None:
    """Utilisation 0.5: the mean wait is half the service time."""
    found = started(200, 2000, 100.0, 0.0, 200.0, np.random.default_rng(1))
    assert found.mean_ns == pytest.approx(100 + 0.5 * 100 / (2 * 0.5), rel=0.03)


def test_all_at_once_the_last_waits_for_all_others() -> None:
    found = started(3, 10, 100.0, 7.0, 0.0, np.random.default_rng(1))
    assert (found.largest_ns, found.last_ns) == (1007.0, 1007.0)
    assert found.mean_ns == pytest.approx(100 * 5.5 + 7)


MILLION = """
import numpy as np
from protocol.queueing.fleet import started
print(started(1000, 1000, 100.0, 50.0, 150.0, np.random.default_rng(1)).guests)
"""


def test_a_million_guests_on_a_thousand_machines_take_seconds_and_little_memory(
    alone: Callable[[str], Any],
) -> None:
    spent = alone(MILLION)
    assert int(spent.text) == 1_000_000
    assert spent.cpu_s < 60
    assert spent.peak_kib < 2 << 20
