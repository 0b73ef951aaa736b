"""What was published, beside the model: fitted figures agree, predictions are judged, misses stand."""

from __future__ import annotations

import pytest

from actors.costs import shipped
from protocol.cost.published import FITTED, PREDICTED, UNTRIED, Checked, checked, rows

COSTS = shipped()
ALL = {each.figure.name: each for each in checked(COSTS)}
# The OVMF slope is twice what 256 commands of a millisecond make: the firmware or the commands are more.
NOT_REPRODUCED = {"each further SNP guest under QEMU with OVMF"}


def of(use: str) -> list[Checked]:
    return [each for each in ALL.values() if each.figure.use == use]


@pytest.mark.parametrize("each", of(FITTED), ids=lambda each: each.figure.name)
def test_what_was_fitted_agrees_and_is_called_so(each: Checked) -> None:
    assert each.value == pytest.approx(each.figure.low, rel=0.07)


@pytest.mark.parametrize("each", of(PREDICTED), ids=lambda each: each.figure.name)
def test_a_prediction_uses_nothing_of_the_source_that_it_predicts(each: Checked) -> None:
    for name in each.entries:
        kind, _, rest = name.rpartition(".")
        group = each.figure.group
        entry = COSTS.factor(group, rest) if kind == "factor" else COSTS.of(group, name)
        assert each.figure.mark.lower() not in entry.source.lower(), name


@pytest.mark.parametrize("each", of(PREDICTED), ids=lambda each: each.figure.name)
def test_predictions_hold_but_for_those_that_are_known_not_to(each: Checked) -> None:
    assert each.reproduced == (each.figure.name not in NOT_REPRODUCED)


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("eager accept of 8 GiB, 1 VCPU", 0.15),
        ("secure page of a TD with 248 VCPUs", 0.15),
        ("boot of one SNP guest under QEMU with OVMF", 0.15),
    ],
)
def test_some_predictions_are_near_by_value_and_not_by_range_alone(name: str, within: float) -> None:
    each = ALL[name]
    nearest = min(max(each.value, each.figure.low), each.figure.high)
    assert each.value == pytest.approx(nearest, rel=within)


def test_a_table_of_them_says_which_is_which() -> None:
    found = rows(COSTS)
    assert {row["use"] for row in found} == {FITTED, PREDICTED}
    assert [row["what"] for row in found if not row["reproduced"]] == sorted(NOT_REPRODUCED)
    assert all(row["model"][1] <= row["model"][0] <= row["model"][2] for row in found)


def test_what_is_not_reproduced_says_what_is_known_about_why() -> None:
    missed = [row for row in rows(COSTS) if not row["reproduced"]]
    assert all(row["missed"] for row in missed)
    assert all("missed" not in row for row in rows(COSTS) if row["reproduced"])


def test_the_figures_in_the_reasons_are_those_of_the_table() -> None:
    """256 commands, the pages that 33 ms would be; both from the costs as they are."""
    page = COSTS.of("snp", "te_page_add_measured").value / 1e6
    fixed = sum(
        COSTS.of("snp", name).value for name in ("te_vm_create", "te_vcpu_create", "te_launch_finish")
    )
    assert f"{256 * page:.0f} ms" in next(each.figure.missed for each in ALL.values() if each.figure.missed)
    assert round((33 - fixed / 1e6) / page) == 27
    assert any("27 would be 33 ms" in why for _, _, why in UNTRIED)
