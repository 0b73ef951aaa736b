"""Runs in one step leave the counts, the books and the state of single calls, at every depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from host_bench import FIRST, Bench, Size, image_of
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.host import bulk
from protocol.arch.s390.host.memory import frame_of, mapped
from protocol.arch.s390.host.pages import fault_in, import_page, pin, swap_out
from protocol.arch.s390.host.perform import touches
from protocol.arch.s390.host.run import Feed
from protocol.arch.s390.host.run import run as run_guest
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.machine.memory import plaintext
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.runs import here, importable, quiet, share, way_down
from protocol.effects import run as drive
from protocol.plan.operations import (
    BootHost,
    Change,
    Create,
    Destroy,
    Load,
    Operation,
    Pages,
    Read,
    Reset,
    Share,
    Start,
    Swap,
    Touch,
    Write,
)

MIB = 12
IMAGE = 40
SPAN = MIB * 256 - FIRST - IMAGE  # pages that a guest may touch or share
SIZE = Size(2, IMAGE, 0, 0, MIB)


# -- what there is ---------------------------------------------------------------------------------


def levels(bench: Bench) -> Iterator[Machine | Nested]:
    """The level that the host stands on, then what that stands on, down to the machine."""
    level: Any = bench.level
    while level is not None:
        found = here(level)
        assert found is not None
        yield found
        level = found.below.memory if isinstance(found, Nested) else None


def state(bench: Bench) -> dict[str, Any]:
    """Everything that anyone could find out later, frames' numbers apart."""
    machine = next(level for level in levels(bench) if isinstance(level, Machine))
    host = bench.host
    found: dict[str, Any] = {
        "machine": np.bincount(machine.state, minlength=5).tolist(),
        "guests": {},
        "free": host.pool.free + host.backing.left if host.query else None,
        "leaked": host.leaked,
    }
    for config in machine.configs.values():
        pages = np.flatnonzero(config.resident)
        content = {
            page: (int(machine.state[frame]), plaintext(machine, frame))
            for page, frame in zip(pages.tolist(), (config.resident[pages] - 1).tolist(), strict=True)
        }
        shared = sorted(int(machine.guest_page[frame]) for frame in config.shared)
        found["guests"][config.handle] = (
            config.state,
            content,
            shared,
            sorted(config.exported),
            config.generation,
        )
    for number, guest in host.guests.items():
        found[f"mapped {number}"] = mapped(bench.host.level, guest.table)[0].tolist()
        found[f"swapped {number}"] = sorted(guest.swapped or {})
    for level in levels(bench):
        if isinstance(level, Nested):
            found[f"level {level.level}"] = books(level)
    return found


def books(nested: Nested) -> dict[str, Any]:
    owned = np.flatnonzero(nested.page_owner)
    return {
        "owned": sorted(
            zip(nested.page_owner[owned].tolist(), nested.page_number[owned].tolist(), strict=True)
        ),
        "attention": Counter(nested.attention.tolist()),
        "shadows": {
            serial: sorted(
                (number, index)
                for number, segment in space.segments.items()
                for index, frame in enumerate(segment)
                if frame
            )
            for serial, space in nested.shadows.spaces.items()
        },
        "mapped": Counter(nested.shadows.mapper[nested.shadows.mapper != 0].tolist()),
        "away": sorted(nested.away.values()),
        "pins": sorted(nested.pins.values()),
        "live": nested.book.records(),
        "peaks": nested.book.peaks(),
        "below": nested.below.pool.free,
        "promised": nested.below.promised,
    }


def follow(bench: Bench) -> None:
    """From the host's table down to the machine: every level has the page in the frame that the next has."""
    for guest in bench.host.guests.values():
        pages, frames = mapped(bench.host.level, guest.table)
        handle = guest.handle
        for level in levels(bench):
            if isinstance(level, Machine):
                config = level.configs[handle]
                resident = config.resident[pages] != 0
                assert (config.resident[pages][resident] - 1 == frames[resident]).all()
                continue
            tracked = level.configs[handle]
            for page, frame in zip(pages.tolist(), frames.tolist(), strict=True):
                shadowed = tracked.space.frame_of(page)
                assert shadowed in (None, frame)
            handle, frames = tracked.real, level.slots[frames]


def pair(depth: int, **options: Any) -> tuple[Bench, Bench]:
    return Bench(depth, SIZE, **options), Bench(depth, SIZE, bulk=True, **options)


def alike(one: Bench, run: Bench, operation: Operation) -> None:
    assert one.do(operation) == run.do(operation), operation


