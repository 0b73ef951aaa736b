"""Treatment of the calls about CPUs: the donated storage is swapped, the SIE block gets a shadow of the same lifetime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.nesting.entities import TrackedCpu
from protocol.arch.s390.nesting.vm import Treated, passed
from protocol.arch.s390.structs import EXECUTED, HANDLE_OUT, NODATA, U64, CreateCpu, Outcome
from protocol.calls import CallSpec
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested


def create_cpu(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """The SIE block may still be all zero; nothing is read from it here."""
    plan = checks.create_cpu(nested, uvcb)
    if isinstance(plan, int):
        return Outcome(plan)
    fields = plan.fields
    config = nested.configs[fields.config]
    pool = nested.below.pool
    try:
        lent = nested.lend(len(plan.storage) << PAGE_SHIFT)
    except OutOfFrames:
        return Outcome(0x0105)
    block, sida = (frame << PAGE_SHIFT for frame in pool.take_singles(2))
    nested.below.memory.clear([block >> PAGE_SHIFT, sida >> PAGE_SHIFT])
    below = CreateCpu(config.real, lent.first << PAGE_SHIFT, fields.number, block)
    outcome = yield from nested.issuer(cpu).uvc(below.pack(), out=HANDLE_OUT + 8)
    if outcome.rc != EXECUTED:
        nested.unlend(lent)
        pool.give((block >> PAGE_SHIFT, sida >> PAGE_SHIFT))
        return Outcome(outcome.rc, outcome.rrc)
    real = U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0]
    handle = nested.new_handle("cpu", real)
    secure = TrackedCpu(handle, real, config, fields.number, plan.storage, lent, block, sida)
    nested.secure_cpus[handle] = config.cpus[fields.number] = secure
    nested.takes(plan.storage)
    nested.book.add("vcpu_map")
    nested.book.add("shadow_vcpu")
    return Outcome(EXECUTED, 0, ((HANDLE_OUT, U64.pack(handle)),))


def destroy_cpu(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    secure = nested.secure_cpus[NODATA.unpack_from(uvcb)[0]]
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        forget_cpu(nested, secure)
    return outcome


def forget_cpu(nested: Nested, secure: TrackedCpu) -> None:
    """The level below destroyed it: its shadow block ends with its handle."""
    nested.unlend(secure.donated)
    nested.returns(secure.storage)
    untrack_cpu(nested, secure)


def untrack_cpu(nested: Nested, secure: TrackedCpu) -> None:
    nested.below.pool.give((secure.block >> PAGE_SHIFT, secure.sida >> PAGE_SHIFT))
    del nested.secure_cpus[secure.handle], secure.config.cpus[secure.number]
    nested.book.drop("vcpu_map")
    nested.book.drop("shadow_vcpu")


def reset_prefix(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Initial and clear reset put the guest's prefix to zero; this level follows it to answer intercept 112."""
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        nested.secure_cpus[NODATA.unpack_from(uvcb)[0]].prefix = 0
    return outcome
