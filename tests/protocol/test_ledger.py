"""Counts: what an exit at any depth costs, worked out by hand; phases; the flat form that is compared."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger import FAMILIES, Key, Ledger, Peaks, flatten


def uvc(ledger: Ledger, level: int) -> None:
    """A call of L(level) that each level below emulates by one call of its own, as s390's UVC."""
    ledger.trap(level, "uvc")
    if level > 1:
        uvc(ledger, level - 1)
    ledger.reenter(level - 1)


def sie(ledger: Ledger, level: int) -> None:
    """L(level) enters its guest: each level below shadows the block and enters in its place."""
    ledger.trap(level, "sie")
    if level > 1:
        sie(ledger, level - 1)


def counted(ledger: Ledger, family: str) -> dict[tuple[str, ...], int]:
    return {key[1:]: n for key, n in ledger.counts().items() if key[0] == family}


# One call, by hand. Depth 1: L1 executes UVC, it lands at L0, L0 issues its own and enters L1 again: 1 exit.
# Depth 2: L2's UVC lands at L0 (1), which enters L1 with it; L1 issues its own, an exit (2); L1 enters L2
# again, an exit (3). Depth 3: L3's lands at L0 (1) and is L2's: L1 is entered, which enters L2, an exit (2);
# L2's own UVC is the case of depth 2, three exits (5); L2 enters L3: an exit (6) that is L1's, which enters
# L3 for it, an exit (7).
@pytest.mark.parametrize(
    ("level", "exits"),
    [
        (1, {("1", "uvc", "kernel"): 1}),
        (2, {("2", "uvc", "kernel"): 1, ("1", "uvc", "kernel"): 1, ("1", "sie", "kernel"): 1}),
        (
            3,
            {
                ("3", "uvc", "kernel"): 1,
                ("2", "uvc", "kernel"): 1,
                ("1", "uvc", "kernel"): 1,
                ("2", "sie", "kernel"): 1,
                ("1", "sie", "kernel"): 3,
            },
        ),
    ],
)
def test_a_call_costs_one_three_and_seven_exits(level: int, exits: dict[tuple[str, ...], int]) -> None:
    ledger = Ledger()
    uvc(ledger, level)
    assert counted(ledger, "exits") == exits
    assert ledger.flat()["exits"] == {1: 1, 2: 3, 3: 7}[level]


# An entry. Depth 1: SIE of L1 lands at L0, which enters the guest: 1. Depth 2: SIE of L2 lands at L0 (1) and
# is L1's, which enters in its place: an exit (2). Depth 3: SIE of L3 lands at L0 (1), L1 hands it to L2 by
# entering it (2), L2 enters in its place: an exit of L2 (3), and L1's for that (4).
@pytest.mark.parametrize(
    ("level", "exits"),
    [
        (1, {("1", "sie", "kernel"): 1}),
        (2, {("2", "sie", "kernel"): 1, ("1", "sie", "kernel"): 1}),
        (3, {("3", "sie", "kernel"): 1, ("2", "sie", "kernel"): 1, ("1", "sie", "kernel"): 2}),
    ],
)
def test_an_entry_costs_one_two_and_four_exits(level: int, exits: dict[tuple[str, ...], int]) -> None:
    ledger = Ledger()
    sie(ledger, level)
    assert counted(ledger, "exits") == exits
    assert ledger.flat()["exits"] == {1: 1, 2: 2, 3: 4}[level]


@given(st.integers(1, 9))
def test_each_level_doubles_the_exits(level: int) -> None:
    calls, entries = Ledger(), Ledger()
    uvc(calls, level)
    sie(entries, level)
    assert calls.flat()["exits"] == 2**level - 1
    assert entries.flat()["exits"] == 2 ** (level - 1)


@given(st.integers(1, 9))
def test_every_arrival_at_l0_ends_in_one_entry(level: int) -> None:
    ledger = Ledger()
    uvc(ledger, level)
    sie(ledger, level)
    assert ledger.flat()["entries"] == ledger.flat()["exits"]


def test_an_exit_is_handed_up_level_by_level() -> None:
    ledger = Ledger()
    ledger.trap(3, "uvc")
    # L0 hands it to L1, L1 to L2; for that L1 executes SIE, which is L0's own to handle.
    assert counted(ledger, "reflections") == {("0", "1"): 1, ("1", "2"): 1}
    assert counted(ledger, "exits") == {("3", "uvc", "kernel"): 1, ("1", "sie", "kernel"): 1}


def test_an_exit_that_l0_handles_is_reflected_to_nobody() -> None:
    ledger = Ledger()
    ledger.exit(3, "host_page", to="vmm")
    assert ledger.counts() == {("exits", "3", "host_page", "vmm"): 1, ("entries", "3"): 1}


@given(st.integers(1, 5), st.integers(0, 50))
def test_many_at_once_are_as_many_one_by_one(level: int, n: int) -> None:
    at_once, one_by_one = Ledger(), Ledger()
    at_once.trap(level, "table_write", n=n)
    at_once.reenter(level - 1, n)
    for _ in range(n):
        one_by_one.trap(level, "table_write")
        one_by_one.reenter(level - 1)
    assert at_once.flat() == one_by_one.flat()


