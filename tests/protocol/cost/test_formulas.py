"""The golden table of the cost sheet (2.3), number by number, and what must hold between the formulas."""

from __future__ import annotations

import pytest

from actors.costs import shipped
from protocol.arch import kinds
from protocol.cost.formulas import GIB, Formulas, groups

COSTS = shipped()
ORDER = ("s390", "snp", "tdx", "pef")
MODELS = {group: Formulas(COSTS, group) for group in ORDER}


def us(value: float) -> float:
    return value / 1000


@pytest.mark.parametrize(
    ("what", "golden", "digits"),
    [
        (lambda m: us(m.page_call(1) - m.page_call(0)), (2.0, 1.6, 1.7, 3.5), 1),
        (lambda m: us(m.boot_page("nested", "two_fault")), (25.0, 28.6, 32.7, 65.0), 1),
        (lambda m: us(m.boot_page("hosted", "two_fault")), (9.5, 9.1, 11.3, 37.5), 1),
        (lambda m: us(m.boot_page("nested", "merged")), (18.0, 18.9, 32.7, 50.5), 1),
        (lambda m: us(m.boot_page("hosted", "merged")), (7.5, 6.8, 11.3, 32.5), 1),
        (lambda m: us(m.boot_page("nested", "prefault")), (9.0, 8.0, 11.1, 31.9), 1),
        (lambda m: us(m.boot_page("hosted", "prefault")), (5.5, 4.5, 7.5, 27.8), 1),
        (lambda m: m.boot("nested", "two_fault", GIB) / 1e9, (6.6, 7.5, 8.6, 1.1), 1),
        (lambda m: m.boot("hosted", "two_fault", GIB) / 1e9, (2.5, 2.4, 3.0, 0.6), 1),
        (lambda m: 100 * m.lost("nested", 10_000), (7.0, 9.7, 20.3, 14.5), 1),
        (lambda m: 100 * m.lost("hosted", 10_000), (2.0, 2.3, 3.8, 5.0), 1),
        (lambda m: m.reboot(8, 4 * GIB, live=False) / 1e9, (14.7, 14.7, 42.2, 2.8), 1),
        (lambda m: us(m.page_call(1)), (5.0, 3.6, 6.7, 28.5), 1),
        (lambda m: us(m.page_call(2)), (14.0, 13.6, 25.9, 47), 1),
        (lambda m: us(m.page_call(3)), (63, 132, 449, 136), 0),
    ],
)
def test_the_golden_table(what: object, golden: tuple[float, ...], digits: int) -> None:
    found = [what(MODELS[group]) for group in ORDER]
    assert found == pytest.approx(golden, abs=0.51 * 10**-digits, rel=0.006)


def test_pages_of_guests_that_live_cost_more_to_take_back() -> None:
    golden = (44.0, 23.1, 130, 31.6)
    found = [MODELS[group].reboot(8, 4 * GIB, live=True) / 1e9 for group in ORDER]
    assert found == pytest.approx(golden, rel=0.01)
    dead = [MODELS[group].reboot(8, 4 * GIB, live=False) / 1e9 for group in ORDER]
    assert all(live > gone for live, gone in zip(found, dead, strict=True))


@pytest.mark.parametrize("group", ORDER)
def test_merging_and_asking_ahead_never_cost_more(group: str) -> None:
    model = MODELS[group]
    for path in ("nested", "hosted"):
        pages = [model.boot_page(path, policy) for policy in ("two_fault", "merged", "prefault")]
        assert pages == sorted(pages, reverse=True)
    assert model.boot_page_merged_in_l0() < model.boot_page("nested", "merged")


@pytest.mark.parametrize("group", ORDER)
def test_nesting_grows_by_a_factor_with_each_level_and_hosting_does_not(group: str) -> None:
    model = MODELS[group]
    steps = [model.page_call(depth + 1) - model.page_call(depth) for depth in range(1, 5)]
    multiplier = COSTS.factor(group, "level_multiplier").value
    assert steps[-1] / steps[-2] == pytest.approx(multiplier, rel=0.1)
    assert model.hosted(4, relayed=False) == model.hosted(1, relayed=False)
    assert model.hosted(4, relayed=True) == 4 * model.hosted(1, relayed=True)


def test_workers_help_as_far_as_work_can_be_shared() -> None:
    model = MODELS["tdx"]
    alone = model.reboot(1, GIB, live=False)
    assert model.reboot(1, GIB, live=False, workers=4, serial=0.0) == pytest.approx(alone / 4)
    assert model.reboot(1, GIB, live=False, workers=10**6, serial=0.1) == pytest.approx(alone / 10, rel=1e-4)


def test_every_kind_of_guest_has_a_group_of_the_table() -> None:
    for kind in kinds():
        assert Formulas(COSTS, groups().get(kind, kind)).page_call() > 0, kind


@pytest.mark.parametrize("group", ORDER)
def test_a_fault_costs_the_page_call_and_more_at_every_depth(group: str) -> None:
    model = MODELS[group]
    faults = [model.fault(depth) for depth in range(5)]
    assert faults == sorted(faults)
    assert all(fault > model.page_call(depth) for depth, fault in enumerate(faults))
    assert model.fault(1, "prefault") < model.fault(1, "merged"), "fewer exits for each page"


@pytest.mark.parametrize("group", ORDER)
def test_behind_its_back_a_host_waits_for_marks_and_cpus_and_for_no_page(group: str) -> None:
    model = MODELS[group]
    assert model.waits(8, 2) == 8 * model.waits(1, 2)
    cpu = COSTS.of(group, "te_vcpu_destroy").value
    assert model.waits(1, 5) - model.waits(1, 2) == pytest.approx(3 * cpu)
    assert model.waits(8, 2) < model.reboot(8, 4 * GIB, live=False)


def test_a_request_costs_least_as_a_hypercall_and_most_over_the_network() -> None:
    model = MODELS["s390"]
    asked = [model.request(over=over) for over in ("hypercall", "vsock", "net")]
    assert asked == sorted(asked)
    assert model.request(2048) - model.request() == pytest.approx(2 * COSTS.of("s390", "vsock_per_kib").value)
    assert model.request(2048, "net") == model.request(0, "net"), "one small packet more or less is its noise"
