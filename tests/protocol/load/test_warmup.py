"""The beginning is cut by rule."""

from __future__ import annotations

from random import Random

import pytest

from protocol.load.warmup import BATCH, cut


def test_a_slow_beginning_is_cut_and_nothing_else() -> None:
    random = Random(1)
    values = [100.0 + random.random() for _ in range(20)] + [10.0 + random.random() for _ in range(180)]
    left_out, steady = cut(values)
    assert (left_out, steady) == (20, True)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_steady_series_less_than_half_is_cut(seed: int) -> None:
    random = Random(seed)
    left_out, steady = cut([random.gauss(10, 1) for _ in range(200)])
    assert left_out <= 100
    assert left_out % BATCH == 0
    assert steady or left_out == 0


def test_what_grows_until_its_end_is_not_steady() -> None:
    assert cut([float(n) for n in range(200)]) == (0, False)


def test_too_few_say_nothing() -> None:
    assert cut([1.0] * 19) == (0, False)
    assert cut([1.0] * 20) == (0, True)
