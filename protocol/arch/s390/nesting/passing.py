"""A call that is handed on to the level below, and what the CPU that issues it has of its own for that."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.structs import U64, Outcome
from protocol.calls import CallSpec
from protocol.memory.store import PAGE

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

Treated = Generator[Any, Any, Outcome]

# What each CPU that issues has of its own: a control block, room to bounce an SE header or a dump, and the
# shadow block of a guest that is not secure.
SCRATCH_FRAMES = 4
BOUNCE_LENGTH = 2 * PAGE


def bounce(issuer: Issuer) -> int:
    """Address of `BOUNCE_LENGTH` bytes, for as long as the issuer's call lasts."""
    return issuer.scratch + PAGE


def normal_block(issuer: Issuer) -> int:
    """Address of the shadow block for a guest that is not secure, for as long as the CPU is in SIE."""
    return issuer.scratch + PAGE + BOUNCE_LENGTH


def passed(nested: Nested, spec: CallSpec, cpu: Cpu, uvcb: bytes) -> Treated:
    """Issue the same block below, its handle exchanged if handles are mapped."""
    return nested.issuer(cpu).uvc(with_real_handle(nested, spec, uvcb))


def with_real_handle(nested: Nested, spec: CallSpec, uvcb: bytes) -> bytes:
    if nested.strategy.handles == "passed" or not spec.handle:
        return uvcb
    handle = U64.unpack_from(uvcb, spec.handle_at)[0]
    entity = nested.configs[handle] if spec.handle == "config" else nested.secure_cpus[handle]
    changed = bytearray(uvcb)
    U64.pack_into(changed, spec.handle_at, entity.real)
    nested.ledger.count(("translations", "handle"))
    return bytes(changed)
