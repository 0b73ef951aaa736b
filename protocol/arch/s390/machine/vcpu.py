"""Secure CPUs: create and destroy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import SecureCpu
from protocol.arch.s390.structs import DONE, HANDLE_OUT, INV_STATE, NODATA, U64, Outcome

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine


def create(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    plan = checks.create_cpu(uv, block)
    if isinstance(plan, int):
        return Outcome(plan)
    fields = plan.fields
    config = uv.configs[fields.config]
    handle = uv.handles.new("cpu")
    uv.donate(plan.storage)
    secure = SecureCpu(handle, config, fields.number, plan.storage, fields.state)
    uv.secure_cpus[handle] = secure
    config.cpus += (secure,)
    return Outcome(1, 0, ((HANDLE_OUT, U64.pack(handle)),))


def destroy(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    """A CPU that is inside SIE cannot be destroyed (guess: the sheet names no code)."""
    secure = uv.secure_cpus[NODATA.unpack_from(block)[0]]
    if secure.inside:
        return Outcome(INV_STATE)
    uv.release(secure.storage)
    del uv.secure_cpus[secure.handle]
    secure.config.cpus = tuple(other for other in secure.config.cpus if other is not secure)
    return DONE
