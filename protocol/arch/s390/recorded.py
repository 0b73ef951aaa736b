"""What a host does, told in the words of its console while it happens: a transcript that can be asked again.

A `RecordedLevel` stands before the level that a host meets. Loads, stores, UVC and SIE pass through; each
is told as the request that a person at the keyboard would have typed, with the answer that the console
gives. Changes of a CPU are told before the instruction that is issued with them. What the hardware does for
the host (`peek`, `poke`) is no request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import (
    Diag,
    GuestStep,
    Load,
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
from protocol.memory.store import PAGE_SHIFT

Json = dict[str, Any]
Say = Callable[[Json, Json], None]
AS_IT_STARTS = CpuState(0, True, False, False, 0, 0, 0, 0, 0)


class RecordedLevel(LinkedUltravisor):
    """A level, and somebody who writes down what is asked of it."""

    def __init__(self, level: LinkedUltravisor, say: Say) -> None:
        super().__init__(level.memory, level.cpus)
        self._level = level
        self._say = say
        self._asked = 0
        self._shown = {
            cpu.number: AS_IT_STARTS._replace(number=cpu.number, running=cpu.number == 0)
            for cpu in level.cpus
        }
        self._queued: dict[int, tuple[Program, int]] = {}  # block -> its program, steps that were told of
        self.read = self._read
        self.write = self._write

    def _tell(self, answer: Json, **request: Any) -> None:
        self._asked += 1
        self._say({"id": self._asked, **request}, {"id": self._asked, **answer})

    # -- memory

    def _read(self, address: int, length: int) -> bytes | Fault:
        data = self._level.read(address, length)
        answer = _fault(data) if isinstance(data, Fault) else {"ok": {"hex": data.hex()}}
        self._tell(answer, op="read", addr=hex(address), len=length)
        return data

    def _write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        fault = self._level.write(address, data, stores)
        answer = {"ok": {}} if fault is None else _fault(fault)
        self._tell(answer, op="write", addr=hex(address), hex=bytes(data).hex())
        return fault

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        self._level.clear(frames)
        for frame in np.asarray(frames).tolist():
            self._tell({"ok": {}}, op="fill", addr=hex(frame << PAGE_SHIFT), len=1 << PAGE_SHIFT)

    # -- instructions

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        self._show()
        cc = yield from self._level.call(cpu, r2, m3, m4, park)
        answer = _fault(cc) if isinstance(cc, Fault) else {"ok": {"cc": cc}}
        self._tell(answer, op="call", cpu=cpu.number, r2=hex(r2))
        return cc

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        self._show()
        self._queue(block, program)
        done = len(program.results)
        left = yield from self._level.enter(cpu, block, program, stay, level)
        self._queued[block] = (program, len(program.steps))
        results = program.results[done:]
        answer = _fault(left, steps=results) if isinstance(left, Fault) else _exit(left, results)
        self._tell(answer, op="enter", cpu=cpu.number, vcpu=hex(block))
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
            self._tell({"ok": _settings(state)}, op="cpu", cpu=cpu.number, **changed)

    def _queue(self, block: int, program: Program) -> None:
        """Tell of the steps that the guest's program has got since the last entry."""
        known, told = self._queued.get(block, (None, 0))
        replaced = known is not program
        steps = [typed(step) for step in list(program.steps)[0 if replaced else told :]]
        if not steps and not (replaced and told):
            return
        request: Json = {"op": "guest", "vcpu": hex(block), "do": steps}
        if replaced and told:
            request["replace"] = True
        self._tell({"ok": {"queued": len(program.steps)}}, **request)


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


def _fault(fault: Fault, **more: Any) -> Json:
    body = {
        "code": f"0x{fault.code:02x}",
        "name": fault.name,
        "address": hex(fault.address),
        "write": fault.write,
    }
    return {"fault": {**body, **more}}