# -- the property ------------------------------------------------------------------------------------


def pages() -> st.SearchStrategy[Pages]:
    """A draw of the guest's pages: few or many, near or far, in order or not."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Pages:
        first = draw(st.integers(0, SPAN - 1))
        span = draw(st.integers(1, min(SPAN - first, 900)))
        count = draw(st.integers(max(1, span // 3), span))
        return Pages(FIRST + IMAGE + first, span, count, draw(st.none() | st.integers(0, 9)))

    return drawn()


STEPS = st.lists(
    st.tuples(st.sampled_from(("touch", "share", "change", "swap", "level", "reset", "again")), pages()),
    min_size=1,
    max_size=6,
)


class Story:
    """A guest's life, told to two hosts. Remembers what makes sense to do next."""

    def __init__(self, one: Bench, run: Bench) -> None:
        self.benches = one, run
        self.shared: set[int] = set()
        self.touched: set[int] = set()
        for operation in (BootHost(), *self.begin()):
            alike(one, run, operation)

    def begin(self) -> tuple[Operation, ...]:
        self.shared, self.touched = set(), set()
        return Create(0, MIB, 2), Load(0), Start(0)

    def tell(self, what: str, drawn: Pages) -> None:
        numbers = set(drawn.numbers().tolist())
        operations: tuple[Operation, ...] = ()
        if what == "touch":
            operations = (Touch(0, drawn.first % 2, drawn),)
            self.touched |= numbers
        elif what == "share":
            operations = (Share(0, 0, drawn),)
            self.shared |= numbers
        elif what == "change" and drawn.first in self.shared:
            operations = (Change(0, 1, drawn.first, shared=False, busy=bool(drawn.seed)),)
            self.shared.discard(drawn.first)
            self.touched.add(drawn.first)
        elif what == "swap":
            operations = tuple(
                Swap(0, 0, Pages(page, 1, 1)) for page in sorted((numbers & self.touched) - self.shared)[:5]
            )
        elif what == "level":
            self.level_swaps(drawn.seed or 0)
        elif what == "reset":
            operations = (Reset(0, clear=True),)
            self.touched |= self.shared
            self.shared = set()
        elif what == "again":
            operations = (Destroy(0), *self.begin())
        for operation in operations:
            alike(*self.benches, operation)

    def level_swaps(self, seed: int) -> None:
        """The level below swaps the frames of the same guest pages under both hosts."""
        one, run = self.benches
        if one.rig.depth:
            wanted = sorted(self.touched)[seed::7][:9]
            assert one.swap_below(wanted) == run.swap_below(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["two_fault", "merged_l1"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@given(steps=STEPS)
@settings(max_examples=15)
def test_a_life_in_runs_is_a_life_in_single_calls(
    depth: int, policy: str, steps: list[tuple[str, Pages]]
) -> None:
    one, run = pair(depth, pages=policy)
    story = Story(one, run)
    for what, drawn in steps:
        story.tell(what, drawn)
    assert state(one) == state(run)
    follow(one)
    follow(run)
    alike(one, run, Destroy(0))
    assert state(one) == state(run)


# -- examples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "depth", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_far_pages_in_any_order_cost_in_a_run_what_they_cost_alone(depth: int) -> None:
    """New tables come in odd places; a run has to know which page would have found them missing."""
    one, run = pair(depth)
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0)):
        alike(one, run, operation)
    for seed in (1, 2, 3):
        alike(one, run, Touch(0, 0, Pages(FIRST + IMAGE, SPAN, 60 * seed, seed)))
    alike(one, run, Share(0, 1, Pages(FIRST + IMAGE, SPAN, 200, 4)))
    assert state(one) == state(run)
    follow(run)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_guest_of_several_regions_is_brought_in_alike(depth: int) -> None:
    """Beyond 2 GiB there are further segment tables."""
    benches = Bench(depth, SIZE, memory_mib=5000), Bench(depth, SIZE, bulk=True, memory_mib=5000)
    begin = (BootHost(), Create(0, 4100, 1), Load(0), Start(0))
    for operation in (*begin, Touch(0, 0, Pages(100, 1049000, 40, 8)), Touch(0, 0, Pages(524200, 300, 300))):
        alike(*benches, operation)
    alike(*benches, Destroy(0, behind=True))
    assert state(benches[0]) == state(benches[1])


@pytest.mark.parametrize(
    "depth", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_prefaulting_in_runs_is_prefaulting_page_by_page(depth: int) -> None:
    one, run = pair(depth, pages="prefault")
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0), Touch(0, 0, Pages(100, 99, 99))):
        alike(one, run, operation)
    assert state(one) == state(run)
    follow(run)


