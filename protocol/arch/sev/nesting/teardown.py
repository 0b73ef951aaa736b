"""Everything of a guest host ends without its help: a sudden reboot or death. Section 7.2 of the fact sheet.

Legacy guests are deactivated and forgotten, SNP guests decommissioned, every page that is assigned below is
taken back: what is immutable there is reclaimed first. What does not come back is counted, and stays out of
use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, LARGE
from protocol.arch.sev.structs import SHARED
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested


def everything(n: Nested, cause: str) -> Step[None]:
    n.drop_shadows()
    yield from legacy_guests(n, cause)
    yield from contexts(n, cause)
    yield from sweep(n, cause)


def legacy_guests(n: Nested, cause: str) -> Step[None]:
    for guest in list(n.platform.guests.values()):
        if guest.asid:
            yield from n.port.command("DEACTIVATE", handle=guest.real)
            n.used(guest.asid)
        status = yield from n.port.command("DECOMMISSION", handle=guest.real)
        assert not status, f"a guest of a dead host does not go: {status:#x}"
        n.book.drop("vm_map")
        n.ledger.count(("teardown", "sev_guest", cause))


def contexts(n: Nested, cause: str) -> Step[None]:
    """The pages stay the firmware's until they are swept."""
    for frame in list(n.platform.contexts):
        status = yield from n.port.command("SNP_DECOMMISSION", gctx=n.frame_below(frame) << PAGE_SHIFT)
        assert not status, f"a guest of a dead host does not go: {status:#x}"
        if n.platform.contexts[frame].asid:
            n.used(n.platform.contexts[frame].asid)
        n.book.drop("vm_map")
        n.ledger.count(("teardown", "gctx", cause))


def sweep(n: Nested, cause: str) -> Step[None]:
    """Take every page back that is assigned below, whatever it is there."""
    for frame in np.flatnonzero(n.real).tolist():
        if not n.real[frame]:
            continue
        flags = n.entry_below(frame)[0]
        count = 512 if flags & LARGE else 1
        if flags & ASSIGNED:
            code = yield from _unassigned(n, frame, flags)
            if code:
                n.quarantine.add(n.frame_below(frame), count, f"code {code:#x}")
            n.ledger.count(("teardown", "page", cause), count)
        n.not_real(frame, count)


def taken_back(n: Nested, frame: int) -> Step[None]:
    """One page, with all of the large one that it lies in. A context that is in use stays what it is."""
    head = n.rmp.head(frame)
    flags = n.entry_below(head)[0]
    if not flags & ASSIGNED or not (yield from _unassigned(n, head, flags)):
        n.not_real(head, 512 if flags & LARGE else 1)


def _unassigned(n: Nested, frame: int, flags: int) -> Step[int]:
    """What is immutable below is reclaimed first. Returns the code of what refused it, else 0."""
    address, large = n.frame_below(frame) << PAGE_SHIFT, bool(flags & LARGE)
    if flags & IMMUTABLE:
        return (yield from n.port.take_back(address, large))
    return (yield from n.port.rmpupdate(address, SHARED._replace(large=large)))
