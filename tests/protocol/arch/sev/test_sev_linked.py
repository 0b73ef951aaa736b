"""A host in a process of its own: what it asks and is answered crosses a wire, and nothing else is shared."""

from __future__ import annotations

from random import Random
from typing import Any

from protocol.arch.sev.comparison import COMPARISONS
from protocol.arch.sev.compose import compose
from protocol.arch.sev.guest import Leave, Program, Read, Touch
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.image import with_secrets
from protocol.arch.sev.instructions import Registers
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import C_MASK, EXIT_VMGEXIT, PAGE
from protocol.codec import Codec
from protocol.crossing import inline
from protocol.effects import Fault, Issue, Step
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES
from protocol.wire import FrameDecoder, pack_frame

HERE = COMPARISONS["snp"]
CODEC = Codec(HERE.wire)
AT = FIRST_PAGES * PAGE | C_MASK  # of the image


def across(value: object) -> Any:
    (frame,) = FrameDecoder().feed(pack_frame([CODEC.encode(value)]))
    assert isinstance(frame, list)
    return CODEC.decode(frame[0])


class Remote:
    """A guest host's software whose level is at the other end of a wire; its CPUs here are others."""

    def __init__(self) -> None:
        self.rig = compose(PROFILES["small"], 1, 1, 32 * MIB, 2, 7)
        self.served = self.rig.served(self.rig.seats[0].level)
        self.level = HERE.linked(self.rig.seats[0].level, 2)
        self.level.profile = self.rig.profile
        image = with_secrets(bytes(range(256)) * 16)
        self.host = Host(self.level, self.level.cpus, Random(0), depth=1, image=image)
        for operation in (op.BootHost(), op.Create(0, 1, 1), op.Load(0), op.Start(0)):
            self.step(self.host.perform(operation))

    def step(self, step: Step[Any]) -> Any:
        return inline(step, (self._serve,))

    def _serve(self, effect: Issue) -> Step[Any]:
        return across((yield from self.served(across(effect))))

    def instruction(self, name: str, **registers: int) -> Any:
        return self.step(self.host.driver.hands.instruction(0, name, Registers(**registers)))


def test_a_guests_program_goes_down_with_an_entry_and_comes_back_with_its_exit() -> None:
    remote = Remote()
    vm = remote.host.guests[0]
    program = Program()
    program.steps.extend((Touch(AT, True, b"far"), Read(AT, 3), Leave("vmgexit"), Read(AT, 1)))
    left = remote.step(remote.host.driver.hands.vmrun(0, vm.vmcbs[0], program))
    assert left.code == EXIT_VMGEXIT
    assert list(program.steps) == [Read(AT, 1)]
    assert program.collect() == [{}, {"hex": b"far".hex()}, {}]


def test_what_a_host_far_away_stores_to_its_cpus_both_ends_know() -> None:
    remote = Remote()
    here, there = remote.level.cpus[0], remote.rig.seats[0].cpus[0]
    assert here is not there
    assert here.snp and there.snp
    assert remote.level.nested_msr
    value = remote.instruction("rdmsr", rcx=0xC0010117)
    assert value["rax"] == there.read_msr(0xC0010117)
    assert isinstance(remote.instruction("rdmsr", rcx=0xDEAD), Fault)
    assert remote.instruction("psmash", rax=remote.host.guests[0].private[FIRST_PAGES])["rax"] == 1


def test_a_host_far_away_proves_its_guests_and_leaves_nothing() -> None:
    remote = Remote()
    report = remote.step(remote.host.perform(op.Attest(0, 0, 0)))
    (context,) = remote.rig.machines[0].platform.contexts.values()
    assert report[0x90:0xC0] == context.digest
    for operation in (op.Destroy(0), op.Shutdown()):
        remote.step(remote.host.perform(operation))
    assert remote.rig.leaks() == []
