"""What is not alike does not go in a run: page by page, with the counts and the state of single calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bulk_pairs import IMAGE, MIB, SIZE, alike, follow, pair, state
from host_bench import FIRST, Bench, Size, image_of

from protocol.arch.s390.host import bulk
from protocol.arch.s390.host.memory import frame_of, mapped
from protocol.arch.s390.host.pages import fault_in, import_page, pin, swap_out
from protocol.arch.s390.host.programs import touches
from protocol.arch.s390.host.run import Feed
from protocol.arch.s390.host.run import run as run_guest
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.runs import here, importable, share, way_down
from protocol.effects import run as drive
from protocol.plan.operations import (
    BootHost,
    Create,
    Destroy,
    Load,
    Pages,
    Read,
    Share,
    Start,
    Touch,
    Write,
)


def touched(depth: int, **options: Any) -> tuple[Bench, np.ndarray]:
    """A guest with ten pages beyond its image, and their numbers."""
    bench = Bench(depth, SIZE, bulk=True, **options)
    pages = np.arange(100, 110)
    bench.do(BootHost(), Create(0, MIB, 2), Load(0), Start(0), Touch(0, 0, Pages(100, 10, 10)))
    return bench, pages


@pytest.mark.parametrize("depth", [0, 1])
def test_pages_come_in_a_run_only_where_none_of_them_is_or_was_there(depth: int) -> None:
    bench, pages = touched(depth)
    guest = bench.host.guest(0)
    fresh = pages + 300
    level = here(bench.level)
    assert level is not None
    assert importable(level, guest.handle, fresh)
    assert not importable(level, guest.handle, pages), "they are there"
    assert not importable(level, guest.handle, np.array([MIB * 256])), "behind the guest's memory"
    bench.count(swap_out(bench.host, guest, 105))
    assert not importable(level, guest.handle, np.array([105])), "its ciphertext is outside"


def test_a_page_that_the_level_below_swapped_out_does_not_come_in_a_run() -> None:
    bench, _ = touched(1)
    level = here(bench.level)
    assert isinstance(level, Nested)
    handle = bench.host.guest(0).handle
    bench.swap_below([105])
    assert level.away
    assert not importable(level, handle, np.array([105, 500]))
    assert importable(level, handle, np.array([500]))


@pytest.mark.parametrize("depth", [0, 1])
def test_what_a_guest_wrote_is_there_for_its_host_when_it_shares_in_a_run(depth: int) -> None:
    bench, pages = touched(depth)
    host, guest = bench.host, bench.host.guest(0)
    bench.do(Write(0, 0, 103, b"for the host"))
    level = here(bench.level)
    assert level is not None
    share(level, guest.handle, pages)
    frames = [frame_of(host.level, guest.table, page) for page in pages.tolist()]
    read = [host.level.read(frame << 12, 12) for frame in frames if frame is not None]
    assert read == [b"for the host" if page == 103 else bytes(12) for page in pages.tolist()]
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_guest_that_goes_in_a_run_leaves_the_pins_of_others() -> None:
    bench, _ = touched(1)
    level = here(bench.level)
    assert isinstance(level, Nested)
    bench.do(Create(1, MIB, 1), Load(1), Start(1), Share(1, 0, Pages(100, 1, 1)))
    bench.count(pin(bench.host, bench.host.guest(1), 100))
    pins = dict(level.pins)
    assert len(pins) == 1
    bench.do(Destroy(0))
    assert level.pins == pins
    bench.do(Destroy(1))
    assert not level.pins
    assert not any(bench.rig.remains().values())


def test_pages_that_the_ultravisor_will_not_let_go_of_are_lost_one_by_one() -> None:
    bench, _ = touched(0)
    machine, guest = bench.rig.machines[0], bench.host.guest(0)
    frames = mapped(bench.host.level, guest.table)[1]
    kept = frames[3:]
    machine.state[kept] = PageState.DONATED
    bench.do(Destroy(0))
    assert bench.host.leaked == kept.size
    assert (machine.state[frames[:3]] == PageState.NORMAL).all()


def test_left_over_pages_of_which_one_is_stuck_are_destroyed_one_by_one() -> None:
    bench, _ = touched(1, strategy=Strategy(teardown="async"))
    level = here(bench.level)
    assert isinstance(level, Nested)
    bench.reboot()
    left = list(level.leftovers)
    stuck = int(level.frame_below(left[5]))
    bench.rig.machines[0].state[stuck] = PageState.DONATED
    assert level.folds
    bench.count(bench.rig.sweep(0, len(left)))
    assert not level.leftovers
    assert [each.first for each in level.quarantine] == [stuck]
    assert level.frame_below(left[5]) != stuck


def touch_each(bench: Bench, pages: np.ndarray) -> None:
    """Guest 0 touches these pages, in no run."""
    guest = bench.host.guest(0)
    feed = Feed(touches(bench.host, guest, pages.tolist()))
    bench.count(run_guest(bench.host, guest, guest.vcpus[0], feed))


def touch_all(bench: Bench, pages: np.ndarray) -> None:
    """The same in one."""
    guest = bench.host.guest(0)
    bench.count(bulk.touch(bench.host, guest, guest.vcpus[0], pages))


def test_an_image_that_goes_on_in_another_segment_is_unpacked_alike() -> None:
    """Behind the page that needs a table the pages are of a kind that was measured before."""
    size = Size(1, 260, 0, 0, 2)
    one, run = (Bench(0, size, bulk=bulk) for bulk in (False, True))
    for operation in (BootHost(), Create(0, 2, 1), Load(0), Start(0)):
        alike(one, run, operation)
    assert state(one) == state(run)
    follow(run)


def test_pages_that_all_need_a_table_of_their_own_come_in_alike() -> None:
    one, run = pair(0)
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0)):
        alike(one, run, operation)
    far = np.arange(1, MIB - 1) * 256
    touch_each(one, far)
    touch_all(run, far)
    assert one.rig.ledger.counts() == run.rig.ledger.counts()
    assert state(one) == state(run)
    follow(run)


def test_an_image_goes_page_by_page_into_frames_that_an_earlier_guest_left() -> None:
    """The level replaces each as its host stores to it, which a run does not wait for."""
    one, run = pair(1, strategy=Strategy(teardown="async"))
    begin = (Create(0, MIB, 2), Load(0), Start(0), Touch(0, 0, Pages(100, 30, 30)))
    for operation in (BootHost(), *begin):
        alike(one, run, operation)
    for bench in (one, run):
        bench.reboot()
        bench.do(BootHost())
        level, host = here(bench.level), bench.host
        assert isinstance(level, Nested)
        left = np.fromiter(level.leftovers, np.int64)
        assert left.size >= IMAGE + 30
        host.pool.give(np.setdiff1d(host.pool.take_many(host.pool.free), left))
        host.backing.put_back(left)
    for operation in begin:
        alike(one, run, operation)
    counts = run.rig.ledger.counts()
    assert counts == one.rig.ledger.counts()
    assert counts["pages", "replaced"] >= IMAGE + 30


def test_a_guest_whose_host_maps_little_of_it_costs_alike_in_runs() -> None:
    """The level below looks through all of its memory: most has no table, and one page is another guest's."""
    one, run = pair(1, strategy=Strategy(pages="prefault"))
    for operation in (BootHost(), Create(1, MIB, 1), Load(1), Create(0, MIB, 2)):
        alike(one, run, operation)
    for bench in (one, run):
        host, guest = bench.host, bench.host.guest(0)
        for page in range(100, 110):
            fault_in(host, guest, page)
        theirs = frame_of(host.level, host.guest(1).table, FIRST)
        assert theirs is not None
        guest.table.map(110, theirs)
    for operation in (Load(0), Start(0)):
        alike(one, run, operation)
    assert state(one) == state(run)


