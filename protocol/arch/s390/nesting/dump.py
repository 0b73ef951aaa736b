"""Treatment of the dump calls: the area is the guest host's, in its home space, so the answer is bounced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.dump import NO_ACCESS, PIECE, WRONG_STATE
from protocol.arch.s390.nesting.memory import restore
from protocol.arch.s390.nesting.vm import BOUNCE_LENGTH, NOT_NOW, Treated, bounce
from protocol.arch.s390.profiles import DUMP_FINALIZE_LEN, DUMP_STORAGE_LEN
from protocol.arch.s390.structs import DUMP_AREA, DUMP_STORAGE, EXECUTED, Outcome, block
from protocol.calls import CallSpec
from protocol.effects import Fault
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested


def storage_state(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """A page that this level swapped out would show as exported: it comes back first."""
    handle, area, gaddr = DUMP_STORAGE.unpack_from(uvcb)
    if nested.home_refusal(cpu, area, DUMP_STORAGE_LEN) is not None:
        return NO_ACCESS
    config = nested.configs[handle]
    first = gaddr >> PAGE_SHIFT
    for (serial, page), frame in list(nested.away_at.items()):
        here = serial == config.space.serial and first <= page < first + (PIECE >> PAGE_SHIFT)
        if here and not (yield from restore(nested, nested.issuer(cpu), frame)):
            return NOT_NOW
    issuer = nested.issuer(cpu)
    below = block(spec.length, spec.code, DUMP_STORAGE, config.real, bounce(issuer), gaddr)
    return (yield from _bounced(nested, cpu, bytes(below), area, DUMP_STORAGE_LEN))


def cpu_state(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    handle, area = DUMP_AREA.unpack_from(uvcb)
    secure = nested.secure_cpus[handle]
    if secure.inside:
        return WRONG_STATE
    length = nested.profile.cpu_len
    if nested.home_refusal(cpu, area, length) is not None:
        return NO_ACCESS
    below = block(spec.length, spec.code, DUMP_AREA, secure.real, bounce(nested.issuer(cpu)))
    return (yield from _bounced(nested, cpu, bytes(below), area, length))


def complete(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    handle, area = DUMP_AREA.unpack_from(uvcb)
    if nested.home_refusal(cpu, area, DUMP_FINALIZE_LEN) is not None:
        return NO_ACCESS
    below = block(spec.length, spec.code, DUMP_AREA, nested.configs[handle].real, bounce(nested.issuer(cpu)))
    return (yield from _bounced(nested, cpu, bytes(below), area, DUMP_FINALIZE_LEN))


def _bounced(nested: Nested, cpu: Cpu, below: bytes, area: int, length: int) -> Treated:
    """Issue `below`, whose area is the issuer's own, and hand its data to the guest host."""
    assert length <= BOUNCE_LENGTH, f"a dump area of {length} bytes has no room to bounce"
    issuer = nested.issuer(cpu)
    outcome = yield from issuer.uvc(below)
    if outcome.rc == EXECUTED:
        data = nested.below.memory.read(bounce(issuer), length)
        assert not isinstance(data, Fault), f"a level cannot read its own memory: {data}"
        nested.ledger.count(("copied_bytes", "dump"), length)
        if nested.home_write(cpu, area, data) is not None:  # taken away while the call was under way
            return NO_ACCESS
    return Outcome(outcome.rc, outcome.rrc)
