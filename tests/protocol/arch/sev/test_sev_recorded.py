"""What a host did, told as somebody would type it: a console on a machine like it answers the same."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.arch import load
from protocol.arch.sev.compose import compose
from protocol.arch.sev.guest import Leave, Program, Pvalidate, Rdmsr, Read, Rmpadjust, Touch, Wrmsr
from protocol.arch.sev.host.kinds import KINDS
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.instructions import Registers
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.recorded import RecordedSev
from protocol.arch.sev.runs import here
from protocol.arch.sev.structs import C_MASK, PAGE
from protocol.crossing import inline
from protocol.effects import Step
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

IMAGE = bytes(range(256)) * 32
BEHIND = FIRST_PAGES + 2
MEMORY_MIB, CPUS, SEED = 32, 2, 7
Json = dict[str, Any]


class Told:
    """A host whose level is asked by message and writes down what it is asked."""

    def __init__(self, depth: int, kind: str, bulk: bool = False) -> None:
        self.depth = depth
        self.rig = compose(PROFILES["small"], depth, 1, MEMORY_MIB * MIB, CPUS, SEED)
        seat = self.rig.seats[0]
        self.said: list[tuple[Json, Json]] = []
        level = RecordedSev(self.rig.linked(seat.level), lambda *both: self.said.append(both))
        kind_of = KINDS[kind]
        self.host = Host(level, seat.cpus, Random(0), depth=depth, image=IMAGE, kind=kind_of, bulk=bulk)
        self.do(op.BootHost(), op.Create(0, 1, 2), op.Load(0), op.Start(0))

    def do(self, *operations: op.Operation) -> None:
        for operation in operations:
            self.step(self.host.perform(operation))

    def step(self, step: Step[Any]) -> Any:
        return inline(step, self.rig.below(0))

    def instruction(self, name: str, **registers: int) -> Any:
        return self.step(self.host.driver.hands.instruction(0, name, Registers(**registers)))

    def enter(self, vmcb: int, program: Program) -> Any:
        return self.step(self.host.driver.hands.vmrun(0, vmcb, program))

    def of(self, name: str) -> list[tuple[Json, Json]]:
        """What was told of one operation, or of one instruction."""
        return [both for both in self.said if name in (both[0]["op"], both[0].get("name"))]

    def is_answered_alike(self) -> bool:
        keys = load("sev").keyboard(
            profile="small", depth=self.depth, memory_mib=MEMORY_MIB, cpus=CPUS, seed=SEED
        )
        for request, answer in self.said:
            again = keys.answer(request)
            assert again == answer, request
        return True


@pytest.mark.parametrize(("depth", "kind"), [(0, "sev"), pytest.param(1, "snp", marks=pytest.mark.slow)])
def test_a_console_answers_as_the_host_was_answered(depth: int, kind: str) -> None:
    """Exits of a plain SEV guest are instructions that its host completes: the program is told anew."""
    told = Told(depth, kind)
    told.do(op.Touch(0, 1, op.Pages(BEHIND, 3, 3)), op.Exits(0, 0, "diag_500", "kernel", 2))
    told.do(op.Exits(0, 0, "wait", "vmm", 1), op.Destroy(0), op.Shutdown())
    assert len(told.of("enter")) > 4
    assert told.is_answered_alike()


def test_a_run_of_pages_is_told_page_by_page() -> None:
    told = Told(0, "snp", bulk=True)
    assert here(told.rig.seats[0].level) is not None
    assert here(told.host.driver.hands.seat.level) is None
    before = len(told.of("rmpupdate"))
    told.do(op.Touch(0, 0, op.Pages(BEHIND, 20, 20)))
    assert len(told.of("rmpupdate")) - before == 20
    assert told.is_answered_alike()


def test_every_step_of_a_guest_can_be_typed() -> None:
    told = Told(0, "snp")
    vm = told.host.guests[0]
    image = FIRST_PAGES * PAGE
    program = Program()
    program.steps.extend(
        (
            Touch(image | C_MASK),
            Touch(image | C_MASK, True, b"told"),
            Read(image | C_MASK, 4),
            Pvalidate(image, 0, 0),
            Pvalidate(image, 0, 1),
            Rmpadjust(image, 0, 0x101),
            Wrmsr(0xC0010130, vm.ghcb(0)),
            Rdmsr(0xC0010130),
            Leave("vmgexit"),
        )
    )
    left = told.enter(vm.vmcbs[0], program)
    assert left.code == 0x403
    queued, entered = told.said[-2:]
    assert len(queued[0]["do"]) == 9
    assert entered[1]["ok"]["steps"][2] == {"hex": b"told".hex()}
    assert told.is_answered_alike()


def test_instructions_and_exceptions_are_told_with_their_operands() -> None:
    told = Told(1, "snp")
    vm = told.host.guests[0]
    assert told.instruction("psmash", rax=vm.private[FIRST_PAGES])["rax"], "no page of 2 MiB"
    assert told.instruction("rdmsr", rcx=0xC0010117)["rax"]
    assert told.instruction("rdmsr", rcx=0xDEAD).name == "#GP"
    assert told.instruction("wrmsr", rcx=0xDEAD, rax=1).name == "#GP"
    assert told.enter(vm.vmcbs[0] + 8, Program()).name == "#GP"
    assert len(told.of("psmash")) == 1
    for name in ("rdmsr", "wrmsr", "enter"):
        assert told.of(name)[-1][1]["fault"]["name"] == "#GP"
    assert told.is_answered_alike()
