"""Commands about pages of SNP guests:

re-issued on the frames below, and told to the soft RMP. Section 7.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.books import LOW_DRAM
from protocol.arch.sev.checks import pages as checks
from protocol.arch.sev.machine.memory import launched, make_metadata, moved, reclaimed
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, LARGE, SUBPAGES, VALIDATED, VMSA, PageState
from protocol.arch.sev.status import Status, SwapType
from protocol.arch.sev.structs import PAGE, Buffer
from protocol.calls import CallSpec
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

_GPA = (1 << 39) - 1
NOWHERE = LOW_DRAM  # no memory at any level


def _look(n: Nested, *addresses: int) -> None:
    """What a guest changed by itself counts in the checks."""
    for address in addresses:
        n.refresh(n.rmp.head(address // PAGE))


def launch_update(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The hot command.

    A corrected CPUID table is stored by the firmware below, in the guest host's own page.
    """
    found = checks.launch_update(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame,))
    vmpls = b.vmpl1, b.vmpl2, b.vmpl3
    status = yield from n.port.command(
        spec.name,
        gctx=n.operand_below(b.gctx),
        flags=b.flags,
        pa=n.operand_below(b.pa),
        vmpl1=vmpls[0],
        vmpl2=vmpls[1],
        vmpl3=vmpls[2],
    )
    if status:
        return Reply(status)
    launched(n.rmp, found.frame, b.flags >> 1 & 7, vmpls)
    return DONE


