"""What the same host costs on an emulated Ultravisor: section 7.9, and its recursion with depth."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from host_bench import Bench, Size, calls, family, image_of

from protocol.arch.s390.host.system import Host
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.ledger import Key
from protocol.plan.operations import (
    BootHost,
    Change,
    Create,
    Destroy,
    Exits,
    Kill,
    Load,
    Pages,
    Reset,
    Share,
    Start,
    Swap,
    Touch,
)
from protocol.tracking import Book


def up(depth: int, size: Size, **options: Any) -> Bench:
    bench = Bench(depth, size, **options)
    bench.boot()
    bench.bring_up()
    return bench


def exits(counts: Counter[Key], *reasons: str) -> int:
    """Exits of any level for one of these reasons."""
    return sum(n for key, n in counts.items() if key[0] == "exits" and key[2] in reasons)


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def depth(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


# -- calls: 1, 3, 7 exits each -------------------------------------------------------------------------


def test_creating_loading_and_starting_takes_as_many_calls_below_as_above(size: Size) -> None:
    bench = Bench(1, size)
    bench.boot()
    counts = bench.do(Create(0, size.mib, size.vcpus), Load(0), Start(0))
    expected = {
        "create_config": 1,
        "create_cpu": size.vcpus,
        "set_params": 1,
        "unpack": size.image,
        "verify": 1,
        "cpu_set_state": size.vcpus,
        "convert_to_secure": 2,
    }
    assert calls(counts) == expected
    assert family(counts, "te_issued") == {f"{name}.1": n for name, n in expected.items()}
    assert exits(counts, "uvc") == sum(expected.values())


def test_booting_is_emulated_and_nothing_is_issued_below(depth: int) -> None:
    counts = Bench(depth).boot()
    assert calls(counts) == {"query": 1, "init": 1}
    assert not family(counts, "te_issued")
    assert family(counts, "te_calls") == {
        f"query.init.emulated.{depth}": 1,
        f"init.init.emulated.{depth}": 1,
    }
    # The call itself, and one re-entry for each level that hands up the exit.
    assert exits(counts, "uvc") == 2
    assert exits(counts, "sie") == 2 * (2 ** (depth - 1) - 1)


def test_a_life_cycle_call_is_one_exit_three_and_seven(depth: int) -> None:
    """The chain of a reset: N calls, E entries that end with an exit of the guest."""
    bench = up(depth, Size(2, 3, 0, 0, 8))
    counts = bench.do(Reset(0, clear=True))
    made = {key[1]: n for key, n in counts.items() if key[0] == "te_issued"}
    assert made == {"cpu_set_state": 4, "unshare_all": 1, "prepare_reset": 1, "cpu_reset_clear": 2}
    n, e = sum(made.values()), 3
    assert exits(counts, "uvc", "sie") == (n + e) * (2**depth - 1)
    assert exits(counts, "icpt_6c", "wait") == e
    assert {key[2] for key in counts if key[0] == "te_issued"} == {str(depth)}
    assert not [key for key in counts if key[0] == "te_calls" and key[3] == "own"]


def test_an_exit_of_the_guest_costs_an_entry_of_each_level_between(depth: int) -> None:
    bench = up(depth, Size(1, 3, 0, 0, 8))
    counts = bench.do(Exits(0, 0, "diag_500", "vmm", 10))
    assert family(counts, "exits")[f"{depth + 1}.icpt_68.vmm"] == 10
    assert exits(counts, "sie") == 11 * (2**depth - 1)
    assert exits(counts, "uvc") == 0


# -- pages -----------------------------------------------------------------------------------------------


def touched(pages: str, **options: Any) -> tuple[Bench, Counter[Key]]:
    size = Size(1, 3, 20, 0, 8)
    bench = Bench(1, size, pages=pages, strategy=Strategy(pages=pages), **options)
    bench.boot()
    bench.do(Create(0, size.mib, 1), Load(0), Start(0))
    return bench, bench.do(Touch(0, 0, size.touch))


def test_a_first_touch_is_two_faults_of_the_guest_host_and_one_of_the_shadow() -> None:
    _, counts = touched("two_fault")
    assert family(counts, "exits") == {
        "2.pgm_11.kernel": 40,  # the guest host's table misses, then the shadow
        "2.pgm_3e.kernel": 20,
        "2.wait.kernel": 1,
        "1.table_write.kernel": 20,  # the guest host maps the page
        "1.uvc.kernel": 20,  # and has it made secure
        "1.sie.kernel": 41,  # it enters its guest after each fault
    }
    assert family(counts, "injections") == {"pgm_11": 20, "pgm_3e": 20}
    assert family(counts, "te_issued") == {"convert_to_secure.1": 20}


def test_merged_by_the_guest_host_a_touch_is_one_fault() -> None:
    _, counts = touched("merged_l1")
    assert family(counts, "exits") == {
        "2.pgm_11.kernel": 20,
        "2.wait.kernel": 1,
        "1.table_write.kernel": 20,
        "1.uvc.kernel": 20,
        "1.sie.kernel": 21,
    }


def test_merged_below_a_touch_is_no_call_of_the_guest_host() -> None:
    bench, counts = touched("merged_l0")
    assert bench.host.offers == ("merged_l0",)
    assert family(counts, "exits") == {
        "2.pgm_11.kernel": 40,
        "2.pgm_3e.kernel": 20,  # met below and answered there
        "2.wait.kernel": 1,
        "1.table_write.kernel": 20,
        "1.sie.kernel": 21,
    }
    assert not calls(counts)
    assert family(counts, "te_issued") == {"convert_to_secure.1": 20}


def test_prefaulted_below_a_touch_is_nothing() -> None:
    bench, counts = touched("prefault")
    assert family(counts, "exits") == {"2.wait.kernel": 1, "1.sie.kernel": 1}
    assert bench.rig.remains()["pages"] == 8 * 256


def test_without_the_enlightenment_a_guest_host_prefaults_by_itself() -> None:
    size = Size(1, 3, 20, 0, 8)
    bench = Bench(1, size, pages="prefault")
    assert bench.host.offers == ()
    bench.boot()
    bench.do(Create(0, size.mib, 1), Load(0))
    assert calls(bench.do(Start(0))) == {"convert_to_secure": 8 * 256 - 3, "cpu_set_state": 1}


def test_a_page_swapped_out_is_two_calls_and_a_store_to_a_watched_table() -> None:
    bench = up(1, Size(1, 3, 20, 0, 8))
    counts = bench.do(Swap(0, 0, Pages(19, 20, 5, seed=2)))
    # Out: pin, export, unmap; in: two faults of the guest host and one of the shadow, map, import.
    assert family(counts, "te_issued") == {"pin.1": 5, "convert_from_secure.1": 5, "convert_to_secure.1": 5}
    assert family(counts, "exits") == {
        "1.uvc.kernel": 15,
        "1.table_write.kernel": 10,
        "1.sie.kernel": 11,
        "2.pgm_11.kernel": 10,
        "2.pgm_3e.kernel": 5,
        "2.wait.kernel": 1,
    }


def test_sharing_stays_the_guests_own_affair(depth: int) -> None:
    bench = up(depth, Size(1, 3, 10, 0, 8))
    counts = bench.do(Share(0, 0, bench.size.touch))
    assert family(counts, "te_calls") == {"share.guest.native.guest": 10}
    assert exits(counts, "sie") == 2**depth - 1
    assert exits(counts, "uvc") == 0


def test_taking_back_a_pinned_page_is_answered_at_every_depth(depth: int) -> None:
    bench = up(depth, Size(2, 3, 0, 2, 8))
    counts = bench.do(Change(0, 1, bench.size.share.first, shared=False, busy=True))
    assert family(counts, "te_issued") == {f"pin.{depth}": 1, f"unpin.{depth}": 1}
    assert family(counts, "te_calls")["unshare.guest.native.guest"] == 2


# -- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Destroy(0), Kill(0)], ids=["destroyed", "killed"])
def test_a_guest_that_ends_leaves_nothing(depth: int, end: Destroy | Kill) -> None:
    bench = up(depth, Size(2, 5, 9, 3, 8))
    counts = bench.do(end)
    pages = bench.size.resident
    name = "destroy_storage" if isinstance(end, Destroy) else "convert_from_secure"
    assert family(counts, "te_issued")[f"{name}.{depth}"] == pages
    assert bench.rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}
    assert bench.rig.leaks() == []
    assert bench.host.leaked == 0


@pytest.mark.parametrize("teardown", ["sync", "async"])
def test_a_sudden_reboot_is_torn_down_below_call_by_call(depth: int, teardown: str) -> None:
    """7.8: as many real calls as there are CPUs, configurations and pages, and none by the guest host."""
    bench = up(depth, Size(2, 5, 9, 3, 8), strategy=Strategy(teardown=teardown))
    counts = bench.reboot()
    while bench.level.leftovers:
        counts += bench.count(bench.rig.sweep(0, 7))
    name = "destroy_config_fast" if teardown == "async" else "destroy_config"
    assert family(counts, "te_issued") == {
        f"destroy_cpu.{depth}": 2,
        f"{name}.{depth}": 1,
        f"destroy_storage.{depth}": bench.size.resident,
    }
    assert not [key for key in counts if key[0] == "te_calls" and key[4] == str(depth)]
    assert bench.rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}
    bench.boot()
    bench.bring_up()
    assert bench.rig.leaks() == []


def test_a_host_that_dies_leaves_nothing(depth: int) -> None:
    bench = up(depth, Size(2, 5, 9, 3, 8))
    counts = bench.die()
    assert family(counts, "te_issued")[f"destroy_storage.{depth}"] == bench.size.resident
    assert bench.rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}


def test_the_same_plan_takes_the_same_calls_at_every_depth(depth: int) -> None:
    """By its own calls a host cannot tell where it is; only what they cost below differs."""
    size = Size(2, 5, 30, 4, 8)
    direct, nested = up(0, size), up(depth, size)
    for operation in (
        Swap(0, 0, Pages(16, 35, 9, seed=5)),
        Change(0, 0, size.share.first, shared=False, busy=True),
        Exits(0, 1, "sclp", "vmm", 3),
        Reset(0, clear=False),
        Destroy(0),
    ):
        one, other = direct.do(operation), nested.do(operation)
        of_host = Counter(
            {key[1]: n for key, n in other.items() if key[0] == "te_calls" and key[4] == str(depth)}
        )
        assert of_host == Counter(calls(one)), operation
        guests = [(key[2], key[3]) for key in one if key[0] == "exits"]
        for reason, to in guests:
            if not reason.startswith("pgm"):
                assert other["exits", str(depth + 1), reason, to] == one["exits", "1", reason, to]


@pytest.mark.parametrize("apart", [False, True], ids=["inline", "apart"])
def test_levels_that_live_apart_count_alike(apart: bool) -> None:
    size = Size(2, 5, 9, 3, 8)
    bench = Bench(1, size, apart=apart)
    bench.boot()
    bench.bring_up()
    counts = bench.do(Reset(0, clear=True), Swap(0, 0, Pages(16, 5, 2)), Destroy(0))
    other = Bench(1, size)
    other.boot()
    other.bring_up()
    assert counts == other.do(Reset(0, clear=True), Swap(0, 0, Pages(16, 5, 2)), Destroy(0))


# -- L0's own guests beside those of its guest host ---------------------------------------------------------


def test_l0_runs_guests_of_its_own_beside_those_of_a_guest_host() -> None:
    """It shares its kernel with the hypervisor, so the Ultravisor is up; the calls are its own again."""
    size = Size(2, 5, 9, 3, 8)
    bench = Bench(1, size, spare=32 << 20)
    bench.boot()
    bench.bring_up()
    rig = bench.rig
    machine = rig.levels[0]
    book = Book(rig.ledger, "l0")
    l0 = Host(
        machine,
        [machine.cpus[number] for number in rig.own_cpus],
        Random("l0"),
        depth=0,
        image=image_of(size.image),
        pool=rig.chain[0].pool,
        book=book,
    )
    assert calls(bench.count(l0.perform(BootHost()))) == {"query": 1}
    begin = (Create(7, 8, 2), Load(7), Start(7), Touch(7, 1, size.touch), Share(7, 0, size.share))
    counts = bench.count(*map(l0.perform, begin))
    assert {key[3:] for key in counts if key[0] == "te_calls" and key[3] != "native"} == {("own", "0")}
    assert {key[2] for key in counts if key[0] == "te_issued"} == {"0"}
    assert not [key for key in counts if key[0] == "exits" and key[1] != "1"]
    assert book.records() == {"native_page": size.resident, "native_vcpu": 2}
    # Neither disturbs the other.
    assert family(bench.do(Exits(0, 0, "diag_500", "vmm", 2)), "te_issued") == {}
    bench.count(l0.perform(Destroy(7)))
    assert book.records() == {}
    assert book.peaks() == {"native_page": size.resident, "native_vcpu": 2}
    bench.do(Destroy(0))
    assert rig.leaks() == []
    assert rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}
