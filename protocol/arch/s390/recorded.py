"""Transcripts of s390 hosts: UVC, SIE, and CPUs that are not as the console was shown them last.

Changes of a CPU are told before the instruction that is issued with them.
"""

from __future__ import annotations

from typing import Any

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import (
    Diag,
    GuestStep,
    Lctl,
    Load,
    Loop,
    Program,
    Read,
    Sclp,
    SetCpu,
    Sigp,
    Spx,
    Touch,
    Uvc,
    Wait,
)
from protocol.arch.s390.linked import CpuState, LinkedUltravisor
from protocol.arch.s390.structs import SieExit
from protocol.effects import Fault, Step
from protocol.keyboard.recorded import Json, RecordedLevel, Say

AS_IT_STARTS = CpuState(0, True, False, False, 0, 0, 0, 0, 0)


class RecordedUltravisor(RecordedLevel, LinkedUltravisor):
    """See `RecordedLevel`."""

    def __init__(self, level: LinkedUltravisor, say: Say) -> None:
        LinkedUltravisor.__init__(self, level.memory, level.cpus)
        RecordedLevel.__init__(self, level, say)
        self._shown = {
            cpu.number: AS_IT_STARTS._replace(number=cpu.number, running=cpu.number == 0)
            for cpu in level.cpus
        }

    def typed(self, step: GuestStep) -> Json:
        return typed(step)

    def fault(self, fault: Fault, **more: Any) -> Json:
        answer = super().fault(fault, **more)
        answer["fault"]["code"] = f"0x{fault.code:02x}"
        return answer

    # -- instructions

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        self._show()
        cc: int | Fault = yield from self._level.call(cpu, r2, m3, m4, park)
        answer = self.fault(cc) if isinstance(cc, Fault) else {"ok": {"cc": cc}}
        self.tell(answer, op="call", cpu=cpu.number, r2=hex(r2))
        return cc

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        self._show()
        self.queue(block, program, vcpu=hex(block))
        done = len(program.results)
        left: SieExit | Fault = yield from self._level.enter(cpu, block, program, stay, level)
        self.entered(block, program)
        results = program.results[done:]
        answer = self.fault(left, steps=results) if isinstance(left, Fault) else _exit(left, results)
        self.tell(answer, op="enter", cpu=cpu.number, vcpu=hex(block))
        return left

    def _show(self) -> None:
        """Tell of every CPU that is another one than the console was shown last."""
        for cpu in self.cpus:
            state, shown = _state(cpu), self._shown[cpu.number]
            if state == shown:
                continue
            self._shown[cpu.number] = state
            changed: Json = {
                name: getattr(state, name)
                for name in ("running", "problem_state", "dat")
                if getattr(state, name) != getattr(shown, name)
            }
            if state.prefix != shown.prefix:
                changed["prefix"] = hex(state.prefix)
            registers = {
                name: hex(getattr(state, f"cr{name}"))
                for name in ("1", "7", "13")
                if getattr(state, f"cr{name}") != getattr(shown, f"cr{name}")
            }
            if registers:
                changed["cr"] = registers
            self.tell({"ok": _settings(state)}, op="cpu", cpu=cpu.number, **changed)


def _state(cpu: Cpu) -> CpuState:
    """What a person at the keyboard sees of a CPU: not for whom it works."""
    cr = cpu.cr
    return CpuState(cpu.number, cpu.running, cpu.problem_state, cpu.dat, cpu.prefix, cr[1], cr[7], cr[13], 0)


def typed(step: GuestStep) -> Json:
    """A guest's step as it is typed."""
    match step:
        case Touch(gpa, True, value):
            return {"touch": hex(gpa), "write": True, "value": value.hex()}
        case Touch(gpa):
            return {"touch": hex(gpa)}
        case Read(gpa, length):
            return {"read": hex(gpa), "len": length}
        case Load(gpa, length, gpr):
            return {"load": hex(gpa), "len": length, "gpr": gpr}
        case SetCpu(gprs, timer, problem_state):
            cpu: Json = {"gprs": {str(number): hex(value) for number, value in gprs}}
            cpu |= {} if timer is None else {"timer": hex(timer)}
            cpu |= {} if problem_state is None else {"problem_state": problem_state}
            return {"cpu": cpu}
        case Uvc(r2, r1, m3, m4):
            return {"call": {"r2": hex(r2), "r1": hex(r1), "m3": m3, "m4": m4}}
        case Diag(code, r1, r3):
            return {"exit": "diag", "code": hex(code), "r1": r1, "r3": r3}
        case Spx(prefix):
            return {"exit": "spx", "prefix": hex(prefix)}
        case Sigp(order, address, parameter):
            return {"exit": "sigp", "order": order, "address": address, "parameter": hex(parameter)}
        case Sclp(command, gpa):
            return {"exit": "sclp", "command": hex(command), "gpa": hex(gpa)}
        case Wait():
            return {"exit": "wait"}
        case Lctl(cr):
            return {"exit": "lctl", "cr": cr}
        case Loop():
            return {"exit": "loop"}
    raise AssertionError(f"a step that nobody can type: {step!r}")


def _settings(state: CpuState) -> Json:
    return {
        "running": state.running,
        "problem_state": state.problem_state,
        "dat": state.dat,
        "prefix": hex(state.prefix),
        "cr": {"1": hex(state.cr1), "7": hex(state.cr7), "13": hex(state.cr13)},
    }


def _exit(left: SieExit, results: list[Json]) -> Json:
    gprs = [hex(value) for value in left.gprs]
    body = {"icptcode": f"0x{left.code:02x}", "ipa": hex(left.ipa), "ipb": hex(left.ipb), "gprs": gprs}
    return {"ok": {**body, "steps": results}}
