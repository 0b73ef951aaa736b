"""Section 6 of the fact sheet, row by row, counted on the machine itself."""

from __future__ import annotations

from host_bench import Bench, Size, calls, family

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
    Shutdown,
    Start,
    Swap,
    Touch,
)


def up(size: Size, **options: object) -> Bench:
    bench = Bench(size=size, **options)  # type: ignore[arg-type]
    bench.boot()
    bench.bring_up()
    return bench


def test_a_host_that_boots_asks_and_initialises() -> None:
    assert calls(Bench().do(BootHost())) == {"query": 1, "init": 1}


def test_entering_secure_mode_takes_one_call_and_one_for_each_cpu(size: Size) -> None:
    bench = Bench(size=size)
    bench.boot()
    assert calls(bench.do(Create(0, size.mib, size.vcpus))) == {"create_config": 1, "create_cpu": size.vcpus}


def test_a_guest_donates_what_the_query_says(size: Size) -> None:
    bench = Bench(size=size)
    bench.boot()
    before = bench.level.statistics()["donated_pages"]
    bench.do(Create(0, size.mib, size.vcpus))
    # base 16 pages; variable 2 and one for each MiB; one for each CPU
    assert bench.level.statistics()["donated_pages"] - before == 16 + 2 + size.mib + size.vcpus


def test_loading_takes_one_call_for_each_page_and_two_more(size: Size) -> None:
    bench = Bench(size=size)
    bench.boot()
    bench.do(Create(0, size.mib, size.vcpus))
    counts = bench.do(Load(0))
    assert calls(counts) == {"set_params": 1, "unpack": size.image, "verify": 1}
    assert not family(counts, "exits")


def test_starting_sets_each_cpu_going_and_imports_the_prefix(size: Size) -> None:
    bench = Bench(size=size)
    bench.boot()
    bench.do(Create(0, size.mib, size.vcpus), Load(0))
    counts = bench.do(Start(0))
    assert calls(counts) == {"cpu_set_state": size.vcpus, "convert_to_secure": 2}
    others = {"1.icpt_6c.vmm": size.vcpus - 1} if size.vcpus > 1 else {}
    assert family(counts, "exits") == {"1.icpt_70.kernel": 1, "1.wait.kernel": 1, **others}


def test_a_first_touch_is_two_faults_and_one_import() -> None:
    size = Size(1, 3, 20, 0, 8)
    bench = Bench(size=size)
    bench.boot()
    bench.do(Create(0, size.mib, size.vcpus), Load(0), Start(0))
    counts = bench.do(Touch(0, 0, size.touch))
    assert calls(counts) == {"convert_to_secure": 20}
    assert family(counts, "exits") == {"1.pgm_11.kernel": 20, "1.pgm_3e.kernel": 20, "1.wait.kernel": 1}
    assert family(counts, "entries") == {"1": 41}


def test_the_first_page_of_a_segment_and_of_a_region_faults_for_its_table() -> None:
    size = Size(1, 3, 1, 0, 2056)
    bench = Bench(size=size)
    bench.boot()
    bench.do(Create(0, size.mib, size.vcpus), Load(0), Start(0))
    far = (Pages(512, 1, 1), Pages(513, 1, 1), Pages(524288, 1, 1), Pages(524288 + 256, 1, 1))
    reasons = [set(family(bench.do(Touch(0, 0, page)), "exits")) for page in far]
    faults = [(found - {"1.pgm_3e.kernel", "1.wait.kernel"}).pop() for found in reasons]
    assert faults == ["1.pgm_10.kernel", "1.pgm_11.kernel", "1.pgm_3b.kernel", "1.pgm_10.kernel"]


def test_a_page_touched_again_costs_nothing() -> None:
    bench = up(Size(1, 3, 20, 0, 8))
    counts = bench.do(Touch(0, 0, bench.size.touch))
    assert not calls(counts)
    assert family(counts, "exits") == {"1.wait.kernel": 1}


def test_sharing_is_the_guests_own_call_and_no_exit() -> None:
    size = Size(1, 3, 10, 4, 8)
    bench = up(size)
    counts = bench.do(Share(0, 0, Pages(size.touch.first, 10, 10)))
    assert family(counts, "te_calls") == {"share.guest.native.guest": 10}
    assert family(counts, "exits") == {"1.wait.kernel": 1}
    assert bench.level.statistics()["te"]["shared_pages"] == 14


def test_sharing_a_page_that_nobody_touched_brings_it_in_first() -> None:
    bench = Bench(size=Size(1, 3, 0, 6, 8))
    bench.boot()
    bench.do(Create(0, 8, 1), Load(0), Start(0))
    counts = bench.do(Share(0, 0, bench.size.share))
    assert calls(counts) == {"convert_to_secure": 6}
    assert family(counts, "te_calls")["share.guest.native.guest"] == 6
    assert family(counts, "exits") == {"1.pgm_11.kernel": 6, "1.pgm_3e.kernel": 6, "1.wait.kernel": 1}


def test_taking_back_a_pinned_page_is_notified_and_tried_again() -> None:
    bench = up(Size(2, 3, 0, 2, 8))
    page = bench.size.share.first
    counts = bench.do(Change(0, 1, page, shared=False, busy=True))
    assert calls(counts) == {"pin": 1, "unpin": 1}
    assert family(counts, "te_calls")["unshare.guest.native.guest"] == 2
    assert family(counts, "exits") == {"1.icpt_6c.kernel": 1, "1.wait.kernel": 1}
    again = bench.do(Change(0, 1, page, shared=True), Change(0, 1, page, shared=False))
    assert family(again, "te_calls") == {"share.guest.native.guest": 1, "unshare.guest.native.guest": 1}
    assert not calls(again)


