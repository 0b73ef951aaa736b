"""Counts and their price: by hand, by parts, and as wholes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.costs import shipped
from protocol.arch import architectures, load
from protocol.cost.price import Prices, priced, rules
from protocol.cost.table import BASES

COSTS = shipped()
PRICES = Prices("s390", {"verify": ("te_launch_finish",)}, {"share": ("te_mem_share",)})


def price(counts: dict[str, int], guest_level: int = 2) -> dict[str, object]:
    return priced(COSTS, PRICES, guest_level, {"run": counts})


def ns(*names: str) -> int:
    return round(sum(COSTS.of("s390", name).value for name in names))


@pytest.mark.parametrize(
    ("count", "names"),
    [
        ("exits.1.uvc.kernel", ("exit_l1_l0",)),
        ("exits.1.sie.kernel", ("exit_l1_l0", "shadow_sync")),
        ("exits.2.icpt_68.kernel", ("exit_l1_l0", "te_guest_exit_extra")),
        ("exits.2.icpt_68.vmm", ("exit_l1_l0", "exit_user_extra", "te_guest_exit_extra")),
        ("te_issued.verify.1", ("te_launch_finish",)),
        ("te_calls.share.guest.native.guest", ("te_mem_share",)),
        ("te_calls.verify.vm.passed.1", ()),
        ("translations.host_page", ("translate_addr",)),
        ("lookups.vm_map.hit", ("table_lookup",)),
        ("tracking_updates.vm_map.create.l0", ("table_insert",)),
        ("tracking_updates.vm_map.delete.l0", ("table_remove",)),
        ("table_ops.protect", ("protect_page",)),
        ("table_ops.map", ("table_insert",)),
        ("table_ops.unmap", ("table_remove",)),
        ("table_ops.unlink", ("table_lookup",)),
        ("injections.pgm_3e", ("inject_exception",)),
        ("injections.vsock", ()),
        ("hosting.start", ("vsock_rtt", "broker_dispatch")),
        ("reflections.0.1", ()),
    ],
)
def test_what_one_of_a_count_costs(count: str, names: tuple[str, ...]) -> None:
    assert price({count: 1})["ns"] == ns(*names)


def test_bytes_are_priced_by_the_page_the_line_and_the_kibibyte() -> None:
    assert price({"copied_bytes.sida": 2 * 4096})["ns"] == 2 * ns("copy_page")
    assert price({"copied_bytes.uvcb": 128})["ns"] == 2 * ns("l1_mem_access")
    assert price({"copied_bytes.hosting_image": 3 * 1024})["ns"] == 3 * ns("vsock_per_kib")


def test_totals_of_a_family_are_not_priced_twice() -> None:
    assert price({"exits": 5, "exits.1.uvc.kernel": 5})["ns"] == 5 * ns("exit_l1_l0")


counts = st.dictionaries(
    st.sampled_from(["exits.1.uvc.kernel", "exits.2.wait.vmm", "te_issued.verify.1", "lookups.vm_map.hit"]),
    st.integers(0, 10**6),
)


@given(counts, counts)
def test_a_whole_is_its_parts_and_its_range_holds_it(one: dict[str, int], other: dict[str, int]) -> None:
    whole = priced(COSTS, PRICES, 2, {"boot": one, "run": other, "dump": None})
    parts = [whole["phases"][phase] for phase in ("boot", "run")]
    for name in ("ns", "low_ns", "high_ns"):
        assert abs(whole[name] - sum(part[name] for part in parts)) <= 2
    assert whole["low_ns"] <= whole["ns"] <= whole["high_ns"]
    assert whole["phases"]["dump"] is None
    assert set(whole["basis"]) == set(BASES)
    assert sum(whole["basis"].values()) == pytest.approx(1.0 if whole["ns"] else 0.0, abs=0.001)


@pytest.mark.parametrize("name", architectures())
def test_every_call_has_a_price_and_every_price_a_cost(name: str) -> None:
    arch = load(name)
    comparison = getattr(arch, "comparison", None)
    if comparison is None:
        pytest.skip(f"{name} is not compared yet, so nothing of it is priced")
    prices = comparison.prices
    assert set(prices.calls) >= {spec.name for spec in arch.calls.values()}  # instructions may come on top
    for names in (*prices.calls.values(), *prices.guest_calls.values()):
        for entry in names:
            assert COSTS.of(prices.group, entry)
    assert rules(prices, "1")


@pytest.mark.parametrize(("vcpus", "kicks"), [(1, 0), (4, 0), (5, 1), (64, 60)])
def test_what_waits_for_every_vcpu_costs_more_the_more_there_are(vcpus: int, kicks: int) -> None:
    """Page removals of a live TD: 15.3 us with 4 VCPUs, 52.8 us with 64."""
    prices = load("tdx").comparison.prices.of_guests_with(vcpus)
    found = priced(COSTS, prices, 1, {"swap": {"te_issued.mem_page_remove.0": 1}})["ns"]
    base, kick = (COSTS.of("tdx", name).value for name in ("te_page_unsecure_live", "vcpu_kick"))
    assert found == round(base + kicks * kick)
    if vcpus == 64:
        assert found == pytest.approx(52_820, rel=0.01)
