"""The book of memory: nothing is given twice, the lowest place that fits is taken, all comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.keyboard import AllocationBook

PAGE = 16
AREAS = [(64, 256), (512, 1024)]

request = st.tuples(
    st.integers(1, 200),
    st.sampled_from([1, 8, 16, 32, 64, 128]),
    st.integers(0, 1100),
    st.integers(0, 1100),
)


def free_everywhere(address: int, length: int) -> int | None:
    return None


def lowest(taken: set[int], length: int, align: int, above: int, below: int, used: set[int]) -> int | None:
    """The same question, answered page by page."""
    pages = -(-length // PAGE)
    step = max(align, PAGE)
    for at in range(0, 1024, step):
        mine = range(at, at + pages * PAGE, PAGE)
        inside = any(first <= at and at + pages * PAGE <= end for first, end in AREAS)
        if inside and above <= at and at + pages * PAGE <= below and not (taken | used) & set(mine):
            return at
    return None


@given(st.lists(st.one_of(request, st.integers(0, 30)), max_size=40), st.sets(st.integers(0, 63)))
def test_the_lowest_area_that_fits_is_given_and_nothing_twice(script: list, blocked: set[int]) -> None:
    """A number gives that area back; `blocked` pages are used by somebody who is not in the book."""
    book = AllocationBook(AREAS, PAGE)
    used = {page * PAGE for page in blocked}
    given_out: dict[int, int] = {}

    def in_use(address: int, length: int) -> int | None:
        return min((page for page in range(address, address + length, PAGE) if page in used), default=None)

    for act in script:
        if isinstance(act, int):
            address = list(given_out)[act % len(given_out)] if given_out else act
            assert book.give(address) == (address in given_out)
            given_out.pop(address, None)
            continue
        length, align, above, below = act
        taken = {page for at, n in given_out.items() for page in range(at, at + n, PAGE)}
        want = lowest(taken, length, align, above, below, used)
        assert book.take(length, align, above, below, in_use) == want
        if want is not None:
            given_out[want] = -(-length // PAGE) * PAGE


@given(st.lists(st.integers(1, 90), max_size=20), st.randoms(use_true_random=False))
def test_what_comes_back_in_any_order_is_one_piece_again(lengths: list[int], random) -> None:
    book = AllocationBook(AREAS, PAGE)
    areas = [book.take(length, 1, 0, 1024, free_everywhere) for length in lengths]
    areas = [area for area in areas if area is not None]
    random.shuffle(areas)
    assert all(book.give(area) for area in areas)
    assert book.take(512, 1, 0, 1024, free_everywhere) == 512
    assert book.take(192, 1, 0, 1024, free_everywhere) == 64


def test_what_was_not_given_is_not_taken_back() -> None:
    book = AllocationBook(AREAS, PAGE)
    area = book.take(48, 1, 0, 1024, free_everywhere)
    assert area == 64
    assert not book.give(area + PAGE)
    assert book.give(area)
    assert not book.give(area)


def test_an_emptied_book_has_given_nothing_out() -> None:
    book = AllocationBook(AREAS, PAGE)
    area = book.take(48, 1, 0, 1024, free_everywhere)
    book.clear()
    assert book.take(48, 1, 0, 1024, free_everywhere) == area
