"""One operation is measured, the others cost the same, and what they count by themselves is replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.fold import Fold
from protocol.ledger import Key, Ledger, Peaks
from protocol.tracking import Book

EXIT: Key = ("exits", "1", "uvc", "kernel")
PAGE: Key = ("pages", "unpack")


def test_a_run_counts_as_if_each_had_been_done() -> None:
    ledger = Ledger()
    fold = Fold(ledger)
    with fold.measured("import"):
        ledger.count(EXIT, 3)
        ledger.count(PAGE)
    with fold.instead(("import", 9)):
        ledger.count(PAGE, 1000)  # however the state is brought about
        ledger.count(("copied_bytes", "uvcb"), 7)
    assert ledger.counts() | {("copied_bytes", "uvcb"): 0} == {
        EXIT: 30,
        PAGE: 10,
        ("copied_bytes", "uvcb"): 0,
    }
    assert ledger.flat() == {"exits": 30, "exits.1.uvc.kernel": 30, "pages": 10, "pages.unpack": 10}


def test_a_peak_follows_from_the_state_and_is_no_cost() -> None:
    """It neither repeats with every operation of a run nor is it replaced."""
    ledger = Ledger()
    fold, peaks = Fold(ledger), Peaks(ledger)
    with fold.measured("import"):
        ledger.count(PAGE)
        peaks.note("pages", 5)
    with fold.instead(("import", 9)):
        peaks.note("pages", 14)
    assert ledger.counts() == {PAGE: 10, ("peaks", "pages"): 14}


def test_what_belongs_to_somebody_else_is_no_part_of_the_cost() -> None:
    ledger = Ledger()
    fold = Fold(ledger)
    with fold.measured("share", but=PAGE):
        ledger.count(EXIT)
        ledger.count(PAGE)
    with fold.instead(("share", 2)):
        pass
    assert ledger.counts() == {EXIT: 3, PAGE: 1}


def test_kinds_are_priced_each_by_itself() -> None:
    ledger = Ledger()
    fold = Fold(ledger)
    for kind in (1, 2):
        assert not fold.knows(kind)
        with fold.measured(kind):
            ledger.count(EXIT, kind)
        assert fold.knows(kind)
    with fold.instead((1, 10), (2, 100)):
        pass
    assert ledger.counts() == {EXIT: 3 + 10 + 200}


def test_books_are_changed_in_runs_and_counted_once() -> None:
    ledger = Ledger()
    book = Book(ledger, "l0")
    fold = Fold(ledger)
    with fold.measured("track"):
        book.add("secure_page")
    with fold.instead(("track", 99)):
        book.add("secure_page", 99)
    assert book.records() == {"secure_page": 100} == book.peaks()
    assert ledger.counts() == {("tracking_updates", "secure_page", "create", "l0"): 100}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=1))
def test_folding_any_runs_gives_the_sum_of_their_parts(runs: list[tuple[str, int]]) -> None:
    costs = {"a": {EXIT: 1}, "b": {EXIT: 2, PAGE: 1}, "c": {}}

    def do(ledger: Ledger, kind: str) -> None:
        for key, n in costs[kind].items():
            ledger.count(key, n)

    one, run = Ledger(), Ledger()
    fold = Fold(run)
    for kind, n in runs:
        for _ in range(n):
            do(one, kind)
        left = n
        if not fold.knows(kind):
            left -= 1
            with fold.measured(kind):
                do(run, kind)
        with fold.instead((kind, left)):
            pass
    assert one.flat() == run.flat()


def test_only_the_phase_that_is_on_is_changed() -> None:
    ledger = Ledger()
    fold = Fold(ledger)
    ledger.count(EXIT, 5)
    ledger.phase = "boot"
    with fold.measured("x"):
        ledger.count(EXIT)
    with fold.instead(("x", 4)):
        ledger.count(EXIT, 50)
    assert ledger.phases()["host_setup"]["exits"] == 5
    assert ledger.phases()["boot"]["exits"] == 5
