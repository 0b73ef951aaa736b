"""A host that reboots or dies against its calls in flight and an asynchronous teardown: in every order.

The code itself is explored, not a model of it (`explorer`). The victim is cut at each of its messages;
then what serves it, the teardown and a sibling's operation go on in every order with one preemption.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from explorer import Case, explore

from protocol.arch import load
from protocol.plan import operations as op
from protocol.plan.operations import Pages

LOADS, CREATES, TOUCHES = op.Load(0), op.Create(0, 16, 1), op.Touch(0, 0, Pages(1100, 4, 2))
ASYNC = {"teardown": "async"}


@pytest.mark.parametrize("how", ["reboot", "kill"])
def test_a_creation_on_power_is_cut_at_every_message(how: str) -> None:
    assert explore(lambda: Case(load("pef"), {}, CREATES, TOUCHES), how) > 20


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reboot", "kill"])
@pytest.mark.parametrize(
    ("arch", "doing", "stride", "cut_stride"),
    [
        ("pef", LOADS, 6, 6),
        ("s390", CREATES, 12, 8),
        ("tdx", CREATES, 60, 40),
        ("sev", CREATES, 60, 60),
    ],
    ids=["pef load", "s390 create", "tdx create", "sev create"],
)
def test_a_host_is_cut_at_its_messages_and_all_goes_on_in_every_order(
    arch: str, doing: op.Operation, stride: int, cut_stride: int, how: str
) -> None:
    """s390 tears down asynchronously; a stride above 1 leaves out orders in between, and says so here."""
    strategy = ASYNC if arch == "s390" else {}
    explore(lambda: Case(load(arch), strategy, doing, TOUCHES), how, 1, stride, cut_stride)
