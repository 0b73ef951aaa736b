"""Runs in one step leave the counts, the books and the state of single calls, at every depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.arch.sev.compose import compose
from protocol.arch.sev.host.kinds import KINDS
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.machine import Machine
from protocol.arch.sev.nesting import Nested
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.rmp import ASSIGNED, SUBPAGES
from protocol.arch.sev.runs import here
from protocol.arch.sev.structs import SHARED
from protocol.effects import run
from protocol.ledger import Key
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE
from protocol.plan import operations as op

FIRST, IMAGE = 16, 5
GUEST_MIB = 8
SPAN = GUEST_MIB * 256 - FIRST - IMAGE  # pages that a guest may touch or share
BEGIN = (op.Create(0, GUEST_MIB, 2), op.Load(0), op.Start(0))


class Bench:
    """One host, driven step by step."""

    def __init__(self, depth: int, kind: str = "snp", bulk: bool = False, profile: str = "small") -> None:
        self.rig = compose(PROFILES[profile], depth, 1, 64 * MIB, 2, 5)
        seat = self.rig.seats[0]
        self.level: Any = seat.level
        image = bytes(range(256)) * (IMAGE * PAGE // 256)
        self.host = Host(
            seat.level, seat.cpus, Random(1), depth=depth, image=image, kind=KINDS[kind], bulk=bulk
        )

    def do(self, operation: op.Operation) -> Counter[Key]:
        """Perform it; what it was counted as."""
        before = Counter(self.rig.ledger.counts())
        run(self.host.perform(operation))
        after = Counter(self.rig.ledger.counts())
        after.subtract(before)
        return Counter({key: n for key, n in after.items() if n})

    def levels(self) -> Iterator[Machine | Nested]:
        """The level that the host stands on, then what that stands on, down to the machine."""
        level: Any = self.level
        while (found := here(level)) is not None:
            yield found
            level = found.below.memory if isinstance(found, Nested) else None


def pair(depth: int, *options: str) -> tuple[Bench, Bench]:
    """A host that goes page by page and one that goes in runs, both up."""
    benches = Bench(depth, *options), Bench(depth, *options)
    benches[1].host._bulk = True
    alike(*benches, op.BootHost(), *BEGIN)
    return benches


def alike(one: Bench, other: Bench, *operations: op.Operation) -> None:
    for operation in operations:
        assert one.do(operation) == other.do(operation), operation


def state(bench: Bench) -> dict[str, Any]:
    """Everything that anyone could find out later.

    Which frames of its own a hypervisor has its shadow tables in is nobody's business, so marks on frames
    below the first level are counted and not named.
    """
    found: dict[str, Any] = {"free": sorted(bench.host.pool.listed().tolist())}
    for number, vm in bench.host.guests.items():
        found[f"guest {number}"] = vm.private, vm.shared, vm.open, vm.accepted
        found[f"bytes {number}"] = {
            page: bench.level.peek(at, PAGE) for page, at in {**vm.private, **vm.shared}.items()
        }
    for level in bench.levels():
        rmp = level.rmp
        if isinstance(level, Nested):
            level.refresh_range(0, rmp.flags.size)
            found[f"level {level.level}"] = (
                level.attention.tolist() if level is bench.level else Counter(level.attention.tolist()),
                level.real.tolist(),
                level.book.records(),
                level.book.peaks(),
            )
        columns = (rmp.flags, rmp.asid, rmp.gpa, rmp.perms, rmp.counters)
        found[f"rmp {type(level).__name__} {level.size}"] = [column.tolist() for column in columns]
    top = bench.level
    if isinstance(top, Nested):
        spaces = top.shadows._spaces.values()
        found["shadow"] = {space.key: (space.pages, sorted(space.tables), space.read) for space in spaces}
        found["around"] = top.shadows._around
    return found


# -- the property ------------------------------------------------------------------------------------------


@st.composite
def pages(draw: st.DrawFn) -> op.Pages:
    """A draw of the guest's pages: few or many, near or far, in order or not."""
    first = draw(st.integers(0, SPAN - 1))
    span = draw(st.integers(1, min(SPAN - first, 700)))
    count = draw(st.integers(max(1, span // 3), span))
    return op.Pages(FIRST + IMAGE + first, span, count, draw(st.none() | st.integers(0, 9)))


STEPS = st.lists(
    st.tuples(st.sampled_from(("touch", "share", "change", "again", "second")), pages()),
    min_size=1,
    max_size=6,
)


class Story:
    """A guest's life, told to two hosts. Remembers what makes sense to do next."""

    def __init__(self, benches: tuple[Bench, Bench]) -> None:
        self.benches = benches
        self.shared: set[int] = set()
        self.touched: set[int] = set()
        self.second = False

    def tell(self, what: str, drawn: op.Pages) -> None:
        for operation in self._operations(what, drawn):
            alike(*self.benches, operation)

    def _operations(self, what: str, drawn: op.Pages) -> Iterator[op.Operation]:
        numbers = set(drawn.numbers().tolist())
        if what == "touch" and not numbers & self.shared:
            yield op.Touch(0, drawn.first % 2, drawn)
            self.touched |= numbers
        elif what == "share" and not numbers & (self.shared | self.touched):
            yield op.Share(0, 0, drawn)
            self.shared |= numbers
        elif what == "change" and drawn.first in self.shared:
            yield op.Change(0, 1, drawn.first, shared=False)
            self.shared.discard(drawn.first)
        elif what == "again":
            yield op.Destroy(0)
            yield from BEGIN
            self.shared, self.touched = set(), set()
        elif what == "second":  # another guest, whose pages lie among those of the first
            if not self.second:
                yield from (op.Create(1, GUEST_MIB, 1), op.Load(1), op.Start(1))
                yield op.Touch(1, 0, drawn)
            else:
                yield op.Destroy(1)
            self.second = not self.second


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 2])
@example(steps=[("share", op.Pages(21, 8, 8))], kind="snp")
@given(steps=STEPS, kind=st.sampled_from(("snp", "snp", "sev-es", "sev")))
@settings(max_examples=6)
def test_a_life_in_runs_is_a_life_in_single_calls(
    depth: int, kind: str, steps: list[tuple[str, op.Pages]]
) -> None:
    benches = pair(depth, kind)
    story = Story(benches)
    for what, drawn in steps:
        story.tell(what, drawn)
    assert state(benches[0]) == state(benches[1])
    alike(*benches, op.Destroy(0))
    assert state(benches[0]) == state(benches[1])


# -- examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sev", "sev-es", "snp"])
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.slow
def test_pages_in_any_order_cost_in_a_run_what_they_cost_alone(depth: int, kind: str) -> None:
    benches = pair(depth, kind)
    for seed in (1, 2):
        alike(*benches, op.Touch(0, 0, op.Pages(FIRST + IMAGE, 1500, 300 * seed, seed)))
    alike(*benches, op.Share(0, 1, op.Pages(FIRST + IMAGE + 1500, 300, 300)))
    assert state(benches[0]) == state(benches[1])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["merged_l1", "prefault"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_pages_that_come_ahead_or_with_a_request_cost_alike(depth: int, policy: str) -> None:
    benches = Bench(depth), Bench(depth)
    benches[1].host._bulk = True
    for bench in benches:
        bench.host.pages = policy
    touch = op.Touch(0, 0, op.Pages(FIRST + IMAGE, 1200, 300, 4))
    alike(*benches, op.BootHost(), *BEGIN, touch, op.Share(0, 1, op.Pages(1300, 30, 30)))
    assert state(benches[0]) == state(benches[1])
    alike(*benches, op.Destroy(0))
    assert state(benches[0]) == state(benches[1])


@pytest.mark.parametrize("depth", [0, 1])
def test_a_guest_whose_page_somebody_took_ends_page_by_page(depth: int) -> None:
    """The RMP says so, and what is no longer the guest's costs what it costs."""
    benches = pair(depth)
    alike(*benches, op.Touch(0, 0, op.Pages(100, 40, 40)))
    for bench in benches:
        run(bench.host.driver.rmpupdate(bench.host.guests[0].private[120], SHARED))
    alike(*benches, op.Destroy(0))
    assert state(benches[0]) == state(benches[1])


def test_a_guest_that_never_ran_has_no_shadow_that_a_run_could_fill() -> None:
    """A plain SEV guest does nothing before its first page, and all of its memory is there."""
    benches = Bench(1, "sev"), Bench(1, "sev")
    benches[1].host._bulk = True
    for bench in benches:
        bench.host.pages = "prefault"
    alike(*benches, op.BootHost(), *BEGIN, *(op.Touch(0, 0, op.Pages(at, 40, 40)) for at in (100, 200)))
    assert state(benches[0]) == state(benches[1])


@pytest.mark.parametrize("policy", ["two_fault", "prefault"])
def test_a_host_without_memory_for_a_run_gives_what_it_has(policy: str) -> None:
    """Where single pages find no frame, no run does, and what was done by then was done on both ways."""
    benches = Bench(0), Bench(0)
    benches[1].host._bulk = True
    for bench in benches:
        bench.host.pages = policy
        for operation in (op.BootHost(), op.Create(0, GUEST_MIB, 2)):
            bench.do(operation)
        bench.host.pool.take_each(bench.host.pool.free - 200)
        if policy == "prefault":
            too_much: op.Operation = op.Load(0)
        else:
            bench.do(op.Load(0))
            bench.do(op.Start(0))
            too_much = op.Touch(0, 0, op.Pages(100, 300, 300))
        with pytest.raises(OutOfFrames):
            bench.do(too_much)
    assert benches[0].rig.ledger.counts() == benches[1].rig.ledger.counts()
    assert state(benches[0]) == state(benches[1])


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["scattered", "azure"])
def test_every_profile_has_runs(profile: str) -> None:
    """In `scattered` no two pages that lie together in the host do so below."""
    benches = pair(1, "snp", False, profile)  # type: ignore[arg-type]
    alike(*benches, op.Touch(0, 0, op.Pages(FIRST + IMAGE, 400, 400, 3)), op.Destroy(0))
    assert state(benches[0]) == state(benches[1])


def test_what_a_guest_left_in_a_page_is_there_when_somebody_looks() -> None:
    """The ciphertext of a first store, made late, is that of the store; zeroing the page forgets it."""
    benches = pair(0)
    touched = op.Pages(100, 64, 64)
    alike(*benches, op.Touch(0, 0, touched))
    machine: Any = benches[1].level
    one, other = (bench.host.guests[0].private for bench in benches)
    assert one == other
    found = [machine.read(other[page], PAGE) for page in touched.numbers().tolist()]
    assert found == [benches[0].level.read(one[page], PAGE) for page in touched.numbers().tolist()]
    assert sum(any(page) for page in found) > 50  # where the byte was zero by chance, nothing changed
    alike(*benches, op.Touch(0, 0, op.Pages(300, 64, 64)), op.Destroy(0))
    frame = other[300] // PAGE
    machine.clear([frame])
    assert machine.read(frame * PAGE, PAGE) == bytes(PAGE)


@pytest.mark.slow
def test_a_guest_of_one_gib_leaves_its_pages_unmade() -> None:
    """A run takes neither time nor memory for bytes that nobody looks at."""
    rig = compose(PROFILES["genoa"], 0, 1, 1200 * MIB, 2, 5)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(1), depth=0, image=bytes(PAGE), bulk=True)
    for operation in (op.BootHost(), op.Create(0, 1024, 1), op.Load(0), op.Start(0)):
        run(host.perform(operation))
    pages = op.Pages(FIRST + 1, 1024 * 256 - FIRST - 1, 1024 * 256 - FIRST - 1, 7)
    run(host.perform(op.Touch(0, 0, pages)))
    storage = seat.level.storage
    assert np.count_nonzero(seat.level.rmp.flags & ASSIGNED) > pages.count
    assert np.count_nonzero(storage._filled) < 4 * SUBPAGES
    assert storage._left > pages.count - 4 * SUBPAGES
    run(host.perform(op.Destroy(0)))
    assert not np.count_nonzero(seat.level.rmp.asid)
