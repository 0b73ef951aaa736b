"""Treatment of the dump calls: the area is the guest host's, in its home space, so the answer is bounced.

A CPU that is in its guest when a dump begins stays there until it leaves by itself (`machine.dump`), and
nobody can enter it anew. So this level must have no exit of its own to put right until then: what it swapped
out comes back first and stays, and the shadow follows the guest host's tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.machine.dump import NO_ACCESS, PIECE, WRONG_STATE
from protocol.arch.s390.nesting.memory import restore
from protocol.arch.s390.nesting.passing import BOUNCE_LENGTH, Treated, bounce, passed
from protocol.arch.s390.profiles import DUMP_FINALIZE_LEN, DUMP_STORAGE_LEN
from protocol.arch.s390.structs import DUMP_AREA, DUMP_STORAGE, EXECUTED, NODATA, NOT_NOW, Outcome, block
from protocol.calls import CallSpec
from protocol.effects import Fault
from protocol.memory.physical import chunks
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested


def init(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    config = nested.configs[NODATA.unpack_from(uvcb)[0]]
    if any(secure.inside for secure in config.cpus):
        serial = config.space.serial
        for frame in [frame for (whose, _), frame in nested.away_at.items() if whose == serial]:
            if not (yield from restore(nested, nested.issuer(cpu), frame)):
                return NOT_NOW
        nested.shadows.follow(config.space)
    return (yield from passed(nested, spec, cpu, uvcb))


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
    pieces = _pieces(nested, cpu, area, length)
    if pieces is None:
        return NO_ACCESS
    frames = np.unique([address >> PAGE_SHIFT for address, _ in pieces])
    if not nested.claim(frames):
        return NOT_NOW
    issuer = nested.issuer(cpu)
    try:
        outcome = yield from issuer.uvc(below)
        if outcome.rc == EXECUTED:
            _copy_out(nested, issuer, pieces, length)
    finally:
        nested.unclaim(frames)
    return Outcome(outcome.rc, outcome.rrc)


def _pieces(nested: Nested, cpu: Cpu, area: int, length: int) -> list[tuple[int, int]] | None:
    """Where the area lies in the guest host's memory, page by page; None if it cannot be stored to.

    It is translated once: a completion ends the dump, so there must be a place for it whatever happens
    meanwhile.
    """
    pieces = []
    for at, n in chunks(area, length):
        absolute = nested.home(cpu, at, True)
        if isinstance(absolute, Fault) or nested.refusal(absolute, n) is not None:
            return None
        pieces.append((absolute, n))
    return pieces


def _copy_out(nested: Nested, issuer: Issuer, pieces: list[tuple[int, int]], length: int) -> None:
    data = nested.below.memory.read(bounce(issuer), length)
    assert not isinstance(data, Fault), f"a level cannot read its own memory: {data}"
    done = 0
    for address, n in pieces:
        fault = nested.poke(address, data[done : done + n])
        assert fault is None, f"an area that is claimed cannot be stored to: {fault}"
        done += n
    nested.ledger.count(("copied_bytes", "dump"), length)
