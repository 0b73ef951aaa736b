"""The engine against formulas that are known: no modelled claim stands on anything else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("simpy", reason="queueing needs the extra `model`")

from protocol.queueing.engine import Engine, Job, Server, Step, simulate


def poisson(rate: float, count: int, random: Random) -> list[float]:
    at, found = 0.0, []
    for _ in range(count):
        at += random.expovariate(rate)
        found.append(at)
    return found


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_an_md1_queue_waits_as_long_as_its_formula_says(rho: float) -> None:
    """Pollaczek and Khinchine: with constant service s the mean wait is rho s / (2 (1 - rho))."""
    service, jobs = 100.0, 16_000
    arrivals = poisson(rho / service, jobs, Random(7))
    outcome = simulate({}, [Job("j", at, (Step(service, ("one",)),)) for at in arrivals])
    wanted = rho * service / (2 * (1 - rho))
    assert outcome.servers["one"].mean_wait_ns == pytest.approx(wanted, rel=0.08)


def test_a_server_with_one_place_saturates_at_one_job_for_each_service_time() -> None:
    jobs = [Job("j", 10.0 * n, (Step(100.0, ("one",)),)) for n in range(500)]
    outcome = simulate({}, jobs)
    assert outcome.end_ns == 500 * 100.0
    assert outcome.utilisation("one") == pytest.approx(1.0)


def mean_value_analysis(clients: int, think: float, service: float) -> float:
    """Jobs per time of a closed network: one server, exponential service, and thinking (exact: MVA)."""
    in_line, throughput = 0.0, 0.0
    for n in range(1, clients + 1):
        response = service * (1 + in_line)
        throughput = n / (think + response)
        in_line = throughput * response
    return throughput


@pytest.mark.parametrize("clients", [1, 3, 8])
def test_a_closed_network_does_as_much_as_mean_value_analysis_says(clients: int) -> None:
    think, service, each = 1000.0, 200.0, 2000
    random = Random(3)

    class Client:
        left = each

        def think_ns(self) -> float:
            return random.expovariate(1 / think)

        def next(self, now_ns: float) -> Job | None:
            self.left -= 1
            return (
                Job("j", now_ns, (Step(random.expovariate(1 / service), ("one",)),))
                if self.left >= 0
                else None
            )

    outcome = Engine(lambda _: Server()).run_closed([Client() for _ in range(clients)])
    found = len(outcome.done) / outcome.end_ns
    assert found == pytest.approx(mean_value_analysis(clients, think, service), rel=0.04)


@pytest.mark.parametrize("guests", [1, 10, 49])
def test_guests_that_start_together_and_take_turns_all_end_near_the_last(guests: int) -> None:
    """Fact sheet 2.4: B commands of length s each, interleaved on one place: mean close to B s n."""
    commands, service = 50, 10.0
    steps = tuple(Step(service, ("psp",)) for _ in range(commands))
    outcome = simulate({}, [Job(f"g{n}", 0.0, steps) for n in range(guests)])
    mean = sum(done.latency_ns for done in outcome.done) / guests
    whole = commands * service * guests
    assert outcome.end_ns == whole
    assert whole - guests * service <= mean <= whole


@pytest.mark.parametrize("guests", [1, 10, 49])
def test_guests_that_keep_the_place_end_one_after_the_other(guests: int) -> None:
    """The same with the place kept: mean B s (n + 1) / 2, exactly."""
    commands, service = 50, 10.0
    keep = (Step(service * commands, ("psp",), count=commands),)
    outcome = simulate({}, [Job(f"g{n}", 0.0, keep) for n in range(guests)])
    mean = sum(done.latency_ns for done in outcome.done) / guests
    assert mean == pytest.approx(commands * service * (guests + 1) / 2)


def test_a_server_that_answers_busy_is_asked_again() -> None:
    servers = {"root": Server(retry_ns=30.0)}
    outcome = simulate(servers, [Job(name, 0.0, (Step(100.0, ("root",)),)) for name in ("a", "b")])
    assert [(done.name, done.end_ns) for done in outcome.done] == [("a", 100.0), ("b", 220.0)]
    assert outcome.servers["root"].busy == 4, "asked at 0, 30, 60, 90; free when asked at 120"


def test_what_a_job_holds_is_held_through_all_of_its_steps() -> None:
    steps = (Step(10.0), Step(20.0, ("psp",)))
    outcome = simulate({}, [Job(name, 0.0, steps, holds=("guest",)) for name in ("a", "b")])
    assert [(done.begun_ns, done.end_ns) for done in outcome.done] == [(0.0, 30.0), (30.0, 60.0)]


jobs_of = st.lists(
    st.tuples(
        st.integers(0, 500),
        st.lists(
            st.tuples(st.integers(0, 100), st.sampled_from([(), ("a",), ("b",), ("a", "b")])), max_size=4
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(jobs_of, st.integers(1, 3))
def test_nobody_is_lost_and_no_place_is_held_twice(drawn: list[tuple[int, list]], capacity: int) -> None:
    jobs = [
        Job(str(n), at, tuple(Step(float(ns), servers) for ns, servers in steps))
        for n, (at, steps) in enumerate(drawn)
    ]
    outcome = simulate({"a": Server(capacity), "b": Server(capacity)}, jobs)
    assert sorted(done.name for done in outcome.done) == sorted(job.name for job in jobs)
    for done in outcome.done:
        job = jobs[int(done.name)]
        steps = sum(step.ns for step in job.steps)
        assert done.end_ns - done.begun_ns == pytest.approx(done.waited_ns + steps)
    for name in outcome.servers:
        assert outcome.utilisation(name, capacity) <= 1 + 1e-9
    again = simulate({"a": Server(capacity), "b": Server(capacity)}, jobs)
    assert again.done == outcome.done
