"""Treatment of the calls about the Ultravisor and about configurations: sections 7.2, 7.3, 7.5."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.init import answer_keys, answer_query, host_view
from protocol.arch.s390.machine.vm import read_header
from protocol.arch.s390.nesting.entities import Block, TrackedConfig
from protocol.arch.s390.structs import (
    DONE,
    EXECUTED,
    HANDLE_OUT,
    INIT,
    INV_STATE,
    NODATA,
    SET_PARAMS,
    U64,
    CreateConfig,
    Outcome,
    block,
)
from protocol.calls import CallSpec
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

Treated = Generator[Any, Any, Outcome]
ESCA_LENGTH = 0x4000
NO_RESOURCE = Outcome(checks.NO_MORE_CONFIGS)


def passed(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Issue the same block below, its handle exchanged if handles are mapped."""
    outcome = yield from nested.issuer(cpu).uvc(with_real_handle(nested, spec, uvcb))
    return Outcome(outcome.rc, outcome.rrc)


def with_real_handle(nested: Nested, spec: CallSpec, uvcb: bytes) -> bytes:
    if nested.strategy.handles == "passed" or not spec.handle:
        return uvcb
    handle = U64.unpack_from(uvcb, spec.handle_at)[0]
    entity = nested.configs[handle] if spec.handle == "config" else nested.secure_cpus[handle]
    changed = bytearray(uvcb)
    U64.pack_into(changed, spec.handle_at, entity.real)
    nested.ledger.count(("translations", "handle"))
    return bytes(changed)


# -- emulated: nothing is issued below -----------------------------------------------------------------------------------


def query(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    return answer_query(host_view(nested.profile, nested.calls), uvcb)
    yield


def query_keys(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    return answer_keys(nested.seed)
    yield


def init(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """The real Ultravisor is up already; the guest host's donation is taken all the same, and pays for what follows."""
    plan = checks.init(nested, *INIT.unpack_from(uvcb))
    if isinstance(plan, int):
        return Outcome(plan)
    nested.takes(plan.frames)
    nested.base = plan.frames
    nested.ready = True
    nested.book.add("te_context")
    return DONE
    yield


# -- modified ----------------------------------------------------------------------------------------------------------


def create_config(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Every address in the block is replaced; the guest's table becomes a shadow that lives as long as the guest.

    The guest host's table may still be empty and its SCA all zero: neither is looked into.
    """
    plan = checks.create_config(nested, cpu, uvcb)
    if isinstance(plan, int):
        return Outcome(plan)
    fields = plan.fields
    nested.ledger.count(("translations", "variable_storage"), len(plan.variable))
    lent: list[Block] = []
    space = None
    try:
        for length in (len(plan.base) << PAGE_SHIFT, len(plan.variable) << PAGE_SHIFT, ESCA_LENGTH):
            lent.append(nested.lend(length))
        space = nested.shadows.open(fields.asce, fields.mso, fields.length)
    except OutOfFrames:
        _undo(nested, lent)
        return NO_RESOURCE
    base, variable, sca = lent
    below = CreateConfig(
        base.first << PAGE_SHIFT,
        variable.first << PAGE_SHIFT,
        fields.flags,
        fields.mso,
        fields.length,
        sca.first << PAGE_SHIFT,
        space.table.asce,
    )
    outcome = yield from nested.issuer(cpu).uvc(below.pack(), out=HANDLE_OUT + 8)
    if outcome.rc != EXECUTED:
        nested.shadows.close(space)
        _undo(nested, lent)
        return Outcome(outcome.rc, outcome.rrc)
    real = U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0]
    handle = nested.new_handle("config", real)
    config = TrackedConfig(handle, real, space, plan.base, plan.variable, (base, variable), sca)
    nested.configs[handle] = nested.by_serial[space.serial] = config
    nested.takes(plan.base)
    nested.takes(plan.variable)
    nested.book.add("vm_map")
    return Outcome(EXECUTED, 0, ((HANDLE_OUT, U64.pack(handle)),))


def _undo(nested: Nested, lent: list[Block]) -> None:
    for run in lent:
        nested.unlend(run)


def destroy_config(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Pages of the guest stay tracked until each is destroyed or exported, as they stay secure below."""
    config = nested.configs[NODATA.unpack_from(uvcb)[0]]
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED:
        forget_config(nested, config)
    return outcome


def forget_config(nested: Nested, config: TrackedConfig) -> None:
    """The level below destroyed it: what was lent is free again, what was taken goes back."""
    for run in (*config.donated, config.sca):
        nested.unlend(run)
    nested.returns(config.base)
    nested.returns(config.variable)
    untrack_config(nested, config)


def untrack_config(nested: Nested, config: TrackedConfig) -> None:
    serial = config.space.serial
    for frame in [frame for frame, owner in nested.pins.items() if owner == serial]:
        del nested.pins[frame]
    nested.shadows.close(config.space)
    del nested.configs[config.handle], nested.by_serial[serial]
    nested.book.drop("vm_map")


def set_params(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """The header lies in the guest host's home space: it is bounced. Unreadable, nothing is issued below.

    The state of the configuration is looked at before the header, so whether the parameters are set is tracked.
    """
    handle, origin, length = SET_PARAMS.unpack_from(uvcb)
    config = nested.configs[handle]
    if config.has_params:
        return Outcome(INV_STATE)
    header = read_header(nested, cpu, origin, length)
    if isinstance(header, Outcome):
        return header
    bounce = nested.lend((len(header) + 0xFFF) & ~0xFFF)
    try:
        nested.below.memory.write(bounce.first << PAGE_SHIFT, header)
        nested.ledger.count(("copied_bytes", "se_header"), len(header))
        uvcb = bytes(block(0x50, spec.code, SET_PARAMS, config.real, bounce.first << PAGE_SHIFT, length))
        outcome = yield from nested.issuer(cpu).uvc(uvcb)
    finally:
        nested.unlend(bounce)
    config.has_params = outcome.rc == EXECUTED
    return Outcome(outcome.rc, outcome.rrc)
