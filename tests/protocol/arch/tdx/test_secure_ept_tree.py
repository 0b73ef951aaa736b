"""The Secure EPT as a tree: where walks end, and the lock in an entry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.tdx.machine.sept import ADDRESS, FREE, HOST_PRIORITY, SecureEpt, leaf, table
from protocol.arch.tdx.tables import STATE

ROOT = 1000
GPAS = st.integers(0, (1 << 36) - 1).map(lambda page: page << 12)


def grown(leaves: dict[int, int], top: int = 3) -> SecureEpt:
    """A tree that maps guest pages to frames."""
    sept = SecureEpt(ROOT, top)
    spare = iter(range(ROOT + 1, ROOT + 10_000))
    for gpa, frame in leaves.items():
        for level in range(top, 0, -1):
            place = sept.walk(gpa, level)
            if place.entry == FREE:
                new = next(spare)
                sept.add(new)
                sept.put(place, table(new))
        sept.put(sept.walk(gpa, 0), leaf(frame, STATE["MAPPED"]))
    return sept


@given(st.dictionaries(GPAS, st.integers(0, 1 << 20), max_size=20), GPAS)
def test_a_walk_ends_at_the_page_that_was_put_there(leaves: dict[int, int], other: int) -> None:
    sept = grown(leaves)
    for gpa, frame in leaves.items():
        place = sept.leaf_at(gpa)
        assert (place.level, (place.entry & ADDRESS) >> 12) == (0, frame)
        assert len(sept.path(gpa)) == 4
        assert sept.path(gpa)[0] == ROOT
    if other not in leaves:
        assert sept.leaf_at(other).entry == FREE


def test_a_walk_stops_at_a_large_page_and_at_what_is_not_there() -> None:
    sept = grown({0: 7})
    middle = sept.walk(1 << 21, 1)
    sept.put(middle, leaf(512, STATE["MAPPED"]))
    assert sept.walk((1 << 21) + 0x5000, 0).level == 1
    assert sept.walk(1 << 39, 0).level == 3
    assert sept.path(1 << 39) == [ROOT]


def test_a_host_that_was_turned_away_comes_before_a_guest() -> None:
    sept = grown({0: 7})
    place = sept.leaf_at(0)
    assert sept.lock_for_guest(place)
    assert not sept.lock_for_host(place)
    sept.unlock(place)
    assert sept.get(place) & HOST_PRIORITY
    assert not sept.lock_for_guest(place)
    assert sept.lock_for_host(place)
    sept.unlock(place)
    assert sept.lock_for_guest(place)


def test_unlocking_an_entry_of_a_table_that_is_gone_does_nothing() -> None:
    sept = grown({0: 7})
    place = sept.leaf_at(0)
    sept.lock_for_host(place)
    sept.drop(place.table)
    sept.unlock(place)
    assert place.table not in sept.tables
