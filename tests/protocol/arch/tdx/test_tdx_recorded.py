"""A TDX host's life is written down as somebody would type it, and a console answers it in the same way."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from nestbed.testing import SecureHost
from protocol.arch.tdx import runs
from protocol.arch.tdx.comparison import COMPARISON, TdxComparison
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Leave, Program, Read, Tdcall, Touch
from protocol.arch.tdx.linked import LinkedTdx
from protocol.arch.tdx.profiles import MIB
from protocol.arch.tdx.recorded import RecordedTdx
from protocol.crossing import inline
from protocol.effects import Fault
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

MEMORY_MIB, SEED = 192, 5
VP_ENTER_OF_NOBODY = 0x4000_0000
Said = list[tuple[dict[str, Any], dict[str, Any]]]


class Recorded:
    """A host at some depth, every request of which is written down."""

    def __init__(self, depth: int) -> None:
        comparison: TdxComparison = COMPARISON
        self.said: Said = []
        self.rig = comparison.compose(Sizes("small", depth, 1, MEMORY_MIB * MIB, 2, SEED), Ledger())
        self.host = comparison.software(
            self.rig,
            0,
            Random(0),
            pages="two_fault",
            bulk=False,
            image=comparison.image(SEED, 2, None),
            record=lambda request, answer: self.said.append((request, answer)),
        )

    def do(self, step: Any) -> Any:
        return inline(step, self.rig.below(0))


@pytest.mark.parametrize("depth", [0, 1])
def test_a_life_is_written_down_and_a_console_answers_it_likewise(depth: int) -> None:
    recorded = Recorded(depth)
    for operation in (
        op.BootHost(),
        op.Create(0, 2, 1),
        op.Load(0),
        op.Start(0),
        op.Touch(0, 0, op.Pages(300, 2, 2)),
        op.Share(0, 0, op.Pages(310, 1, 1)),
        op.Exits(0, 0, "wait", "vmm", 2),
        op.Destroy(0),
    ):
        recorded.do(recorded.host.perform(operation))
    asked = [request["op"] for request, _ in recorded.said]
    assert {"call", "enter", "guest", "read", "write", "insn"} >= set(asked) >= {"call", "enter", "guest"}
    console = SecureHost.open("tdx", depth, memory_mib=MEMORY_MIB, seed=SEED).keyboard
    for request, answer in recorded.said:
        assert console.answer(request) == answer, request


def test_exceptions_and_steps_of_all_kinds_are_written_down() -> None:
    recorded = Recorded(0)
    level: Any = recorded.host.level
    lp = level.lps[0]
    program = Program()
    program.steps.extend(
        (
            Touch(0x1000, True, b"\1\2"),
            Touch(0x2000),
            Read(0x3000, 8),
            Tdcall(tuple(registers(rax=6, r12=5))),
            Leave("nmi"),
        )
    )
    lp.vmx = False
    assert isinstance(recorded.do(level.call(lp, registers(rax=33))), Fault)
    assert isinstance(recorded.do(level.enter(lp, registers(rcx=VP_ENTER_OF_NOBODY), program)), Fault)
    vcpu, fault = hex(VP_ENTER_OF_NOBODY), {"code": "0x6", "name": "#UD", "address": "0x0", "write": False}
    assert recorded.said == [
        ({"id": 1, "op": "call", "cpu": 0, "rax": "0x21"}, {"id": 1, "fault": fault}),
        (
            {
                "id": 2,
                "op": "guest",
                "vm": "0x0",
                "vcpu": vcpu,
                "do": [
                    {"touch": "0x1000", "write": True, "value": "0102"},
                    {"touch": "0x2000"},
                    {"read": "0x3000", "len": 8},
                    {"call": {"rax": "0x6", "r12": "0x5"}},
                    {"exit": "nmi"},
                ],
            },
            {"id": 2, "ok": {"queued": 5}},
        ),
        ({"id": 3, "op": "enter", "cpu": 0, "vcpu": vcpu}, {"id": 3, "fault": fault | {"steps": []}}),
    ]


def test_pages_that_nobody_had_are_filled_and_those_of_a_td_get_direct_stores() -> None:
    recorded = Recorded(1)
    recorded.do(recorded.host.perform(op.BootHost()))
    recorded.do(recorded.host.perform(op.Create(0, 2, 1)))
    page = recorded.host.guests[0].tdr >> 12
    del recorded.said[:]
    recorded.host.level.clear([8, page])
    requests = [request for request, _ in recorded.said]
    assert (requests[0]["op"], requests[0]["addr"]) == ("fill", "0x8000")
    lines = [int(request["address"], 16) for request in requests[1:]]
    assert lines == list(range(page << 12, page + 1 << 12, 64))
    assert {(request["name"], request["hex"]) for request in requests[1:]} == {("movdir64b", "00" * 64)}
    assert recorded.host.level.read(page << 12, 64) == bytes(64)


def test_what_is_written_down_is_done_call_by_call() -> None:
    """A run of pages in one step would leave nothing to write down."""
    recorded = Recorded(1)
    level = recorded.host.level
    assert isinstance(level, RecordedTdx)
    assert runs.here(level) is None
    assert runs.here(LinkedTdx(level.memory)) is level.memory
    assert runs.here(object()) is None
