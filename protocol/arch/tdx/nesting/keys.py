"""Keys of a guest host's TDs: section 7.4. Its KeyIDs and packages are its own; those below are others.

These calls hold locks of the whole module (the key tables), which siblings share below. A guest host must
never see them taken by somebody else, so the calls are checked, and stop if they have to, at this level,
and are issued below at one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.arch.tdx.cpu import Lp, Registers, registers
from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import phymem
from protocol.arch.tdx.machine.init import own_key_table
from protocol.arch.tdx.machine.vm import own_keys
from protocol.arch.tdx.nesting.entities import TrackedTd
from protocol.arch.tdx.nesting.operands import OWN_TRIES, Operands, undisturbed
from protocol.arch.tdx.status import RAX, RCX, RDX, Refused, Status
from protocol.arch.tdx.tables import KeyState, Lifecycle, PageType
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested

KEY_CONFIG, CACHE_WB = 8, 40


def create(n: Nested, call: Call) -> Step[int]:
    """TDH.MNG.CREATE: another page, another KeyID."""
    hkid, frame = call.r[RDX], call.r[RCX] >> 12
    if not n.profile.is_private(hkid):
        raise Refused(Status.OPERAND_INVALID | RDX)
    operands = Operands(n, call)
    operands.page(RCX, exclusive=True)
    if operands.wrong:
        raise Refused(operands.wrong[RCX])
    key, real = n.platform.kot[hkid], None
    if n.platform.kind_of(frame) == PageType.NDA:
        own_keys(call)
        # No status says that the level has none left; it has as many as all its guest hosts know of.
        if key.state is not KeyState.FREE or not n.below.hkids:
            raise Refused(Status.HKID_NOT_FREE)
        # A sibling may ask while this call is under way, so the KeyID is taken before.
        real = n.below.hkids.pop()
        operands.translated(RDX, real, "handle")
    status = -1
    try:
        if real is not None:
            yield from call.commit()
        status = yield from operands.issue_at_once()
    finally:
        if status != Status.SUCCESS and real is not None:
            n.below.hkids.append(real)
    if status == Status.SUCCESS:
        assert real is not None, "a free page was given with no KeyID below"
        key.state = KeyState.ASSIGNED
        n.tds[frame] = TrackedTd(frame, hkid, real)
        n.gives(frame, PageType.TDR, 0)
        n.book_of(frame).add("vm_map")
    return status


def key_config(n: Nested, call: Call) -> Step[int]:
    """TDH.MNG.KEY.CONFIG: with the last of the guest host's packages, on all of those below."""
    operands = Operands(n, call)
    operands.page(RCX, exclusive=True)
    td = n.td_at(operands, RCX)
    if td is None or td.lifecycle is not Lifecycle.HKID_ASSIGNED:
        return (yield from operands.issue_at_once())
    bit = 1 << call.lp.package
    if td.configured & bit:
        raise Refused(Status.KEY_CONFIGURED)
    own_key_table(call)
    yield from call.commit()
    td.configured |= bit
    if td.configured == n.platform.all_packages:
        for lp in n.keepers:
            status = yield from kept(n, lp, rax=KEY_CONFIG, rcx=operands.r[RCX])
            if status not in (Status.SUCCESS, Status.KEY_CONFIGURED):
                td.configured ^= bit  # it can be asked again, and so can the packages below
                return status
        td.lifecycle = Lifecycle.KEYS_CONFIGURED
    return Status.SUCCESS


def flush_done(n: Nested, call: Call) -> Step[int]:
    """TDH.MNG.VPFLUSHDONE."""
    operands = Operands(n, call)
    operands.page(RCX, exclusive=True)
    td = n.td_at(operands, RCX)
    if td is None:
        return (yield from operands.issue_at_once())
    own_keys(call)
    if td.lifecycle not in (Lifecycle.HKID_ASSIGNED, Lifecycle.KEYS_CONFIGURED):
        raise Refused(Status.LIFECYCLE_STATE_INCORRECT)
    if td.associated:
        raise Refused(Status.FLUSHVP_NOT_DONE)
    yield from call.commit()
    status = yield from operands.issue_at_once()
    if status == Status.SUCCESS:
        td.lifecycle = Lifecycle.BLOCKED
        td.written_back = False
        key = n.platform.kot[td.hkid]
        key.state, key.pending = KeyState.FLUSHED, n.platform.all_packages
    return status


def free_key(n: Nested, call: Call) -> Step[int]:
    """TDH.MNG.KEY.FREEID: the KeyID below goes back to the level's pool."""
    operands = Operands(n, call)
    operands.page(RCX, exclusive=True)
    td = n.td_at(operands, RCX)
    if td is None or td.lifecycle is not Lifecycle.BLOCKED:
        return (yield from operands.issue_at_once())
    own_keys(call)
    key = n.platform.kot[td.hkid]
    if key.pending:
        raise Refused(Status.WBCACHE_NOT_COMPLETE)
    yield from call.commit()
    status = yield from operands.issue_at_once()
    if status == Status.SUCCESS:
        key.state = KeyState.FREE
        td.lifecycle = Lifecycle.TEARDOWN
        n.below.hkids.append(td.real)
    return status


def write_back(n: Nested, call: Call) -> Step[int]:
    """TDH.PHYMEM.CACHE.WB: the guest host's caches are this level's book. One cycle below serves a batch."""
    status = yield from phymem.write_back(n, call)
    if status == Status.SUCCESS:
        yield from really_write_back(n)
    return status


def really_write_back(n: Nested) -> Step[None]:
    """Write back all caches below, if that is due for a TD.

    Where the guest host's own hosts are kept apart, a cycle of one that a cycle for another made needless is
    made all the same, never more of them than keys were flushed: counts do not depend on their order.
    """
    due = [
        td
        for td in n.tds.values()
        if td.lifecycle is Lifecycle.BLOCKED and not td.written_back and not n.platform.kot[td.hkid].pending
    ]
    if n.kept_apart:
        n.owed += len(due) - 1
    if due or (n.kept_apart and n.owed >= 0):
        yield from cycle(n, due)
    n.owed = max(n.owed, 0)


def cycle(n: Nested, tds: Sequence[TrackedTd]) -> Step[None]:
    """Write back the caches of every package below: the keys of `tds` have left them, if nothing was busy."""
    done = True
    for lp in n.keepers:
        status = yield from kept(n, lp, rax=CACHE_WB)
        done = done and status == Status.SUCCESS
    for td in tds:
        td.written_back = td.written_back or done


def asked(n: Nested, lp: Lp, **named: int) -> Step[Registers]:
    """A question of the level's own, which no machine check can answer: the registers."""
    lp.origin = n.level
    out = yield from undisturbed(n, lp, registers(**named), OWN_TRIES)
    assert not isinstance(out, Fault)
    return out


def kept(n: Nested, lp: Lp, **named: int) -> Step[int]:
    """A call of the level's own for its guest host: the status. Only what is busy for long can refuse it."""
    out = yield from asked(n, lp, **named)
    return out[RAX]
