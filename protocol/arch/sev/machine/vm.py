"""SNP guests come and go:

GCTX_CREATE, LAUNCH_START, ACTIVATE, DECOMMISSION, GUEST_STATUS. Sections 2.6, 3.4, 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.books import Context
from protocol.arch.sev.checks import snp as checks
from protocol.arch.sev.crypto.keys import MemoryKey
from protocol.arch.sev.machine.entities import SnpGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, VMSA
from protocol.arch.sev.status import ContextState, Status
from protocol.arch.sev.structs import PAGE, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

_VCEK_DISABLED = 1


def gctx_create(fw: Machine, b: Buffer) -> Step[Reply]:
    """The donated page becomes the guest's context:

    its address is the handle, its contents are the chip's alone.
    """
    if status := checks.gctx_create(fw, b):
        return Reply(status)
    frame = b.gctx // PAGE
    yield from fw.hold((frame,))
    fw.rmp.put(frame, ASSIGNED | IMMUTABLE | VMSA)
    fw.deposit(b.gctx, fw.chip_key.encrypt(b.gctx, bytes(PAGE)))
    fw.platform.contexts[frame] = SnpGuest(
        frame,
        key=MemoryKey(fw.secret("vek", 32)),
        oek=fw.secret("oek", 32),
        vmpcks=tuple(fw.secret("vmpck", 32) for _ in range(4)),
        report_id=fw.secret("report id", 32),
    )
    return DONE


def decommission(fw: Machine, b: Buffer) -> Step[Reply]:
    """The context page becomes Firmware again; what it held is gone (it is zero: guess)."""
    found = checks.known(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    yield from fw.hold((found.frame,))
    release_asid(fw, found)
    del fw.platform.contexts[found.frame]
    fw.rmp.put(found.frame, ASSIGNED | IMMUTABLE)
    fw.deposit(b.gctx, bytes(PAGE))
    return DONE


def release_asid(fw: Machine, found: Context) -> None:
    if found.asid:
        fw.platform.asids.release(found.asid)
        fw.keys.pop(found.asid, None)
        found.asid = 0


def launch_start(fw: Machine, b: Buffer) -> Step[Reply]:
    found = checks.launch_start(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, SnpGuest)
    yield from fw.hold((found.frame,))
    found.state = ContextState.LAUNCH
    found.policy = b.policy
    found.imi = bool(b.flags & checks.IMI_EN)
    found.gosvw = b.bytes_of("gosvw")
    found.agent = b.ma // PAGE if b.flags & checks.MA_EN else 0
    return DONE


def activate(fw: Machine, b: Buffer) -> Step[Reply]:
    found = checks.activate(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    yield from fw.hold((found.frame,))
    _bind(fw, found, b.asid, fw.platform.asids.cores)
    return DONE


def activate_ex(fw: Machine, b: Buffer) -> Step[Reply]:
    """The guest may run on the complexes of the listed CPUs only."""
    found = checks.activate_ex(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    context, cores = found
    yield from fw.hold((context.frame,))
    _bind(fw, context, b.asid, cores)
    return DONE


def _bind(fw: Machine, found: Context, asid: int, cores: int) -> None:
    assert isinstance(found, SnpGuest)
    fw.platform.asids.bind(asid, cores, found.state is ContextState.RUNNING)
    found.asid = asid
    fw.install(asid, found.key)


def guest_status(fw: Machine, b: Buffer) -> Step[Reply]:
    found = checks.guest_status(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    yield from fw.hold((found.frame, b.status // PAGE))
    fw.deposit(b.status, status_of(found))
    return DONE


def status_of(found: Context) -> bytes:
    """The first bytes of the status page."""
    head = found.policy.to_bytes(8, "little") + found.asid.to_bytes(4, "little")
    return head + bytes((found.state, 0, 0, 0, _VCEK_DISABLED if found.vcek_disabled else 0))
