"""CPU state, resets, and the order that a reset of a configuration has to keep.

Follows sections 5.2, 5.3 and rows 8 and 9 of section 6. No source gives the codes of a wrong order; 0x0101 is the
sheet's own proposal (guess).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import Config, ConfigState, CpuState, PageState
from protocol.arch.s390.machine.memory import unshare
from protocol.arch.s390.structs import DONE, NODATA, SET_STATE, Outcome

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

WRONG_STATE = Outcome(0x0101)
BAD_OPERAND = Outcome(0x0102)  # guess
STARTING = (CpuState.OPERATING, CpuState.LOAD)


def set_state(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, wanted = SET_STATE.unpack_from(block)
    secure = uv.secure_cpus[handle]
    config = secure.config
    try:
        state = CpuState(wanted)
    except ValueError:
        return BAD_OPERAND
    if state in STARTING:
        if not may_start(config, secure.was_reset, state):
            return WRONG_STATE
        if config.state is ConfigState.RESET_PREPARED:
            config.state = ConfigState.RUNNING
            config.reset_pending = False
            for other in config.cpus.values():
                other.was_reset = False
        elif config.state is ConfigState.VERIFIED:
            config.state = ConfigState.RUNNING
    if state is CpuState.LOAD and config.params is not None:
        secure.psw = config.params.psw
    secure.state = CpuState.OPERATING if state is CpuState.LOAD else state
    return DONE


def may_start(config: Config, was_reset: bool, state: CpuState) -> bool:
    """A verified or running configuration, or one whose reset was prepared and whose CPU was reset."""
    if config.state is ConfigState.RESET_PREPARED:
        return was_reset and state is CpuState.LOAD
    return config.state in (ConfigState.VERIFIED, ConfigState.RUNNING) and not config.reset_pending


def unshare_all(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """Every shared page becomes private again; all CPUs have to be stopped."""
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if any(secure.state in STARTING for secure in config.cpus.values()):
        return WRONG_STATE
    mine = uv.owner == config.serial
    shared = np.flatnonzero(mine & ((uv.state == PageState.SHARED) | (uv.state == PageState.PINNED)))
    for frame in shared.tolist():
        unshare(uv, frame)
    if config.state is ConfigState.RUNNING:
        config.state = ConfigState.UNSHARED
    return DONE


def prepare_reset(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if config.state is not ConfigState.UNSHARED:
        return WRONG_STATE
    config.state = ConfigState.RESET_PREPARED
    config.reset_pending = True
    for secure in config.cpus.values():
        secure.was_reset = False
    return DONE


def reset(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """CPU reset: registers and prefix stay, the timer is not looked at afterwards."""
    return _reset(uv, block, clear=False, registers=False)


def reset_initial(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    return _reset(uv, block, clear=True, registers=False)


def reset_clear(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    return _reset(uv, block, clear=True, registers=True)


def _reset(uv: Machine, block: bytes, clear: bool, registers: bool) -> Outcome:
    secure = uv.secure_cpus[NODATA.unpack_from(block)[0]]
    if secure.state in STARTING:
        return WRONG_STATE
    secure.timer = None
    secure.completing = None
    secure.problem_state = False
    secure.after_wait = secure.after_notice = False
    if clear:
        secure.clear(registers)
        secure.was_reset = True
    return DONE
