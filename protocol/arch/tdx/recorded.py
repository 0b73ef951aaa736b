"""Transcripts of TDX hosts: SEAMCALL, VP.ENTER, and pages that are made plain by direct stores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocol.arch.tdx.cpu import REGISTER_NAMES, Lp, Registers
from protocol.arch.tdx.guest import GuestStep, Leave, Program, Read, Tdcall, Touch
from protocol.arch.tdx.linked import LinkedTdx
from protocol.arch.tdx.machine import LINE
from protocol.arch.tdx.machine.steps import shown
from protocol.arch.tdx.status import RAX, RCX, RDX
from protocol.effects import Fault, Step
from protocol.keyboard.recorded import Json, RecordedLevel, Say
from protocol.memory.store import PAGE, PAGE_SHIFT

VP_CREATE = 10
HANDLE = 0x000F_FFFF_FFFF_F000


class RecordedTdx(RecordedLevel, LinkedTdx):
    """See `RecordedLevel`."""

    def __init__(self, level: LinkedTdx, say: Say) -> None:
        LinkedTdx.__init__(self, level.memory)
        RecordedLevel.__init__(self, level, say)
        self._tds: dict[int, int] = {}  # VCPU -> TD, as VP.CREATE named them

    def typed(self, step: GuestStep) -> Json:
        match step:
            case Touch(gpa, True, value):
                return {"touch": hex(gpa), "write": True, "value": value.hex()}
            case Touch(gpa):
                return {"touch": hex(gpa)}
            case Read(gpa, length):
                return {"read": hex(gpa), "len": length}
            case Tdcall(registers):
                return {"call": {"rax": hex(registers[RAX]), **_named(registers)}}
            case Leave(reason):  # pragma: no branch - the last kind of step
                return {"exit": reason}

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]:
        out: Registers | Fault = yield from self._level.call(lp, r, park)
        if r[RAX] & 0xFFFF == VP_CREATE:
            self._tds[r[RCX]] = r[RDX]
        answer = self.fault(out) if isinstance(out, Fault) else {"ok": {"cf": 0, **shown(out)}}
        self.tell(answer, op="call", cpu=lp.number, rax=hex(r[RAX]), **_named(r))
        return out

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]:
        vcpu = r[RCX] & HANDLE
        self.queue(vcpu, program, vm=hex(self._tds.get(vcpu, 0)), vcpu=hex(vcpu))
        done = len(program.results)
        out: Registers | Fault = yield from self._level.enter(lp, r, program, stay, park)
        self.entered(vcpu, program)
        results = program.results[done:]
        if isinstance(out, Fault):
            answer = self.fault(out, steps=results)
        else:
            answer = {"ok": {"cf": 0, **shown(out), "steps": results}}
        self.tell(answer, op="enter", cpu=lp.number, vcpu=hex(r[RCX]), **_named(r, RCX))
        return out

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero whole frames; lines of somebody else become plain by a direct store each."""
        for frame in np.asarray(frames).tolist():
            if self._level.plain(np.array([frame])):
                super().clear([frame])
                continue
            self._level.clear([frame])
            for line in range(frame << PAGE_SHIFT, (frame << PAGE_SHIFT) + PAGE, LINE):
                self.tell({"ok": {}}, op="insn", name="movdir64b", address=hex(line), hex=bytes(LINE).hex())


def _named(registers: Sequence[int], but: int = RAX) -> Json:
    """Registers that are not zero, beside RAX and `but`."""
    return {
        name: hex(value)
        for number, (name, value) in enumerate(zip(REGISTER_NAMES, registers, strict=True))
        if value and number not in (RAX, but)
    }
