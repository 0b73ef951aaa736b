"""CPU state, resets, and the order that a reset of a configuration has to keep.

Follows sections 5.2, 5.3 and rows 8 and 9 of section 6. No source gives the codes of a wrong order; 0x0101 is
the sheet's own proposal (guess).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import ConfigState, CpuState, ResetDone, SecureCpu
from protocol.arch.s390.machine.memory import unshare
from protocol.arch.s390.structs import DONE, NODATA, PARTLY, SET_STATE, Outcome

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

WRONG_STATE = Outcome(0x0101)
BAD_OPERAND = Outcome(0x0102)  # guess
STARTING = (CpuState.OPERATING, CpuState.LOAD)
PSW_PROBLEM_STATE = 1 << (63 - 15)


def set_state(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, wanted = SET_STATE.unpack_from(block)
    secure = uv.secure_cpus[handle]
    config = secure.config
    try:
        state = CpuState(wanted)
    except ValueError:
        return BAD_OPERAND
    if secure.inside or secure.state is CpuState.CHECK_STOP:
        return WRONG_STATE  # a CPU leaves the check-stop state by a reset only
    if state in STARTING:
        if not may_start(secure, state):
            return WRONG_STATE
        config.state = ConfigState.RUNNING
        config.reset_pending = False
    if state is CpuState.LOAD and config.params is not None:
        secure.psw = config.params.psw
        secure.problem_state = bool(int.from_bytes(secure.psw[:8], "big") & PSW_PROBLEM_STATE)
    secure.state = CpuState.OPERATING if state is CpuState.LOAD else state
    return DONE


def may_start(secure: SecureCpu, state: CpuState) -> bool:
    """In a verified or running configuration; or as the one that goes on after a reset of the configuration.

    Then every CPU was reset since Prepare Reset, and this one so that its PSW can be loaded (guess).
    """
    config = secure.config
    if config.state is ConfigState.RESET_PREPARED:
        others = all(other.reset_done for other in config.cpus)
        return others and secure.reset_done is ResetDone.INITIAL_OR_CLEAR and state is CpuState.LOAD
    return config.state in (ConfigState.VERIFIED, ConfigState.RUNNING) and not config.reset_pending


def unshare_all(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """Every shared page becomes private again; all CPUs have to be stopped."""
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if any(secure.state in STARTING for secure in config.cpus):
        return WRONG_STATE
    if uv.pieces.left(cpu, block, len(config.shared)):
        return PARTLY
    for frame in sorted(config.shared):
        unshare(uv, config, frame)
    if config.state is ConfigState.RUNNING:
        config.state = ConfigState.UNSHARED
    return DONE


def prepare_reset(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if config.state is not ConfigState.UNSHARED:
        return WRONG_STATE
    config.state = ConfigState.RESET_PREPARED
    config.reset_pending = True
    for secure in config.cpus:
        secure.reset_done = ResetDone.NONE
    return DONE


def reset(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """CPU reset: registers, prefix and PSW stay, the timer is not looked at afterwards."""
    return _reset(uv, block, ResetDone.NORMAL, registers=False)


def reset_initial(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    return _reset(uv, block, ResetDone.INITIAL_OR_CLEAR, registers=False)


def reset_clear(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    return _reset(uv, block, ResetDone.INITIAL_OR_CLEAR, registers=True)


def _reset(uv: Machine, block: bytes, done: ResetDone, registers: bool) -> Outcome:
    secure = uv.secure_cpus[NODATA.unpack_from(block)[0]]
    if secure.state in STARTING:
        return WRONG_STATE
    secure.state = CpuState.STOPPED
    secure.timer = None
    secure.completing = None
    secure.enabled, secure.after_notice = (), False
    secure.reset_done = max(secure.reset_done, done)
    if done is ResetDone.INITIAL_OR_CLEAR:
        secure.clear(registers)
    return DONE
