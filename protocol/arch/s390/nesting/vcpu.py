"""Treatment of the calls about CPUs: the storage is swapped, the SIE block gets a shadow for its lifetime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.nesting.entities import Block, TrackedCpu
from protocol.arch.s390.nesting.passing import Treated, passed
from protocol.arch.s390.structs import EXECUTED, HANDLE_OUT, INV_STATE, NODATA, U64, CreateCpu, Outcome
from protocol.calls import CallSpec
from protocol.errors import OwnerGone
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

NO_RESOURCE = Outcome(0x0105)  # guess: nothing in the sheet says that the level below is out of memory


def create_cpu(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """The SIE block may still be all zero; nothing is read from it here."""
    plan = checks.create_cpu(nested, uvcb)
    if isinstance(plan, int):
        return Outcome(plan)
    fields = plan.fields
    config = nested.configs[fields.config]
    try:
        lent = nested.lend(len(plan.storage) << PAGE_SHIFT)
    except OutOfFrames:
        return NO_RESOURCE
    pages = _shadow_pages(nested)
    if pages is None:
        nested.unlend(lent)
        return NO_RESOURCE
    shadow, sida = (frame << PAGE_SHIFT for frame in pages)
    below = CreateCpu(config.real, lent.first << PAGE_SHIFT, fields.number, shadow)
    claimed = nested.claim(plan.storage)
    assert claimed, "no frame of a call that is under way is usable"
    try:
        outcome = yield from nested.issuer(cpu).uvc(below.pack(), out=HANDLE_OUT + 8)
    except OwnerGone:  # what was not answered was not issued
        _undo(nested, lent, pages)
        raise
    finally:
        nested.unclaim(plan.storage)
    if outcome.rc != EXECUTED:
        _undo(nested, lent, pages)
        return Outcome(outcome.rc, outcome.rrc)
    real = U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0]
    handle = nested.new_handle("cpu", real)
    secure = TrackedCpu(handle, real, config, fields.number, plan.storage, lent, shadow, sida)
    nested.secure_cpus[handle] = secure
    config.cpus += (secure,)
    nested.takes(plan.storage, lent.pages)
    nested.book.add("vcpu_map")
    nested.book.add("shadow_vcpu")
    return Outcome(EXECUTED, 0, ((HANDLE_OUT, U64.pack(handle)),))


def _shadow_pages(nested: Nested) -> tuple[int, int] | None:
    """Two zeroed frames: the shadow control block and its data page."""
    pool = nested.below.pool
    try:
        shadow, sida = pool.take_singles(2)
    except OutOfFrames:
        return None
    try:
        nested.below.keep_promises()
    except OutOfFrames:
        pool.give((shadow, sida))
        return None
    nested.below.memory.clear([shadow, sida])
    return shadow, sida


def _undo(nested: Nested, lent: Block, pages: tuple[int, int]) -> None:
    nested.unlend(lent)
    nested.below.pool.give(pages)


def destroy_cpu(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A CPU that is inside, as the guest host sees it, is refused here: its answer may still be under way."""
    secure = nested.secure_cpus[NODATA.unpack_from(uvcb)[0]]
    if secure.inside:
        return Outcome(INV_STATE)
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        forget_cpu(nested, secure)
    return outcome


def forget_cpu(nested: Nested, secure: TrackedCpu) -> None:
    """The level below destroyed it: its shadow block ends with its handle."""
    nested.unlend(secure.donated)
    nested.returns(secure.storage, secure.donated.pages)
    untrack_cpu(nested, secure)


def untrack_cpu(nested: Nested, secure: TrackedCpu) -> None:
    secure.ended = True
    if not secure.inside:
        drop_shadow(nested, secure)
    del nested.secure_cpus[secure.handle]
    secure.config.cpus = tuple(other for other in secure.config.cpus if other is not secure)
    nested.book.drop("vcpu_map")
    nested.book.drop("shadow_vcpu")


def drop_shadow(nested: Nested, secure: TrackedCpu) -> None:
    nested.below.pool.give((secure.block >> PAGE_SHIFT, secure.sida >> PAGE_SHIFT))


def reset_prefix(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Initial and clear reset put the guest's prefix to zero; this level follows it for intercept 112."""
    secure = nested.secure_cpus[NODATA.unpack_from(uvcb)[0]]
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        secure.prefix = 0
    return outcome
