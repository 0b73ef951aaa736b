"""Runs in one step leave the counts, the books and the state of single calls, at every depth."""

from __future__ import annotations

import numpy as np
import pytest
from bulk_pairs import IMAGE, MIB, SIZE, SPAN, alike, follow, levels, pair, state
from host_bench import FIRST, Bench, Size, image_of
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.steps import steps
from protocol.arch.s390.nesting import bulk
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.runs import quiet
from protocol.effects import Step
from protocol.plan.operations import (
    BootHost,
    Change,
    Create,
    Destroy,
    Load,
    Operation,
    Pages,
    Reset,
    Share,
    Start,
    Swap,
    Touch,
)

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


def test_where_a_step_would_destroy_few_pages_all_go_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(1, SIZE, bulk=True)
    bench.boot()
    frames = np.arange(20)
    monkeypatch.setattr("protocol.arch.s390.runs.destroyable", lambda _, given: given < 3)

    def one(frame: int) -> Step[None]:
        raise AssertionError(f"{frame} is not torn down here")

    assert bulk.tear_down(bench.host.level, frames, one) is frames


FEW = 16  # of Python's instructions for a page: what is gone through is tables of 256 pages, and the image


@pytest.mark.slow
def test_a_guest_of_four_gib_boots_without_a_step_for_each_page() -> None:
    """What took 0.8 s of a CPU when it was last looked at; a step of each page is a hundred times that."""
    image_of(4096)
    bench = Bench(0, Size(2, 4096, 1_028_080, 16_384, 4096), bulk=True, memory_mib=8192)
    taken = steps(lambda: (bench.boot(), bench.bring_up()))
    pages = bench.level.statistics()["secure_pages"]
    assert pages == 4096 + 1_028_080 + 2
    assert sum(taken.values()) < FEW * pages
