"""Depth, emulated message by message, is what its law and the sheet's recursion say."""

from __future__ import annotations

import pytest

pytest.importorskip("simpy", reason="the answers need the extra `model`")

from actors.answers import runs as r
from actors.answers.levels import BOOT, DEPTHS, FITTED, SCENARIO, recursion
from protocol.cost.recursion import differs


def exits(arch: str, depth: int, path: str, requests: str = "relayed", phases: tuple[str, ...] = BOOT) -> int:
    outcome = r.outcome(SCENARIO, arch=arch, depth=str(depth), strategy__requests=requests)
    return r.counted(r.result(outcome, arch, path), "exits", phases)


@pytest.mark.parametrize(
    "arch", ["s390", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("snp", "tdx", "pef"))]
)
def test_two_depths_predict_the_exits_of_all_deeper_ones(arch: str) -> None:
    counted = [exits(arch, depth, "nested") for depth in DEPTHS]
    assert max(DEPTHS) == 4 and max(DEPTHS) > FITTED
    assert differs(recursion(arch), counted) == 0


def test_a_hosted_guest_exits_as_often_at_every_depth() -> None:
    assert len({exits("s390", depth, "hosted") for depth in DEPTHS}) == 1


@pytest.mark.parametrize(("requests", "creation"), [("relayed", [1, 3, 7, 15]), ("flat", [1, 1, 1, 1])])
def test_a_request_goes_through_every_level_or_straight_to_l0(requests: str, creation: list[int]) -> None:
    assert [exits("s390", depth, "hosted", requests, ("create",)) for depth in DEPTHS] == creation
    for depth in DEPTHS:
        outcome = r.outcome(SCENARIO, arch="s390", depth=str(depth), strategy__requests=requests)
        messages = r.result(outcome, "s390", "hosted")["counts"]["hosting"]
        assert messages == 8 * (depth if requests == "relayed" else 1)
