"""A composition in two halves, as in processes: L0 in one, L1 and what is above it in the other."""

from __future__ import annotations

import pytest

from protocol.arch import architectures, load
from protocol.crossing import inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes

MIB = 1 << 20


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("arch", architectures())
def test_two_halves_are_as_deep_as_the_whole_and_counted_like_it(arch: str, depth: int) -> None:
    comparison = load(arch).comparison
    sizes = Sizes("small", depth, 1, 128 * MIB, 2, 1)
    whole = comparison.compose(sizes, together := Ledger())
    ledger = Ledger()
    lower = comparison.lower(sizes, ledger)
    seat = lower.seats[0]
    l1 = comparison.linked(seat.level, len(seat.cpus))
    upper = inline(comparison.upper(l1, sizes, ledger), lower.below(0))
    assert len(lower.chain) + len(upper.chain) == len(whole.chain) == depth
    assert len(lower.seats) == len(upper.seats) == 1
    assert upper.seats[0].level.size == whole.seats[0].level.size
    assert ledger.flat() == together.flat()
    assert list(lower.leaks()) == []
