"""Configurations: create, destroy, parameters, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import Config, ConfigState, PageState
from protocol.arch.s390.profiles import PCF, SCF
from protocol.arch.s390.structs import (
    DONE,
    HANDLE_OUT,
    INV_STATE,
    NODATA,
    PARTLY,
    REAL_SPACE,
    SET_PARAMS,
    U64,
    Outcome,
)
from protocol.effects import Fault

if TYPE_CHECKING:
    from protocol.arch.s390.front import Front
    from protocol.arch.s390.machine import Machine

HEADER_NOT_ACCESSIBLE = 0x0103
NO_PAGES = np.zeros(0, np.uint32)
HEADER_LIMIT = 0x2000  # an SE header is at most two pages
LENGTH_MISMATCH = (0x010A, 0x0031)
NOT_VERIFIED = 0x0102


def create(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    plan = checks.create_config(uv, cpu, block)
    if isinstance(plan, int):
        return Outcome(plan)
    if uv.pieces.left(cpu, block, len(plan.base) + len(plan.variable)):
        return PARTLY
    fields = plan.fields
    handle = uv.handles.new("config")
    uv.donate(plan.base)
    uv.donate(plan.variable)
    config = Config(
        serial=uv.new_serial(),
        handle=handle,
        mso=fields.mso,
        length=fields.length,
        asce=fields.asce,
        base=plan.base,
        variable=plan.variable,
        seed=uv.seed,
        resident=NO_PAGES,
        issued_on=cpu.number,
    )
    uv.configs[handle] = config
    uv.by_serial[config.serial] = config
    uv.asces.add(config.asce)
    return Outcome(1, 0, ((HANDLE_OUT, U64.pack(handle)),))


def destroy(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """What was donated is the host's again; pages of the guest stay until each is destroyed or exported.

    A pin is the owner's and ends with it (guess: nobody could take it away afterwards).
    """
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if config.cpus:
        return Outcome(INV_STATE)
    if uv.pieces.left(cpu, block, len(config.base) + len(config.variable)):
        return PARTLY
    return _end(uv, config)


def destroy_fast(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """As destroy, in constant time on a real machine: never in pieces.

    AP queues, which would be in its way, are not modelled.
    """
    config = uv.configs[NODATA.unpack_from(block)[0]]
    return Outcome(INV_STATE) if config.cpus else _end(uv, config)


def _end(uv: Machine, config: Config) -> Outcome:
    for frame in config.shared:
        uv.states[frame] = PageState.SHARED
    uv.release(config.base)
    uv.release(config.variable)
    del uv.configs[config.handle], uv.by_serial[config.serial]
    uv.asces.remove(config.asce)
    return DONE


def set_params(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, origin, length = SET_PARAMS.unpack_from(block)
    config = uv.configs[handle]
    if config.state is not ConfigState.CREATED:
        return Outcome(INV_STATE)
    header = read_header(uv, cpu, origin, length)
    if isinstance(header, Outcome):
        return header
    from protocol.arch.s390.image import Digests, Refusal, host_key, unseal

    opened = unseal(header, host_key(uv.seed, "host"), supported_pcf=PCF, supported_scf=SCF)
    if isinstance(opened, Refusal):
        return Outcome(opened.rc, opened.rrc)
    config.params = opened
    config.digests = Digests()
    config.state = ConfigState.PARAMS_SET
    return DONE


def read_header(level: Front, cpu: Cpu, origin: int, length: int) -> bytes | Outcome:
    """The SE header from home space.

    A header that cannot be one is refused by its length, unread behind the limit.
    """
    if cpu.home_is_real:
        return Outcome(REAL_SPACE)
    header = level.home_read(cpu, origin, min(length, HEADER_LIMIT))
    if isinstance(header, Fault):
        return Outcome(HEADER_NOT_ACCESSIBLE)
    if length > HEADER_LIMIT or not length:
        return Outcome(*LENGTH_MISMATCH)
    return header


def verify(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if config.state not in (ConfigState.PARAMS_SET, ConfigState.UNPACKING):
        return Outcome(INV_STATE)
    assert config.params is not None
    assert config.digests is not None
    mismatch = config.digests.compare(config.params)
    if mismatch:
        return Outcome(NOT_VERIFIED, mismatch)
    config.state = ConfigState.VERIFIED
    config.digests = None
    return DONE