def test_each_kind_of_exit_is_answered_by_who_the_scenario_says() -> None:
    bench = up(Size(2, 3, 0, 0, 8))
    reasons = {"diag_notify": "icpt_68", "diag_500": "icpt_68", "sclp": "icpt_6c"}
    for vcpu in (0, 1):
        for reason, shown in reasons.items():
            for by in ("kernel", "vmm"):
                counts = bench.do(Exits(0, vcpu, reason, by, 9))
                assert family(counts, "exits") == {f"1.{shown}.{by}": 9, "1.wait.kernel": 1}
                assert family(counts, "entries") == {"1": 10}
                assert not calls(counts)
    assert family(bench.do(Exits(0, 0, "wait", "kernel", 7)), "exits") == {"1.wait.kernel": 7}


def test_swapping_private_pages_is_two_calls_out_and_one_in(size: Size) -> None:
    bench = up(size)
    n = min(5, size.image + size.touched)
    counts = bench.do(Swap(0, 0, Pages(16, size.image + size.touched, n, seed=9)))
    assert calls(counts) == {"pin": n, "convert_from_secure": n, "convert_to_secure": n}
    # The page is not mapped, then it is not secure.
    assert family(counts, "exits") == {"1.pgm_11.kernel": n, "1.pgm_3e.kernel": n, "1.wait.kernel": 1}


def test_a_clear_reset_is_the_chain_of_row_8(size: Size) -> None:
    bench = up(size)
    v = size.vcpus
    counts = bench.do(Reset(0, clear=True))
    # Stop all, load the first; the guest starts the others again.
    assert calls(counts) == {
        "cpu_set_state": v + 1 + (v - 1),
        "unshare_all": 1,
        "prepare_reset": 1,
        "cpu_reset_clear": v,
    }
    assert bench.level.statistics()["te"]["shared_pages"] == 0
    assert family(counts, "exits") == {"1.icpt_6c.vmm": v, "1.wait.kernel": 1}


def test_a_normal_reset_is_the_chain_of_row_9(size: Size) -> None:
    bench = up(size)
    v = size.vcpus
    normal = {"cpu_reset": v - 1} if v > 1 else {}
    assert calls(bench.do(Reset(0, clear=False))) == {
        "cpu_set_state": 2 * v,
        "unshare_all": 1,
        "prepare_reset": 1,
        "cpu_reset_initial": 1,
        **normal,
    }


def test_a_guest_runs_on_after_each_reset(size: Size) -> None:
    bench = up(size)
    for clear in (True, False, True):
        bench.do(Reset(0, clear))
        for vcpu in range(size.vcpus):
            assert family(bench.do(Exits(0, vcpu, "diag_notify", "kernel", 1)), "exits")


def test_destroying_takes_one_call_for_each_cpu_and_each_page_and_one_more(size: Size) -> None:
    bench = Bench(size=size)
    bench.boot()
    free = bench.host.pool.free
    bench.bring_up()
    assert calls(bench.do(Destroy(0))) == {
        "destroy_cpu": size.vcpus,
        "destroy_config": 1,
        "destroy_storage": size.resident,
    }
    found = bench.level.statistics()
    assert found["secure_pages"] == 0
    assert found["te"] == {"configs": 0, "cpus": 0, "pins": 0, "shared_pages": 0}
    assert bench.host.leaked == 0
    assert bench.host.pool.free + bench.host.backing.left + bench.host.home.tables >= free


def test_pinned_pages_are_released_too() -> None:
    bench = up(Size(2, 3, 0, 2, 8))
    page = bench.size.share.first
    from protocol.arch.s390.host.pages import pin
    from protocol.effects import run

    run(pin(bench.host, bench.host.guest(0), page))
    assert calls(bench.do(Destroy(0)))["destroy_storage"] == bench.size.resident
    assert bench.level.statistics()["te"]["pins"] == 0


def test_a_small_guest_is_never_destroyed_behind_its_back() -> None:
    bench = up(Size(1, 3, 5, 2, 8))
    assert "destroy_config_fast" not in calls(bench.do(Destroy(0, behind=True)))


def test_a_killed_vmm_exports_what_is_unmapped(size: Size) -> None:
    bench = up(size)
    assert calls(bench.do(Kill(0))) == {
        "destroy_cpu": size.vcpus,
        "destroy_config_fast": 1,
        "convert_from_secure": size.resident,
    }
    assert bench.level.statistics()["secure_pages"] == 0
    assert bench.host.leaked == 0


def test_shutting_down_is_no_call() -> None:
    bench = Bench()
    bench.boot()
    assert not bench.do(Shutdown())


def test_all_calls_of_l0_for_its_own_guests_are_its_own(size: Size) -> None:
    bench = Bench(size=size)
    counts = bench.boot()
    before = bench.rig.ledger.counts()
    bench.bring_up()
    bench.do(Reset(0, clear=True), Destroy(0))
    counts.update(bench.rig.ledger.counts())
    counts.subtract(before)
    made = [key for key in counts if key[0] == "te_calls" and key[3] != "native"]
    assert made
    assert {key[3:] for key in made} == {("own", "0")}
    assert {key[2] for key in counts if key[0] == "te_issued"} == {"0"}