@pytest.mark.slow
@pytest.mark.parametrize("teardown", ["sync", "async"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_teardown_in_runs_is_a_teardown_page_by_page(depth: int, teardown: str) -> None:
    one, run = pair(depth, strategy=Strategy(teardown=teardown))
    begin = (Create(0, MIB, 2), Load(0), Start(0), Touch(0, 0, Pages(100, 900, 500, 2)))
    for lives in range(2):
        for operation in (BootHost(), *begin, Share(0, 0, Pages(1100, 50, 50))):
            alike(one, run, operation)
        assert one.swap_below([*range(16, 22), 1110]) == run.swap_below([*range(16, 22), 1110])
        assert one.reboot() == run.reboot()
        assert state(one) == state(run), lives
    while run.level.leftovers:
        assert one.count(one.rig.sweep(0, 100)) == run.count(run.rig.sweep(0, 100))
        assert state(one) == state(run)
    assert not one.level.leftovers
    assert one.rig.remains() == run.rig.remains() == {"configs": 0, "cpus": 0, "pages": 0}
    for operation in (BootHost(), *begin):
        alike(one, run, operation)
    assert one.die() == run.die()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["merged_l0", "prefault"])
@pytest.mark.parametrize("depth", [1, 2])
def test_pages_that_the_level_below_brings_in_by_itself_cost_alike_in_runs(depth: int, way: str) -> None:
    one, run = pair(depth, pages=way, strategy=Strategy(pages=way))
    begin = (BootHost(), Create(0, MIB, 2), Load(0), Start(0))
    for operation in (*begin, Touch(0, 0, Pages(100, 900, 200, 3)), Share(0, 1, Pages(1100, 50, 50))):
        alike(one, run, operation)
    assert state(one) == state(run)
    follow(run)
    alike(one, run, Destroy(0))


@pytest.mark.parametrize("depth", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_over_levels_that_live_apart_is_one_step(depth: int) -> None:
    """Everything is in this process, so the host does the whole operation without a message to wait for."""
    apart, together = Bench(depth, SIZE, bulk=True, apart=True), Bench(depth, SIZE, bulk=True)
    begin = (BootHost(), Create(0, MIB, 2), Load(0), Start(0))
    for operation in (*begin, Touch(0, 0, Pages(100, 300, 300, 5)), Destroy(0)):
        effects = list(apart.host.perform(operation))
        assert effects == []
        together.do(operation)
    assert apart.rig.ledger.counts() == together.rig.ledger.counts()


def test_a_host_that_cannot_see_the_levels_below_goes_page_by_page() -> None:
    bench = Bench(0, SIZE, bulk=True, apart=True, blind=True)
    assert bench.host.level_here is None
    alone = Bench(0, SIZE)
    begin = (BootHost(), Create(0, MIB, 2), Load(0), Start(0))
    for operation in (*begin, Touch(0, 0, Pages(100, 50, 50, 5)), Destroy(0)):
        alike(alone, bench, operation)


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_with_a_call_of_somebody_else_under_way_a_host_goes_page_by_page(depth: int) -> None:
    """In one step it would be told "busy" again and again, and nobody could end that call."""
    bench, other = Bench(depth, SIZE, bulk=True, apart=True), Bench(depth, SIZE)
    for operation in (BootHost(), Create(0, MIB, 2), Load(0), Start(0)):
        alike(other, bench, operation)
    below = list(levels(bench))[1]
    assert below.locks.take(("config", 12345))
    touch = Touch(0, 0, Pages(100, 30, 30, 5))
    assert not quiet(bench.host.level)
    sent = bench.host.perform(touch)
    effects = [next(sent)]
    assert effects
    sent.close()
    below.locks.clear()
    assert quiet(bench.host.level)
    assert list(bench.host.perform(Touch(0, 0, Pages(400, 30, 30, 5)))) == []


# -- what is not alike goes the long way ---------------------------------------------------------------


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


@pytest.mark.slow
def test_a_guest_of_four_gib_boots_in_less_than_two_seconds_of_this_cpu() -> None:
    """The promise is for the direct path; process time, as the machine may be busy with something else."""
    import time

    image_of(4096)
    bench = Bench(0, Size(2, 4096, 1_028_080, 16_384, 4096), bulk=True, memory_mib=8192)
    began = time.process_time()
    bench.boot()
    bench.bring_up()
    assert time.process_time() - began < 2.0
    assert bench.level.statistics()["secure_pages"] == 4096 + 1_028_080 + 2
