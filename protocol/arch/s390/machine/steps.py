"""One step of a secure guest's program.

`do` finishes the step at the head of the program and returns None, or returns why the guest has to leave SIE.
A host exception leaves the step where it is: the next entry does it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import instructions
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
from protocol.arch.s390.instructions import Intercept
from protocol.arch.s390.machine import attest, secrets
from protocol.arch.s390.machine import guest as guest_calls
from protocol.arch.s390.machine.entities import SecureCpu
from protocol.arch.s390.machine.guest_storage import ProgramInterruption, load, refusal, store
from protocol.arch.s390.structs import (
    ANSWER,
    ANSWER_AT,
    ERROR,
    EXECUTED,
    HEADER,
    INV_CMD,
    INV_LEN,
    OK,
    Outcome,
)
from protocol.effects import Fault
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine.sie import Sie

LOWCORE_PGM_CODE = 0x8E
QUERY = 0x0001


def _nothing(secure: SecureCpu) -> None:
    """A notice without a further effect."""


@dataclass(frozen=True, slots=True)
class Trap:
    """Why the guest leaves: intercept, data for the SIDA, what becomes of step and CPU once it has left."""

    intercept: Intercept
    data: bytes = b""
    finished: bool = True  # a notification: the instruction is done
    completing: int | None = None  # a secure instruction: the next entry finishes it
    effect: Callable[[SecureCpu], None] = field(default=_nothing)

    def commit(self, secure: SecureCpu, program: Program) -> None:
        if self.completing is not None:
            secure.completing = self.completing
            program.awaiting = True
        elif self.finished:
            program.finish({})
        secure.after_notice = self.intercept.code == instructions.NOTIFICATION
        self.effect(secure)


def do(sie: Sie, secure: SecureCpu, program: Program) -> Trap | Fault | None:
    """Do the step at the head."""
    step = program.steps[0]
    try:
        result = _HANDLERS[type(step)](sie, secure, step)
    except ProgramInterruption as interruption:
        interrupt(sie, secure, program, interruption.code)
        return None
    if isinstance(result, dict):
        program.finish(result)
        return None
    return result


def interrupt(sie: Sie, secure: SecureCpu, program: Program, code: int) -> None:
    """A program interruption in the guest: its code at real 0x8E, supervisor state, on with the next step."""
    fault = store(sie, secure, LOWCORE_PGM_CODE, code.to_bytes(2, "big"))
    assert fault is None, "nobody is in a guest whose prefix pages are not there"
    secure.problem_state = False
    program.finish({"pgm": f"0x{code:02x}"})


# -- the steps ----------------------------------------------------------------------------------------

Result = dict[str, object] | Trap | Fault


def _touch(sie: Sie, secure: SecureCpu, step: Touch) -> Result:
    if step.write:
        return store(sie, secure, step.gpa, step.value) or {}
    data = load(sie, secure, step.gpa, 1)
    return data if isinstance(data, Fault) else {}


def _read(sie: Sie, secure: SecureCpu, step: Read) -> Result:
    data = load(sie, secure, step.gpa, step.length)
    return data if isinstance(data, Fault) else {"hex": data.hex()}


def _load(sie: Sie, secure: SecureCpu, step: Load) -> Result:
    data = load(sie, secure, step.gpa, step.length)
    if isinstance(data, Fault):
        return data
    secure.set_gpr(step.gpr, int.from_bytes(data, "big"))
    return {}


def _set_cpu(sie: Sie, secure: SecureCpu, step: SetCpu) -> Result:
    """SPT and LPSW are privileged; a program in problem state can set registers only."""
    if secure.problem_state and (step.timer is not None or step.problem_state is False):
        raise ProgramInterruption(z.PRIVILEGED)
    for number, value in step.gprs:
        secure.set_gpr(number, value)
    if step.timer is not None:
        secure.guest_timer = step.timer
    if step.problem_state is not None:
        secure.problem_state = step.problem_state
    return {}


def _diag(sie: Sie, secure: SecureCpu, step: Diag) -> Result:
    _supervisor(secure)
    if step.code in instructions.PAIRED_DIAGS and step.r1 & 1:
        raise ProgramInterruption(z.SPECIFICATION)
    subcode = secure.gprs[step.r3]
    if step.code == 0x308 and subcode in instructions.REFUSED_IPL:
        raise ProgramInterruption(z.SPECIFICATION)
    intercept = instructions.diag(step, secure.gprs)
    if step.code not in instructions.NOTICED_DIAGS:
        return Trap(intercept, completing=step.code)
    if step.code == 0x308 and subcode in instructions.RESETTING_IPL:
        return Trap(intercept, effect=_reset_wanted)
    return Trap(intercept)


def _reset_wanted(secure: SecureCpu) -> None:
    secure.config.reset_pending = True


def _spx(sie: Sie, secure: SecureCpu, step: Spx) -> Result:
    _supervisor(secure)
    prefix = step.prefix & z.PREFIX_MASK
    if (prefix + z.LOWCORE) >> PAGE_SHIFT > secure.config.pages:
        raise ProgramInterruption(z.ADDRESSING)

    def effect(secure: SecureCpu) -> None:
        secure.prefix = prefix

    return Trap(instructions.spx(), prefix.to_bytes(4, "big"), effect=effect)


def _sigp(sie: Sie, secure: SecureCpu, step: Sigp) -> Result:
    _supervisor(secure)
    return Trap(instructions.sigp(step))


def _sclp(sie: Sie, secure: SecureCpu, step: Sclp) -> Result:
    """The block, as long as its first halfword says and at most a page, goes to the host through the SIDA."""
    _supervisor(secure)
    head = load(sie, secure, step.gpa, 2)
    if isinstance(head, Fault):
        return head
    data = load(sie, secure, step.gpa, min(max(int.from_bytes(head, "big"), 8), 4096))
    return data if isinstance(data, Fault) else Trap(instructions.sclp(step), data)


def _wait(sie: Sie, secure: SecureCpu, step: GuestStep) -> Result:
    _supervisor(secure)

    return Trap(Intercept(instructions.WAIT), effect=_enables(*instructions.OF_A_WAIT))


def _enables(*injections: int) -> Callable[[SecureCpu], None]:
    def effect(secure: SecureCpu) -> None:
        secure.enabled = injections

    return effect


def _lctl(sie: Sie, secure: SecureCpu, step: Lctl) -> Result:
    """The host hears of the three registers alone that open an interruption which it may want to inject.

    Guess: each time. Hardware tells only a host that holds one back, and says so in the block.
    """
    _supervisor(secure)
    if step.cr not in instructions.ENABLED:
        return {}
    code, injection = instructions.ENABLED[step.cr]
    return Trap(Intercept(code), effect=_enables(injection))


def _loop(sie: Sie, secure: SecureCpu, step: Loop) -> Result:
    """The guest gets nowhere any more, however often it is entered."""
    _supervisor(secure)
    return Trap(Intercept(instructions.PROGRAM), finished=False)


def _supervisor(secure: SecureCpu) -> None:
    if secure.problem_state:
        raise ProgramInterruption(z.PRIVILEGED)


def _uvc(sie: Sie, secure: SecureCpu, step: Uvc) -> Result:
    """UVC in the guest: the same order of checks as for a host, with exceptions that are the guest's own.

    The whole block is touched, to store, before anything is done: what faults later would be done twice.
    """
    _supervisor(secure)
    if step.m3 or step.m4:
        raise ProgramInterruption(z.SPECIFICATION)
    block = load(sie, secure, step.r2, 8)
    if isinstance(block, Fault):
        return block
    length, code, _, _ = HEADER.unpack_from(block)
    if length > 8:
        block = load(sie, secure, step.r2, length)
        if isinstance(block, Fault):
            return block
    fault = refusal(sie, secure, step.r2, len(block))
    if fault is not None:
        return fault
    spec = sie.uv.guest_calls.get(code)
    if spec is None:
        outcome: Outcome | Fault = Outcome(INV_CMD)
    elif code != QUERY and length != spec.length:
        outcome = Outcome(INV_LEN)
    else:
        key = ("te_calls", spec.name, spec.category, "native", "guest")
        try:
            outcome = _GUEST_CALLS[spec.name](sie.uv, secure, block)
        except guest_calls.Pinned:
            sie.uv.ledger.count(key)
            return Trap(instructions.unshare(), block, finished=False)
        if not isinstance(outcome, Fault):  # nullified by an exception, it was not a call
            sie.uv.ledger.count(key)
    if isinstance(outcome, Fault):
        return outcome
    for offset, data in (*outcome.out, (ANSWER_AT, ANSWER.pack(outcome.rc, outcome.rrc))):
        fault = store(sie, secure, step.r2 + offset, data)
        assert fault is None, "the whole block was looked at, to store"
    return {"cc": OK if outcome.rc == EXECUTED else ERROR}


_GUEST_CALLS = {
    "query": guest_calls.query,
    "query_keys": guest_calls.query_keys,
    "share": guest_calls.set_shared,
    "unshare": guest_calls.remove_shared,
    "attest": attest.attest,
    "add_secret": secrets.add,
    "list_secrets": secrets.list_all,
    "lock_secrets": secrets.lock,
    "retrieve_secret": secrets.retrieve,
}

_HANDLERS: dict[type, Callable[..., Result]] = {
    Touch: _touch,
    Read: _read,
    Load: _load,
    SetCpu: _set_cpu,
    Uvc: _uvc,
    Diag: _diag,
    Spx: _spx,
    Sigp: _sigp,
    Sclp: _sclp,
    Wait: _wait,
    Lctl: _lctl,
    Loop: _loop,
}