def dbg_decrypt(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    return (yield from _debug(n, spec, b, encrypt=False))


def dbg_encrypt(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    return (yield from _debug(n, spec, b, encrypt=True))


def _debug(n: Nested, spec: CallSpec, b: Buffer, encrypt: bool) -> Step[Reply]:
    """Decrypted into a large page, if one lies below, too: its one entry is lent."""
    _look(n, b.src, b.dst)
    found = checks.debug(n, b, encrypt)
    if isinstance(found, Status):
        return Reply(found)
    if not encrypt and n.rmp.large(found.other) and not n.contiguous(found.other):
        return Reply(Status.UNSUPPORTED)
    n.hold_below((n.rmp.head(found.other if encrypt else found.frame),))
    if not encrypt:
        yield from n.donate(found.other)
    places = {"src": n.operand_below(b.src), "dst": n.operand_below(b.dst)}
    status = yield from n.port.command(spec.name, gctx=n.operand_below(b.gctx), **places)
    n.stored_below((found.other,))
    return Reply(status)


def reclaim(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """A page that is the firmware's in the soft RMP alone needs nothing below."""
    _look(n, b.pa)
    found = checks.reclaim(n, b)
    if isinstance(found, Status):
        return Reply(found)
    frame, state = found
    address = n.frame_below(frame) * PAGE
    below = state in (PageState.PRE_GUEST, PageState.PRE_SWAP) and n.real[frame]
    if below:
        n.hold_below((frame,))
    else:
        yield from n.hold((frame,))
    if state in (PageState.FIRMWARE, PageState.METADATA):
        yield from n.take_back(frame)
    elif below:
        status = yield from n.port.command(spec.name, pa=address | b.pa & checks.SIZE)
        if status:
            return Reply(status)
    reclaimed(n.rmp, frame, state)
    return DONE


def unsmash(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    if b.pa + SUBPAGES * PAGE <= n.size:
        n.refresh_range(b.pa // PAGE, SUBPAGES)
    frame = checks.unsmash(n, b)
    if isinstance(frame, Status):
        return Reply(frame)
    if not n.contiguous(frame):
        return Reply(Status.UNSUPPORTED)
    n.hold_below(range(frame, frame + SUBPAGES))
    n.shadows.forget_around(frame)
    status = yield from n.port.command(spec.name, pa=n.frame_below(frame) * PAGE)
    if not status:
        n.rmp.join(frame)
        n.sync(frame, SUBPAGES)
    return Reply(status)


def md_init(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = checks.md_init(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame,))
    yield from n.donate(found.frame)
    places = {"gctx": n.operand_below(b.gctx), "pa": n.operand_below(b.pa)}
    status = yield from n.port.command(spec.name, **places)
    if not status:
        make_metadata(n.rmp, found.frame, found.guest.frame)
    return Reply(status)


def move(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    _look(n, b.src, b.dst)
    found = checks.move(n, b)
    if isinstance(found, Status):
        return Reply(found)
    n.hold_below((found.frame, found.other))
    if n.rmp.state(found.other) is PageState.FIRMWARE:
        yield from n.donate(found.other)
    n.shadows.forget_around(found.frame)
    n.shadows.forget_around(found.other)
    status = yield from n.port.command(
        spec.name,
        gctx=n.operand_below(b.gctx),
        size=b.size,
        src=n.operand_below(b.src),
        dst=n.operand_below(b.dst),
    )
    if not status:
        moved(n.rmp, found.guest.frame, found.frame, found.other)
    return Reply(status)


# -- swapping ------------------------------------------------------------------------------------------


def swap_out(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """A target beyond the guest host's RMP is lent for as long as it takes.

    A large page goes where one lies below, too. (Beyond the RMP nothing is large: the sizes differ.)
    """
    _look(n, b.src)
    found = checks.swap_out(n, b)
    if isinstance(found, Status):
        return Reply(found)
    lent = n.rmp.state(found.other) is PageState.DEFAULT
    if b.flags & checks.SIZE and not n.contiguous(found.other):
        return Reply(Status.UNSUPPORTED)
    n.hold_below((found.frame, found.other))
    yield from n.donate(found.other)
    places = n.operand_below(b.src), n.operand_below(b.dst)
    status = yield from _swap(n, spec, b, *places, sw_data=b.sw_data)
    if lent:
        yield from n.take_back(found.other)
    if status:
        return Reply(status)
    if b.flags >> 1 & 3 == SwapType.METADATA:
        n.rmp.put(found.frame, ASSIGNED | IMMUTABLE)
    else:
        n.rmp.change(found.frame, clear=VALIDATED | VMSA)
    return DONE


def swap_in(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The metadata entry is judged before the places, and it is the firmware's below.

    So a command that is refused here for its places is asked below with places that are nowhere.
    """
    _look(n, b.dst)
    found = checks.swap_in_start(n, b)
    if isinstance(found, Status):
        return Reply(found)
    places = checks.swap_in_finish(n, found, b)
    if not isinstance(places, Status) and b.flags & checks.SIZE and not n.in_one_piece(places.frame):
        places = Status.UNSUPPORTED
    if isinstance(places, Status):
        status = yield from _swap(n, spec, b, NOWHERE, NOWHERE)
        return Reply(status if status == Status.INVALID_MDATA_ENTRY else places)
    target = places.other
    n.hold_below((target,))
    if n.rmp.state(target) is PageState.FIRMWARE:
        yield from n.donate(target)
    status = yield from _swap(n, spec, b, n.operand_below(b.src), n.operand_below(b.dst))
    if status:
        return Reply(status)
    if b.flags >> 1 & 3 == SwapType.METADATA:
        make_metadata(n.rmp, target, found.frame)
        return DONE
    raw = n.entry_below(target)
    low, perms = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:12], "little")
    flags = ASSIGNED | (VMSA if low >> 61 & 1 else 0) | (VALIDATED if low >> 62 & 1 else 0)
    flags |= LARGE if low & LARGE else 0
    n.rmp.put(target, flags, found.asid, low >> 12 & _GPA, perms)
    return DONE


def _swap(n: Nested, spec: CallSpec, b: Buffer, src: int, dst: int, **more: int) -> Step[int]:
    root = bool(b.flags & checks.ROOT_MDATA)
    return (
        yield from n.port.command(
            spec.name,
            gctx=n.operand_below(b.gctx),
            src=src,
            dst=dst,
            mdata=0 if root else n.operand_below(b.mdata),
            flags=b.flags,
            **more,
        )
    )