def test_pages_come_in_one_by_one_while_a_call_of_somebody_else_is_under_way() -> None:
    options: dict[str, Any] = {"apart": True, "pages": "prefault", "strategy": Strategy(pages="prefault")}
    one, run = Bench(1, SIZE, **options), Bench(1, SIZE, bulk=True, **options)
    for operation in (BootHost(), Create(0, MIB, 2)):
        alike(one, run, operation)
    machine = run.rig.machines[0]
    assert machine.locks.take(("config", 12345))
    alike(one, run, Load(0))
    machine.locks.clear()
    alike(one, run, Start(0))
    assert state(one) == state(run)


def test_a_host_that_cannot_see_the_levels_below_prefaults_page_by_page() -> None:
    bench, alone = (
        Bench(0, Size(1, IMAGE, 0, 0, 1), bulk=blind, apart=blind, blind=blind, pages="prefault")
        for blind in (True, False)
    )
    for operation in (BootHost(), Create(0, 1, 1), Load(0), Start(0), Destroy(0)):
        alike(alone, bench, operation)


def test_a_page_that_was_swapped_out_comes_back_with_what_it_held_among_fresh_ones() -> None:
    one, run = pair(0)
    first = Touch(0, 0, Pages(100, 10, 10)), Write(0, 0, 105, b"kept", 8)
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0), *first):
        alike(one, run, operation)
    for bench in (one, run):
        bench.count(swap_out(bench.host, bench.host.guest(0), 105))
    alike(one, run, Touch(0, 0, Pages(105, 30, 30)))
    assert state(one) == state(run)
    for bench in (one, run):
        assert not bench.host.guest(0).swapped
        assert drive(bench.host.perform(Read(0, 0, 105, 4, 8))) == b"kept"


def test_a_few_pages_that_are_missing_are_prefaulted_one_by_one() -> None:
    size = Size(1, IMAGE, 0, 0, 1)
    one, run = (Bench(0, size, bulk=bulk, pages="prefault") for bulk in (False, True))
    for operation in (BootHost(), Create(0, 1, 1), Load(0)):
        alike(one, run, operation)
    for bench in (one, run):
        host, guest = bench.host, bench.host.guest(0)
        there = mapped(host.level, guest.table)[0]
        for page in np.setdiff1d(np.arange(256), there)[3:].tolist():
            fault_in(host, guest, page)
            bench.count(import_page(host, guest, page))
    alike(one, run, Start(0))
    assert state(one) == state(run)
    assert mapped(run.host.level, run.host.guest(0).table)[0].size == 256


def test_the_way_down_has_a_server_for_each_link() -> None:
    bench = Bench(1, SIZE, apart=True)
    assert len(way_down(bench.host.level)) == 2
    assert way_down(Bench(1, SIZE).host.level) == []


def test_pages_named_twice_are_touched_twice() -> None:
    one, run = pair(0)
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0)):
        alike(one, run, operation)
    numbers = np.array([900, 300, 900, 301, 302, 300, 600, 601, 602, 603, 604, 605, 606, 300])
    before = one.rig.ledger.counts()
    touch_each(one, numbers)
    touch_all(run, numbers)
    assert one.rig.ledger.counts() == run.rig.ledger.counts() != before
    assert state(one) == state(run)


def test_an_image_that_is_refused_is_refused_in_runs_too() -> None:
    from dataclasses import replace

    from protocol.errors import TeRefused

    _, run = pair(0)
    image = image_of(IMAGE)
    run.host.image = replace(image, pages=image.pages[:-1])
    run.do(BootHost(), Create(0, MIB, 2))
    with pytest.raises(TeRefused, match="verify: rc 0x0102, rrc 0x001d"):
        run.do(Load(0))
