"""Books: how many records live, how many there were at most, and every change counted once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger import FAMILIES, Ledger
from protocol.tracking import PLANE_OF, PLANES, SIZES, Book, OwnerBooks, summary


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def book(ledger: Ledger) -> Book:
    return Book(ledger, "l0")


def test_records_come_change_and_go(book: Book, ledger: Ledger) -> None:
    book.add("secure_page", 3)
    book.change("secure_page")
    book.drop("secure_page", 2)
    assert book.records() == {"secure_page": 1}
    assert ledger.counts() == {
        ("tracking_updates", "secure_page", "create", "l0"): 3,
        ("tracking_updates", "secure_page", "update", "l0"): 1,
        ("tracking_updates", "secure_page", "delete", "l0"): 2,
    }


def test_the_peak_stays_when_the_records_are_gone(book: Book) -> None:
    book.add("vm_map", 2)
    book.drop("vm_map", 2)
    book.add("vm_map")
    assert book.records() == {"vm_map": 1}
    assert book.peaks() == {"vm_map": 2}


def test_peaks_begin_anew_at_what_lives_now(book: Book) -> None:
    book.add("child", 4)
    book.drop("child", 3)
    book.reset_peaks()
    assert book.peaks()["child"] == 1
    book.add("child")
    assert book.peaks()["child"] == 2


@pytest.mark.parametrize("change", ["add", "change", "drop"])
def test_no_change_is_no_update(book: Book, ledger: Ledger, change: str) -> None:
    getattr(book, change)("lease", 0)
    assert ledger.counts() == {}
    assert book.records() == {}


def test_the_hosting_service_writes_into_the_book_of_whose_record_it_is(ledger: Ledger) -> None:
    books = OwnerBooks(ledger, "l0")
    for op in ("create", "update", "delete"):
        books.update("child", op, 3)
    books.update("child", "create", 4)
    assert {owner: book.peaks() for owner, book in books.books.items()} == {3: {"child": 1}, 4: {"child": 1}}
    assert (books.of(3).records(), books.of(4).records()) == ({}, {"child": 1})
    assert {key[2]: n for key, n in ledger.counts().items()} == {"create": 2, "update": 1, "delete": 1}


def test_an_operation_that_is_none_is_refused(ledger: Ledger) -> None:
    with pytest.raises(KeyError):
        OwnerBooks(ledger, "l0").update("child", "rename", 3)


def test_who_is_gone_keeps_no_records(book: Book, ledger: Ledger) -> None:
    book.add("child", 2)
    before = ledger.counts()
    book.forget()
    assert (book.records(), book.peaks(), ledger.counts()) == ({}, {"child": 2}, before)


changes = st.lists(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(-5, 5)), max_size=30)


@given(changes)
def test_a_book_agrees_with_a_plain_table(changes: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    book, live, peak = Book(ledger, "l1"), dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
    for kind, wanted in changes:
        n = max(wanted, -live[kind])  # nobody drops what is not there
        if n >= 0:
            book.add(kind, n)
        else:
            book.drop(kind, -n)
        live[kind] += n
        peak[kind] = max(peak[kind], live[kind])
    assert book.records() == {kind: n for kind, n in live.items() if n}
    assert {kind: n for kind, n in book.peaks().items() if n} == {k: n for k, n in peak.items() if n}
    updates = ledger.counts()
    for kind, n in live.items():
        made = updates.get(("tracking_updates", kind, "create", "l1"), 0)
        gone = updates.get(("tracking_updates", kind, "delete", "l1"), 0)
        assert made - gone == n


def test_the_summary_is_by_plane_in_model_bytes(book: Book) -> None:
    book.add("vm_map", 2)
    book.add("vcpu_map", 3)
    book.add("secure_page", 10)
    book.drop("secure_page", 10)
    assert summary(book) == {
        "control": {"records": 5, "bytes": 5 * 40},
        "page": {"records": 10, "bytes": 10 * 16},
    }


def test_every_kind_is_of_one_plane_and_has_a_size() -> None:
    kinds = [kind for plane in PLANES.values() for kind in plane]
    assert len(kinds) == len(set(kinds)) == len(PLANE_OF)
    assert all(size > 0 for size in SIZES.values())


def test_a_kind_that_has_no_size_cannot_be_summed_up(book: Book) -> None:
    book.add("rumour")
    with pytest.raises(KeyError, match="rumour"):
        summary(book)


def test_updates_are_counted_in_the_ledgers_own_family(book: Book, ledger: Ledger) -> None:
    book.add("lease")
    ((family, *labels),) = ledger.counts()
    assert FAMILIES[family][0] == ("kind", "op", "holder")
    assert labels == ["lease", "create", "l0"]
