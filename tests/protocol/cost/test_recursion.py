"""What depth costs in exits by law: the ledger's own counting, and the closed formulas, obey it."""

from __future__ import annotations

import pytest

from actors.costs import shipped
from protocol.cost.formulas import TRAPS, Formulas
from protocol.cost.recursion import Recursion, differs, found
from protocol.ledger import Ledger

DEPTHS = (1, 2, 3, 4, 5)


def arrivals(ledger: Ledger) -> int:
    return ledger.flat()["exits"]


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_exit_of_the_guest_arrives_twice_as_often_with_each_level(depth: int) -> None:
    ledger = Ledger()
    ledger.trap(depth + 1, "diag")
    ledger.reenter(depth)
    assert arrivals(ledger) == Recursion(1, 0, 0).at(depth) == 2**depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_act_of_a_host_arrives_with_all_that_its_hypervisors_issue_again(depth: int) -> None:
    ledger = Ledger()
    for level in range(depth, 0, -1):  # each issues it again, then enters the one above
        ledger.trap(level, "uvc")
        ledger.reenter(level - 1)
    assert arrivals(ledger) == Recursion(0, 1, 0).at(depth) == 2**depth - 1


def test_acts_of_the_hypervisors_between_add_up_over_them() -> None:
    for depth in DEPTHS:
        together = sum(Recursion(0, 1, 0).at(level) for level in range(1, depth))
        assert Recursion(0, 0, 1).at(depth) == together


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_sheets_formula_says_the_same_where_a_level_costs_twice_and_traps_nothing_more(
    depth: int,
) -> None:
    """With an exit as the unit, everything else for nothing, and the traps of handlers (z) left out."""
    formulas = Formulas(
        shipped(), "s390", cost=lambda name: float(name == "exit_l1_l0"), factor=lambda name: 2.0
    )
    z = TRAPS * Recursion(0, 1, 0).at(depth - 1)
    assert formulas.page_call(depth) - z == Recursion(0, 1, 0).at(depth)
    assert formulas.null_exit(depth + 1) == Recursion(1, 0, 0).at(depth)


def test_two_depths_give_the_recursion_and_it_is_whole() -> None:
    known = Recursion(68, 256, 129)
    counted = [known.at(depth) for depth in DEPTHS]
    assert found(68, counted[0], counted[1]) == known
    assert differs(known, counted) == 0
    assert differs(known, [*counted[:4], counted[4] + 3]) == 3
    with pytest.raises(ValueError, match="no recursion"):
        found(68, 100, 200)
    with pytest.raises(ValueError, match="allowed is 0"):
        known.at(-1)
