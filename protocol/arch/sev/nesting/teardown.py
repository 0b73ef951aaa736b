"""Everything of a guest host ends without its help: a sudden reboot or death. Section 7.2 of the fact sheet.

Legacy guests are deactivated and forgotten, SNP guests decommissioned, every page that is assigned below is
taken back: what is immutable there is reclaimed first. What does not come back is counted, and stays out of
use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, LARGE
from protocol.arch.sev.structs import PAGE, SHARED
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
        address = n.frame_below(frame) << PAGE_SHIFT
        flags = n.entry_below(frame)[0]
        count = 512 if flags & LARGE else 1
        if flags & ASSIGNED:
            large = bool(flags & LARGE)
            if flags & IMMUTABLE:
                code = yield from n.port.take_back(address, large)
            else:
                code = yield from n.port.rmpupdate(address, SHARED._replace(large=large))
            if code:
                n.quarantine.add(address // PAGE, count, f"code {code:#x}")
            n.ledger.count(("teardown", "page", cause), count)
        n.not_real(frame, count)
