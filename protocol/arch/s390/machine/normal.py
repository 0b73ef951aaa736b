"""SIE for a guest that is not secure: the host's fields of the block are the guest's own.

Only what a host at the keyboard needs to run one beside its secure guests: storage through MSO, MSL and the
table in CR1, and exits with the text as it stands in the guest's storage. Timer, control registers and
interrupts are not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat, instructions
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import (
    Diag,
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
from protocol.arch.s390.instructions import Intercept
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.structs import (
    GPRS,
    SIE_GPRS,
    SIE_ICPTCODE,
    SIE_IPA,
    SIE_MSL,
    SIE_MSO,
    TEXT,
    U64,
    SieExit,
)
from protocol.effects import Fault, Idle, Step
from protocol.memory.physical import chunks
from protocol.memory.store import OFFSET, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

MIB_MASK = ~0xFFFFF
LOWCORE_PGM_CODE = 0x8E


class _Interruption(Exception):
    """The guest's own CPU takes an exception."""

    def __init__(self, code: int) -> None:
        self.code = code


def enter(
    uv: Machine, cpu: Cpu, block: int, raw: bytes, program: Program, stay: bool, level: int
) -> Step[SieExit | Fault]:
    guest = _Guest(uv, cpu.cr[1], raw, program)
    while True:
        while program.steps:
            result = guest.do()
            if isinstance(result, Fault):
                uv.ledger.exit(level, f"pgm_{result.code:02x}")
                return result
            if result is not None:
                return _leave(uv, block, program, level, result)
        if not stay:
            return _leave(uv, block, program, level, Intercept(instructions.WAIT, gprs=tuple(program.gprs)))
        if not (yield Idle()):
            return _leave(uv, block, program, level, Intercept(instructions.KICKED, gprs=tuple(program.gprs)))


def _leave(uv: Machine, block: int, program: Program, level: int, left: Intercept) -> SieExit:
    uv.ledger.exit(level, left.reason, "vmm" if left.reason in program.vmm_reasons else "kernel")
    uv.write(block + SIE_ICPTCODE, bytes((left.code,)))
    uv.write(block + SIE_IPA, TEXT.pack(left.ipa, left.ipb))
    uv.write(block + SIE_GPRS, GPRS.pack(*left.gprs))
    return SieExit(left.code, left.ipa, left.ipb, left.gprs)


class _Guest:
    def __init__(self, uv: Machine, asce: int, raw: bytes, program: Program) -> None:
        self.uv = uv
        self.asce = asce
        self.mso = U64.unpack_from(raw, SIE_MSO)[0] & MIB_MASK
        self.end = (U64.unpack_from(raw, SIE_MSL)[0] & MIB_MASK) + (1 << 20)
        self.program = program

    def do(self) -> Intercept | Fault | None:
        step = self.program.steps[0]
        try:
            result = self._done(step)
        except _Interruption as interruption:
            result = self._interrupt(interruption.code)
        if isinstance(result, dict):
            self.program.finish(result)
            return None
        if isinstance(result, Intercept) and result.code != instructions.PROGRAM:
            self.program.finish({})
        return result

    def _done(self, step: object) -> dict[str, object] | Intercept | Fault:
        program = self.program
        match step:
            case Touch(gpa, True, value):
                return self._store(gpa, value) or {}
            case Touch(gpa, False, _):
                data = self._load(gpa, 1)
                return data if isinstance(data, Fault) else {}
            case Read(gpa, length):
                data = self._load(gpa, length)
                return data if isinstance(data, Fault) else {"hex": data.hex()}
            case Load(gpa, length, gpr):
                data = self._load(gpa, length)
                if isinstance(data, Fault):
                    return data
                program.gprs[gpr] = int.from_bytes(data, "big")
                return {}
            case SetCpu(gprs, timer, problem_state):
                if program.problem_state and (timer is not None or problem_state is False):
                    raise _Interruption(z.PRIVILEGED)
                for number, register in gprs:
                    program.gprs[number] = register
                program.problem_state = program.problem_state if problem_state is None else problem_state
                return {}
        if program.problem_state:
            raise _Interruption(z.PRIVILEGED)
        return {} if isinstance(step, Lctl) else self._trap(step)

    def _interrupt(self, code: int) -> dict[str, object] | Fault:
        """Its code at real 0x8E, supervisor state, on with the next step."""
        try:
            fault = self._store(LOWCORE_PGM_CODE, code.to_bytes(2, "big"))
        except _Interruption:
            fault = None  # a guest without a lowcore: the code is lost
        if fault is not None:
            return fault
        self.program.problem_state = False
        return {"pgm": f"0x{code:02x}"}

    def _trap(self, step: object) -> Intercept:
        gprs = self.program.gprs
        match step:
            case Diag():
                return instructions.plain_diag(step, gprs)
            case Sigp():
                return instructions.plain_sigp(step, gprs)
            case Sclp():
                return instructions.plain_sclp(step, gprs)
            case Spx(prefix):
                self.program.prefix = prefix & z.PREFIX_MASK
                return instructions.plain(instructions.IPA_SPX, gprs)
            case Uvc():
                return instructions.plain(instructions.IPA_UVC, gprs)
            case Wait():
                return Intercept(instructions.WAIT, gprs=tuple(gprs))
            case Loop():
                return Intercept(instructions.PROGRAM, gprs=tuple(gprs))
        raise AssertionError(f"no step: {step!r}")  # pragma: no cover - every kind of step is above

    def _addresses(self, address: int, length: int, write: bool) -> list[int] | Fault:
        found = []
        for at, _ in chunks(address, length):
            virtual = self.mso + instructions.prefixed(self.program.prefix, at)
            if virtual >= self.end:
                raise _Interruption(z.ADDRESSING)
            absolute = dat.walk(self.uv.read, self.asce, virtual, write)
            if isinstance(absolute, Fault):
                return z.program(absolute.code, at, write)
            if absolute >= self.uv.size:
                return z.program(z.ADDRESSING, at, write)
            if self.uv.states[absolute >> PAGE_SHIFT] >= PageState.SECURE:
                return z.program(z.SECURE_ACCESS, at, write)
            found.append(absolute & ~OFFSET | at & OFFSET)
        return found

    def _load(self, address: int, length: int) -> bytes | Fault:
        found = self._addresses(address, length, write=False)
        if isinstance(found, Fault):
            return found
        parts = zip(found, chunks(address, length), strict=True)
        return b"".join(self.uv.storage.read(absolute, n) for absolute, (_, n) in parts)

    def _store(self, address: int, data: bytes) -> Fault | None:
        found = self._addresses(address, len(data), write=True)
        if isinstance(found, Fault):
            return found
        done = 0
        for absolute, (_, n) in zip(found, chunks(address, len(data)), strict=True):
            self.uv.storage.write(absolute, data[done : done + n])
            done += n
        return None
