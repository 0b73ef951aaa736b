"""Treatment of the calls about the Ultravisor and about configurations: sections 7.2, 7.3, 7.5."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import checks
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.init import answer_keys, answer_query, host_view
from protocol.arch.s390.machine.vm import read_header
from protocol.arch.s390.nesting.entities import Block, TrackedConfig, Unfinished
from protocol.arch.s390.nesting.memory import import_all
from protocol.arch.s390.nesting.passing import Treated, bounce, passed
from protocol.arch.s390.structs import (
    DONE,
    EXECUTED,
    HANDLE_OUT,
    INIT,
    INV_STATE,
    NODATA,
    NOT_NOW,
    PARTLY,
    SET_PARAMS,
    U64,
    CreateConfig,
    Outcome,
    block,
)
from protocol.calls import CallSpec
from protocol.errors import OwnerGone
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

ESCA_LENGTH = 0x4000
NEED_DESTROY = 0x8000
NO_RESOURCE = Outcome(checks.NO_MORE_CONFIGS)


# -- emulated: nothing is issued below -------------------------------------------------------------


def query(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Outcome:
    return answer_query(host_view(nested.profile, nested.calls), uvcb)


def query_keys(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Outcome:
    return answer_keys(nested.seed)


def init(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Outcome:
    """The real Ultravisor is up already; the guest host's donation is taken all the same."""
    plan = checks.init(nested, *INIT.unpack_from(uvcb))
    if isinstance(plan, int):
        return Outcome(plan)
    nested.takes(plan.frames)
    nested.base = plan.frames
    nested.ready = True
    nested.book.add("te_context")
    return DONE


# -- create and destroy ----------------------------------------------------------------------------


def create_config(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Every address is replaced; the guest's table becomes a shadow that lives as long as the guest.

    The guest host's table may still be empty and its SCA all zero: neither is looked into.
    """
    plan = checks.create_config(nested, cpu, uvcb)
    begun = nested.unfinished.pop(cpu.number, None)
    if begun is not None and (isinstance(plan, int) or begun.uvcb != uvcb):
        give_up(nested, begun)
        begun = None
    if isinstance(plan, int):
        return Outcome(plan)
    fields = plan.fields
    begun = begun or _begin(nested, uvcb, plan)
    if begun is None:
        return NO_RESOURCE
    space, (base, variable, sca) = begun.space, begun.lent
    below = CreateConfig(
        base.first << PAGE_SHIFT,
        variable.first << PAGE_SHIFT,
        fields.flags,
        fields.mso,
        fields.length,
        sca.first << PAGE_SHIFT,
        space.table.asce,
    )
    donated = np.concatenate((plan.base, plan.variable))
    claimed = nested.claim(donated)
    assert claimed, "no frame of a call that is under way is usable"
    try:
        outcome = yield from nested.issuer(cpu).uvc(below.pack(), out=HANDLE_OUT + 8)
    except OwnerGone:  # what was not answered was not issued
        give_up(nested, begun)
        raise
    finally:
        nested.unclaim(donated)
    if outcome == PARTLY:
        nested.unfinished[cpu.number] = begun
        return outcome
    if outcome.rc != EXECUTED and not outcome.rc & NEED_DESTROY:
        give_up(nested, begun)
        return Outcome(outcome.rc, outcome.rrc)
    config = _made(nested, plan, begun, U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0])
    return Outcome(outcome.rc, outcome.rrc, ((HANDLE_OUT, U64.pack(config.handle)),))


def _begin(nested: Nested, uvcb: bytes, plan: checks.ConfigPlan) -> Unfinished | None:
    """Take what is lent for a creation; None if there is too little."""
    lent: list[Block] = []
    nested.ledger.count(("translations", "variable_storage"), len(plan.variable))
    try:
        for length in (len(plan.base) << PAGE_SHIFT, len(plan.variable) << PAGE_SHIFT, ESCA_LENGTH):
            lent.append(nested.lend(length))
        space = nested.shadows.open(plan.fields.asce, plan.fields.mso, plan.fields.length)
    except OutOfFrames:
        _unlend(nested, lent)
        return None
    return Unfinished(uvcb, space, tuple(lent))


def give_up(nested: Nested, begun: Unfinished) -> None:
    """A creation will not be finished: nothing was made below, and what was lent comes back."""
    nested.shadows.close(begun.space)
    _unlend(nested, begun.lent)


def _made(nested: Nested, plan: checks.ConfigPlan, begun: Unfinished, real: int) -> TrackedConfig:
    space, (base, variable, sca) = begun.space, begun.lent
    handle = nested.new_handle("config", real)
    config = TrackedConfig(handle, real, space, plan.base, plan.variable, (base, variable), sca)
    nested.configs[handle] = nested.by_serial[space.serial] = config
    nested.asces.add(space.asce)
    nested.takes(plan.base, base.pages)
    nested.takes(plan.variable, variable.pages)
    nested.book.add("vm_map")
    return config


def _unlend(nested: Nested, lent: Iterable[Block]) -> None:
    for run in lent:
        nested.unlend(run)


def destroy_config(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Pages of the guest stay tracked until each is destroyed or exported, as they stay secure below."""
    config = nested.configs[NODATA.unpack_from(uvcb)[0]]
    if not config.close():
        return NOT_NOW
    try:
        outcome = yield from passed(nested, spec, cpu, uvcb)
    finally:
        config.closed = False
    if outcome.rc == EXECUTED:
        forget_config(nested, config)
    return outcome


def forget_config(nested: Nested, config: TrackedConfig) -> None:
    """The level below destroyed it: what was lent is free again, what was taken goes back."""
    base, variable = config.donated
    for run in (base, variable, config.sca):
        nested.unlend(run)
    nested.returns(config.base, base.pages)
    nested.returns(config.variable, variable.pages)
    untrack_config(nested, config)


def untrack_config(nested: Nested, config: TrackedConfig) -> None:
    nested.unpin_all(config.space.serial)
    nested.shadows.close(config.space)
    del nested.configs[config.handle], nested.by_serial[config.space.serial]
    nested.asces.remove(config.space.asce)
    nested.book.drop("vm_map")


# -- parameters and verification ---------------------------------------------------------------------


def set_params(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """The header lies in the guest host's home space: it is bounced. Unreadable, nothing is issued below.

    The state of the configuration comes before the header, so whether the parameters are set is tracked.
    """
    handle, origin, length = SET_PARAMS.unpack_from(uvcb)
    config = nested.configs[handle]
    if config.has_params:
        return Outcome(INV_STATE)
    header = read_header(nested, cpu, origin, length)
    if isinstance(header, Outcome):
        return header
    issuer = nested.issuer(cpu)
    at = bounce(issuer)
    nested.below.memory.write(at, header)
    nested.ledger.count(("copied_bytes", "se_header"), len(header))
    outcome = yield from issuer.uvc(block(spec.length, spec.code, SET_PARAMS, config.real, at, length))
    config.has_params = outcome.rc == EXECUTED
    return Outcome(outcome.rc, outcome.rrc)


def verify(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """With `prefault` everything that the guest host maps becomes secure before the guest starts."""
    outcome = yield from passed(nested, spec, cpu, uvcb)
    if outcome.rc == EXECUTED and nested.strategy.pages == "prefault":
        yield from import_all(nested, cpu, nested.configs[NODATA.unpack_from(uvcb)[0]])
    return outcome
