"""From counts to steps: nothing is lost on the way, and whatever a lock covers is paid while it is held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("simpy", reason="queueing needs the extra `model`")

from actors.costs import shipped
from protocol.cost.table import Costs
from protocol.queueing.demand import ROUNDS, Demands, Place
from protocol.queueing.engine import Engine, Job

COSTS = shipped()
GROUPS = ("s390", "snp", "tdx", "pef")
paid = st.dictionaries(
    st.sampled_from(
        ["te_page_add_measured", "te_vm_create", "table_insert", "exit_l1_l0", "broker_dispatch"]
    ),
    st.integers(1, 3000),
    max_size=5,
)


@given(st.sampled_from(GROUPS), st.lists(paid, min_size=1, max_size=3))
def test_an_operation_without_company_takes_what_its_counts_cost(group: str, phases: list[dict]) -> None:
    steps = Demands(COSTS, group).steps(phases, Place(0, 0))
    wanted = sum(n * COSTS.of(group, name).value for phase in phases for name, n in phase.items())
    assert sum(step.ns for step in steps) == pytest.approx(wanted)
    assert len(steps) <= 5 * ROUNDS * len(phases)


def started(group: str, guests: int, phases: list[dict], hosts: int = 1) -> tuple[float, Engine]:
    demands = Demands(COSTS, group)
    engine = Engine(demands.server)
    places = [Place(n % hosts, n) for n in range(guests)]
    outcome = engine.run([Job(str(p.guest), 0.0, demands.steps(phases, p)) for p in places])
    return sum(done.latency_ns for done in outcome.done) / guests, engine


def test_all_guests_of_a_machine_share_one_secure_processor() -> None:
    """256 launch updates of one millisecond each: each further guest waits for the others' commands."""
    launch = [{"te_page_add_measured": 256}]
    one, _ = started("snp", 1, launch)
    ten, engine = started("snp", 10, launch, hosts=10)
    assert ten / one == pytest.approx(10, rel=0.02)
    assert engine.outcome.utilisation("psp_mailbox") == pytest.approx(1.0)


def test_tds_have_their_own_roots_and_share_the_key_table_alone() -> None:
    """Adding pages takes the lock of the TD; creating it the key table, which never makes anyone wait."""
    pages, _ = started("tdx", 10, [{"te_page_add_measured": 256}])
    alone, _ = started("tdx", 1, [{"te_page_add_measured": 256}])
    assert pages == pytest.approx(alone)
    _, engine = started("tdx", 10, [{"te_vm_create": 1}])
    assert engine.outcome.servers["kot"].busy > 0


def test_hosts_have_tracking_locks_of_their_own() -> None:
    inserts = [{"table_insert": 1000}]
    together, _ = started("s390", 4, inserts, hosts=1)
    apart, _ = started("s390", 4, inserts, hosts=4)
    assert together == pytest.approx(4 * apart, rel=0.02)


def test_a_pessimistic_ultravisor_lets_one_page_call_in_at_a_time() -> None:
    """Nobody outside knows; the sheet asks for both variants, and an overlay makes the other one."""
    words = {
        "scope": "host",
        "servers": 1,
        "covers": ["te_page_secure"],
        "basis": "assumption",
        "source": "a variant",
    }
    slow = COSTS.overlaid(Costs.read({"lock": {"s390": {"uv_page": words}}}))
    boots = [{"te_page_secure": 100}]

    def mean(costs: Costs) -> float:
        demands = Demands(costs, "s390")
        jobs = [Job(str(n), 0.0, demands.steps(boots, Place(0, n))) for n in range(10)]
        return sum(done.latency_ns for done in Engine(demands.server).run(jobs).done) / 10

    assert mean(slow) == pytest.approx(10 * mean(COSTS), rel=0.1)


def test_work_that_takes_no_time_is_no_step_and_holds_no_lock() -> None:
    free = {"value_ns": 0, "low_ns": 0, "high_ns": 0, "unit": "per_op", "basis": "assumption", "source": "x"}
    costs = COSTS.overlaid(Costs.read({"cost": {"snp": {"te_vm_create": free}}}))
    paid = [{"te_vm_create": 1, "exit_l1_l0": 1}]
    assert len(Demands(COSTS, "snp").steps(paid, Place(0, 0))) == 2
    (step,) = Demands(costs, "snp").steps(paid, Place(0, 0))
    assert step.ns == COSTS.of("snp", "exit_l1_l0").value
