"""What a host does is told as somebody would type it: typed again, it gets the same answers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.arch import load
from protocol.arch.s390.comparison import COMPARISON
from protocol.arch.s390.guest import (
    Diag,
    GuestStep,
    Lctl,
    Load,
    Loop,
    Read,
    Sclp,
    SetCpu,
    Sigp,
    Spx,
    Touch,
    Uvc,
    Wait,
)
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.keyboard.steps import KINDS
from protocol.arch.s390.recorded import typed
from protocol.crossing import inline
from protocol.keyboard import Fields
from protocol.keyboard.recorded import Json
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

STEPS: tuple[GuestStep, ...] = (
    Touch(0x5000),
    Touch(0x5000, True, b"\xbe\xef"),
    Read(1, 2),
    Load(1, 8, 15),
    SetCpu(((0, 1), (15, 255)), 5, True),
    SetCpu(((3, 4),)),
    Uvc(1, 2, 3, 4),
    Diag(0x44, 1, 2),
    Spx(0x2000),
    Sigp(5, 1, 9),
    Sclp(1, 2),
    Wait(),
    Lctl(6),
    Loop(),
)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_is_told_as_it_is_typed(step: GuestStep) -> None:
    assert KINDS.parse(Fields({"do": [typed(step)]})) == [step]


def test_a_life_that_was_told_gets_the_same_answers_when_it_is_typed() -> None:
    """Calls, entries, exceptions of both, CPUs that stop for Init and change their address space."""
    said: list[tuple[Json, Json]] = []
    rig = COMPARISON.compose(Sizes("small", 1, 1, 2060 << 20, 2, 7, {}), Ledger())
    host: Any = COMPARISON.software(
        rig,
        0,
        Random("recorded"),
        pages="two_fault",
        bulk=False,
        image=COMPARISON.image(7, 2, None),
        record=lambda request, answer: said.append((request, answer)),
    )
    below = rig.below(0)
    for operation in (op.BootHost(), op.Create(0, 1, 1), op.Load(0), op.Start(0)):
        inline(host.perform(operation), below)
    inline(host.perform(op.Touch(0, 0, op.Pages(100, 2, 2))), below)
    frame = frame_of(host.level, host.guest(0).table, 100)
    assert frame is not None
    assert not isinstance(host.level.read(frame << PAGE_SHIFT, 8), bytes), "the page is the guest's"
    host.cpus[1].prefix = 0x4000
    host.cpus[0].problem_state = True
    assert inline(host.level.call(host.cpus[0], 0x2000), below).name == "privileged-operation"
    host.cpus[0].problem_state = False
    inline(host.perform(op.Destroy(0)), below)
    assert {request["op"] for request, _ in said} == {"call", "cpu", "enter", "guest", "read", "write"}
    assert {answer["fault"]["name"] for _, answer in said if "fault" in answer} >= {"secure-storage-access"}
    keyboard = load("s390").keyboard(depth=1, memory_mib=2060, cpus=2, seed=7)
    for request, answer in said:
        assert keyboard.answer(request) == answer, request


def test_a_step_that_nobody_can_type_is_a_mistake_of_ours() -> None:
    step: Any = "no step"
    with pytest.raises(AssertionError, match="nobody can type: 'no step'"):
        typed(step)
