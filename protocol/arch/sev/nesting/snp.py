"""Commands about SNP guests:

re-issued with handle, ASID and addresses exchanged. Section 7.2 of the fact sheet.

The handle is the address of the context page: the very page of the guest host is donated below, and the
slot map says where it is. GPAs stay the guest's own, so the launch digest is the same at every depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.books import Context
from protocol.arch.sev.checks import snp as checks
from protocol.arch.sev.machine.vm import status_of
from protocol.arch.sev.nesting.legacy import bounced
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, VMSA
from protocol.arch.sev.status import ContextState, Status
from protocol.arch.sev.structs import PAGE, Buffer
from protocol.calls import CallSpec
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

ID_BLOCK_LEN = 0x60


def gctx_create(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The donation point."""
    if refused := checks.gctx_create(n, b):
        return Reply(refused)
    frame = b.gctx // PAGE
    n.hold_below((frame,))
    yield from n.donate(frame)
    status = yield from n.port.command(spec.name, gctx=n.operand_below(b.gctx))
    if status:
        return Reply(status)
    n.rmp.put(frame, ASSIGNED | IMMUTABLE | VMSA)
    n.platform.contexts[frame] = Context(frame)
    n.book.add("vm_map")
    n.book.add("donated_run")
    return DONE


def decommission(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = checks.known(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame,))
    status = yield from n.port.command(spec.name, gctx=n.operand_below(b.gctx))
    if status:
        return Reply(status)
    if found.asid:
        n.released(found.asid)
    del n.platform.contexts[found.frame]
    n.rmp.put(found.frame, ASSIGNED | IMMUTABLE)
    n.book.drop("vm_map")
    n.book.drop("donated_run")
    return DONE


def launch_start(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = checks.launch_start(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame,))
    status = yield from n.port.command(
        spec.name,
        gctx=n.operand_below(b.gctx),
        policy=b.policy,
        ma=n.operand_below(b.ma) if b.flags & checks.MA_EN else 0,
        flags=b.flags,
        tsc_khz=b.tsc_khz,
        gosvw=b.gosvw,
    )
    if status:
        return Reply(status)
    found.state, found.policy = ContextState.LAUNCH, b.policy
    found.imi = bool(b.flags & checks.IMI_EN)
    return DONE


def activate(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = checks.activate(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame,))
    status = yield from n.port.activate(spec.name, gctx=n.operand_below(b.gctx), asid=n.asid_below(b.asid))
    if status:
        return Reply(status)
    n.platform.asids.bind(b.asid, n.platform.asids.cores, found.state is ContextState.RUNNING)
    found.asid = b.asid
    return DONE


def guest_status(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The answer below has the real ASID:

    it goes to a page of this level's, and back with the guest host's.
    """
    found = checks.guest_status(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame, b.status // PAGE))
    gctx = n.operand_below(b.gctx)
    status = yield from bounced(n, 1, spec.name, gctx=gctx, status=n.port.bounce)
    if status:
        return Reply(status)
    yield from n.make_way(b.status, PAGE)
    n.deposit(b.status, status_of(found))
    return DONE


def launch_finish(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The ID block may lie anywhere: it is bounced."""
    found = checks.launch_finish(n, b)
    if isinstance(found, Status):
        return Reply(found)
    bounce = n.port.bounce
    block = auth = 0
    if b.flags & checks.ID_BLOCK_EN:
        block, auth = bounce, bounce + PAGE
        n.port.driver.write(block, n.fetch(b.id_block, ID_BLOCK_LEN))
        n.port.driver.write(auth, n.fetch(b.id_auth, PAGE))
        n.ledger.count(("copied_bytes", "id_block"), ID_BLOCK_LEN + PAGE)
    n.hold_below((found.frame,))
    status = yield from n.port.command(
        spec.name,
        gctx=n.operand_below(b.gctx),
        id_block=block,
        id_auth=auth,
        flags=b.flags,
        host_data=b.host_data,
    )
    if status:
        return Reply(status)
    found.state = ContextState.RUNNING
    found.vcek_disabled = bool(b.flags & checks.VCEK_DIS)
    n.platform.asids.finish(found.asid)
    return DONE


def guest_request(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """What is sealed is opaque, and its sequence number a nonce:

    it is issued once, and the status passed as it is.
    """
    found = checks.guest_request(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((b.resp // PAGE,))
    yield from n.donate(b.resp // PAGE)
    status = yield from n.port.command(
        spec.name,
        gctx=n.operand_below(b.gctx),
        req=n.operand_below(b.req),
        resp=n.operand_below(b.resp),
    )
    return Reply(status)