# -- phases --------------------------------------------------------------------------------


def test_counts_stand_in_the_phase_in_which_they_happened() -> None:
    ledger = Ledger()
    ledger.count(("pages", "unpack"), 2)
    ledger.phase = "boot"
    ledger.count(("pages", "unpack"), 3)
    ledger.phase = "host_setup"
    ledger.count(("pages", "unpack"))
    assert ledger.phase == "host_setup"
    assert ledger.phases() == {
        "host_setup": {"pages": 3, "pages.unpack": 3},
        "boot": {"pages": 3, "pages.unpack": 3},
    }
    assert ledger.counts() == {("pages", "unpack"): 6}


def test_a_phase_in_which_nothing_happened_is_not_there() -> None:
    ledger = Ledger()
    ledger.phase = "dump"
    assert ledger.phases() == {}


moves = st.lists(
    st.tuples(st.sampled_from(["create", "boot", "run"]), st.sampled_from(["a", "b"]), st.integers(1, 9)),
    max_size=20,
)


@given(moves)
def test_the_phases_add_up_to_the_whole(moves: list[tuple[str, str, int]]) -> None:
    ledger = Ledger()
    for phase, what, n in moves:
        ledger.phase = phase
        ledger.count(("copied_bytes", what), n)
    total: Counter[str] = Counter()
    for counts in ledger.phases().values():
        total.update(counts)
    assert ledger.flat() == total


def test_a_reset_forgets_counts_and_contention_and_stays_in_its_phase() -> None:
    ledger = Ledger()
    ledger.phase = "run"
    ledger.trap(1, "uvc")
    ledger.contention["busy"] += 1
    ledger.reset()
    assert ledger.counts() == {}
    assert ledger.contention == {}
    assert ledger.phase == "run"
    ledger.count(("pages", "pin"))
    assert ledger.phases() == {"run": {"pages": 1, "pages.pin": 1}}


# -- the flat form -------------------------------------------------------------------------


def test_names_are_dotted_and_families_have_their_total() -> None:
    counts = {("exits", "1", "uvc", "kernel"): 2, ("exits", "2", "icpt_68", "vmm"): 1, ("entries", "1"): 5}
    assert flatten(counts) == {
        "entries": 5,
        "entries.1": 5,
        "exits": 3,
        "exits.1.uvc.kernel": 2,
        "exits.2.icpt_68.vmm": 1,
    }


def test_what_did_not_happen_has_no_name() -> None:
    assert flatten({("pages", "pin"): 0}) == {}


def test_contention_is_outside_of_what_is_compared() -> None:
    ledger = Ledger()
    ledger.contention["absorbed_busy"] += 1
    assert ledger.flat() == {}
    assert ledger.phases() == {}


def test_what_the_ledger_counts_itself_is_of_the_known_families() -> None:
    ledger = Ledger()
    uvc(ledger, 3)
    for family, *labels in ledger.counts():
        names, _ = FAMILIES[family]
        assert len(labels) == len(names)


def test_a_peak_is_counted_as_it_grows_and_adds_up_over_owners() -> None:
    ledger = Ledger()
    one, other = Peaks(ledger), Peaks(ledger)
    for n in (3, 1, 5, 5, 0):
        one.note("pages", n)
    other.note("pages", 2)
    assert ledger.counts() == {("peaks", "pages"): 5 + 2}


def test_peaks_of_unlike_things_have_no_total() -> None:
    ledger = Ledger()
    peaks = Peaks(ledger)
    peaks.note("pages", 3)
    peaks.note("frames", 4)
    assert ledger.flat() == {"peaks.frames": 4, "peaks.pages": 3}


# -- what a span is told -------------------------------------------------------------------


def test_what_is_counted_while_it_is_diverted_stands_in_the_span_and_in_the_phase() -> None:
    ledger = Ledger()
    ledger.phase = "boot"
    ledger.count(("pages", "pin"), 1)
    one: defaultdict[Key, int] = defaultdict(int)
    other: defaultdict[Key, int] = defaultdict(int)
    ledger.divert(one)
    ledger.count(("pages", "pin"), 2)
    ledger.divert(other)
    ledger.count(("pages", "pin"), 4)
    ledger.divert(None)
    ledger.count(("pages", "pin"), 8)
    assert (dict(one), dict(other)) == ({("pages", "pin"): 2}, {("pages", "pin"): 4})
    assert ledger.phases()["boot"] == {"pages": 15, "pages.pin": 15}


def test_a_new_phase_ends_what_was_diverted_and_it_stands_in_the_old_one() -> None:
    ledger = Ledger()
    ledger.phase = "boot"
    span: defaultdict[Key, int] = defaultdict(int)
    ledger.divert(span)
    ledger.count(("pages", "pin"), 2)
    ledger.phase = "run"
    ledger.count(("pages", "pin"), 5)
    assert dict(span) == {("pages", "pin"): 2}
    assert {phase: counts["pages"] for phase, counts in ledger.phases().items()} == {"boot": 2, "run": 5}
