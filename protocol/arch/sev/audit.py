"""Hold the books of every level against those of the level below: what one knows and the other does not.

Two independent books are compared at each step of the chain: what an emulation tracked from the commands of
its guest host, and what the level below it holds. Whose a frame is is known by the slots. At depth 0 there
is one book.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.arch.sev.machine import Machine
from protocol.arch.sev.rmp import ASSIGNED
from protocol.nesting.composition import Rig

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested


def audit(rig: Rig[Any]) -> dict[str, Any]:
    """What the hosts have, as their levels tracked it and as the machine knows it, and what does not fit."""
    if not rig.depth:
        return {"hosts": [{"tracked": {}, **machine.statistics()} for machine in rig.machines], "leaks": []}
    hosts = [{"tracked": seat.level.tracked(), **_truth(rig, seat.number)} for seat in rig.seats]
    return {"hosts": hosts, "leaks": list(leaks(rig))}


def _truth(rig: Rig[Any], seat: int) -> dict[str, Any]:
    """What the machine has in the frames and in the share of ASIDs of the host on `seat`."""
    machine, level = rig.machines[0], rig.seats[seat].level
    frames = np.array(level.slots)
    asids = {level.real_asid(asid) for asid in range(1, level.profile.asids + 1)}
    for below in reversed(rig.levels):
        if not isinstance(below, Machine):
            asids = {below.real_asid(asid) for asid in asids}
            frames = below.slots[frames]
    assigned = machine.rmp.flags[frames] & ASSIGNED != 0
    secure = machine.rmp.asid[frames] != 0
    guests = {guest.asid for guest in machine.platform.guests.values()}
    held = {
        "sev_guests": sum(asid in asids for asid in guests if asid),
        "gctx": len(_among(machine.platform.contexts, frames)),
        "asids": sum(machine.platform.asids.is_bound(asid) for asid in asids),
        "assigned_pages": int(np.count_nonzero(assigned)),
    }
    return {
        "te": held,
        "donated_pages": int(np.count_nonzero(assigned & ~secure)),
        "secure_pages": int(np.count_nonzero(secure)),
    }


def leaks(rig: Rig[Any]) -> Iterator[dict[str, Any]]:
    """Everything that stands in one of two books only, from the machine up."""
    for number, below in enumerate(rig.levels):
        last = number == rig.depth - 1
        above: list[Any] = [seat.level for seat in rig.seats] if last else [rig.levels[number + 1]]
        known: set[int] = set()
        for host, nested in enumerate(above):
            yield from _pages(below, nested, host if last else 0)
            yield from _asids(below, nested, host if last else 0)
            known |= {guest.real for guest in nested.platform.guests.values()}
        held = set(below.platform.guests)
        for handle in sorted(known ^ held):
            yield {"kind": "sev_guest", "host": 0, "id": hex(handle)}


def _pages(below: Any, nested: Nested, host: int) -> Iterator[dict[str, Any]]:
    """Pages that are assigned below in the frames of a guest host are those that it is said to have."""
    flags = np.zeros(below.size >> 12, np.uint8)
    flags[: len(below.rmp.flags)] = below.rmp.flags
    held = flags[nested.slots] & ASSIGNED != 0
    for frame in np.flatnonzero(held != nested.real).tolist():
        yield {"kind": "page", "host": host, "id": hex(frame << 12)}
    contexts = {nested.frame_below(frame) for frame in nested.platform.contexts}
    for frame in sorted(contexts ^ _among(below.platform.contexts, nested.slots)):
        yield {"kind": "gctx", "host": host, "id": hex(frame << 12)}


def _among(few: Iterable[int], frames: np.ndarray) -> set[int]:
    """Those of `few` that are among the many `frames` of a host."""
    listed = np.array(sorted(few), np.int64)
    return set(listed[np.isin(listed, frames)].tolist())


def _asids(below: Any, nested: Nested, host: int) -> Iterator[dict[str, Any]]:
    for asid in range(1, nested.profile.asids + 1):
        mine, real = nested.platform.asids.is_bound(asid), nested.real_asid(asid)
        if mine is not below.platform.asids.is_bound(real):
            yield {"kind": "asid", "host": host, "id": hex(asid)}
