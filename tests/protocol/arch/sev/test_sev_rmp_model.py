"""The RMP by itself: properties that hold whatever a hypervisor does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.sev.rmp import (
    ASSIGNED,
    FAIL_INUSE,
    IMMUTABLE,
    LARGE,
    OK,
    SUBPAGES,
    VALIDATED,
    PageState,
    Rmp,
)
from protocol.arch.sev.structs import PAGE, SHARED, NewState

MIB = 1 << 20
FRAMES = 4 * SUBPAGES


def made() -> Rmp:
    """A table that covers 8 MiB of memory; it lies in the last MiB."""
    rmp = Rmp(FRAMES, 64)
    usable = np.ones(FRAMES, bool)
    usable[10:12] = False
    rmp.build(7 * MIB, 8 * MIB, usable)
    return rmp


frames = st.sampled_from([0, 1, 5, 10, 511, 512, 513, 1023, 1024, 1025, 1500, 7 * 256, 2047, 4000])
updates = st.tuples(
    frames,
    st.builds(
        NewState,
        gpa=st.sampled_from([0, PAGE, 2 * MIB, 4 * MIB, 0x800]),
        assigned=st.booleans(),
        large=st.booleans(),
        immutable=st.booleans(),
        asid=st.sampled_from([0, 0, 1, 2, 63, 64]),
    ),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(updates, frames), max_size=25))
def test_counters_heads_and_fixed_pages_stay_true(acts: list[object]) -> None:
    """Counters are those of the entries, large entries are whole, and what is immutable never changes."""
    rmp = made()
    before = rmp.flags.copy()
    for act in acts:
        if isinstance(act, tuple):
            frame, new = act
            kept = rmp.flags.copy()
            code = rmp.update(frame * PAGE, new)
            if code != OK:
                assert (rmp.flags == kept).all()
        else:
            rmp.smash(act * PAGE)
    for asid in range(1, 64):
        mine = rmp.asid == asid
        large = int(np.count_nonzero(mine & (rmp.flags & LARGE != 0)))
        assert rmp.pages_of(asid) == int(np.count_nonzero(mine)) + large * (SUBPAGES - 1)
    for head in np.flatnonzero(rmp.flags & LARGE).tolist():
        assert head % SUBPAGES == 0
        assert (rmp.flags[head + 1 : head + SUBPAGES] == ASSIGNED).all()
        assert not rmp.asid[head + 1 : head + SUBPAGES].any()
    fixed = before & IMMUTABLE != 0
    assert (rmp.flags[fixed] == before[fixed]).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(updates, max_size=12), frames)
def test_smashing_and_joining_are_inverse(acts: list[tuple[int, NewState]], frame: int) -> None:
    rmp = made()
    for at, new in acts:
        rmp.update(at * PAGE, new)
    head = frame & ~(SUBPAGES - 1)
    if not rmp.large(head):
        return
    kept = rmp.entries(0, FRAMES)
    assert rmp.smash(head * PAGE) == OK
    assert not rmp.flags[head : head + SUBPAGES].any() & LARGE
    rmp.join(head)
    assert rmp.entries(0, FRAMES) == kept


def test_states_are_told_apart() -> None:
    rmp = made()
    wanted = {
        PageState.HYPERVISOR: (0, 0, 0),
        PageState.HV_FIXED: (IMMUTABLE, 0, 0),
        PageState.RECLAIM: (ASSIGNED, 0, 0),
        PageState.FIRMWARE: (ASSIGNED | IMMUTABLE, 0, 0),
        PageState.METADATA: (ASSIGNED | IMMUTABLE, 0, 1 << 36 | 7),
        PageState.FIRMWARE_IOMMU: (ASSIGNED | IMMUTABLE, 0, 2 << 36 | 1),
        PageState.PRE_GUEST: (ASSIGNED | IMMUTABLE, 3, 5),
        PageState.PRE_SWAP: (ASSIGNED | IMMUTABLE | VALIDATED, 3, 5),
        PageState.GUEST_INVALID: (ASSIGNED, 3, 5),
        PageState.GUEST_VALID: (ASSIGNED | VALIDATED, 3, 5),
    }
    for state, (flags, asid, gpa) in wanted.items():
        rmp.put(20, flags, asid, gpa)
        assert rmp.state(20) is state
    assert rmp.state(1 << 20) is PageState.DEFAULT
    assert rmp.state(FRAMES) is PageState.HV_FIXED  # covered, but no memory is there


def test_busy_entries_are_in_use_even_inside_a_large_one() -> None:
    rmp = made()
    assert rmp.update(2 * MIB, NewState(0, True, True, False, 1)) == OK
    rmp.busy.add(SUBPAGES)
    assert rmp.update(2 * MIB + 5 * PAGE, NewState(0, False, False, False, 0)) == FAIL_INUSE
    assert rmp.smash(2 * MIB) == FAIL_INUSE
    rmp.busy.clear()
    assert rmp.smash(2 * MIB) == OK


def test_the_table_in_memory_is_what_the_columns_say() -> None:
    rmp = made()
    rmp.update(33 * PAGE, NewState(0x7000, True, False, True, 9))
    raw = rmp.rendered(7 * MIB + 0x4000 + 16 * 33, 16)
    assert int.from_bytes(raw[:8], "little") == 5 | 0x7000 | 9 << 51
    assert rmp.rendered(7 * MIB + 8 * 9, 8) == (1).to_bytes(8, "little")
    assert rmp.assigned_pages() == 1


STATES = st.builds(
    NewState,
    st.integers(0, 40).map(lambda page: page * PAGE),
    st.booleans(),
    st.just(False),
    st.booleans(),
    st.integers(0, 3),
)


def contents(rmp: Rmp) -> list[list[int]]:
    return [column.tolist() for column in (rmp.flags, rmp.asid, rmp.gpa, rmp.perms, rmp.counters)]


def table(before: list[tuple[int, NewState]]) -> Rmp:
    rmp = Rmp(4096, 16)
    rmp.build(8 << 20, (8 << 20) + 0x4000 + 4096 * 16, np.ones(4096, bool))
    for page, state in before:
        rmp.update((1024 + page) * PAGE, state)
    return rmp


@given(
    before=st.lists(st.tuples(st.integers(0, 40), STATES), max_size=30),
    pages=st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=12),
)
@settings(deadline=None, max_examples=150)
def test_frames_that_change_hands_in_a_run_are_as_those_that_do_so_one_by_one(
    before: list[tuple[int, NewState]], pages: list[int]
) -> None:
    """Where a run may be done, each could be, and then the table is the same, byte by byte."""
    frames, asid = np.array(pages) + 1024, 3
    one, other = table(before), table(before)
    if other.free_each(frames):
        other.assign_each(frames, asid, np.array(pages))
        states = [NewState(page * PAGE, True, False, False, asid) for page in pages]
        assert not any(one.update((1024 + page) * PAGE, new) for page, new in zip(pages, states, strict=True))
        assert contents(one) == contents(other)
    if other.owned_each(frames, asid):
        other.release_each(frames, asid)
        assert not any(one.update((1024 + page) * PAGE, SHARED) for page in pages)
        assert contents(one) == contents(other)


def test_no_run_is_done_while_an_entry_is_busy_or_where_there_is_none() -> None:
    rmp, free, beyond = table([]), np.array([1030, 1031]), np.array([1030, 4096])
    assert rmp.free_each(free)
    rmp.assign_each(free, 3, np.array([1, 2]))
    assert rmp.owned_each(free, 3) and not rmp.owned_each(free, 4)
    for held in (rmp.busy, rmp.running):
        held.add(1030)
        assert not rmp.owned_each(free, 3) and not rmp.free_each(np.array([1040]))
        held.clear()
    assert not rmp.owned_each(beyond, 3) and not rmp.free_each(beyond)
    assert not rmp.owned_each(free[:0], 3) and not rmp.free_each(free[:0])
