"""Hold the books against each other: what a level knows of a host, and what the module has.

At depth 0 there is one book of pages, the PAMT, and one of TDs; they are compared with each other: pages
whose owner is no TD, TDs that count other pages than they have, KeyIDs that are nobody's. At depth 1 and
more every emulation has a book of its own, too, in its guest host's addresses, that has to say of each
frame what the machine's PAMT says of the frame that it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from protocol.arch.tdx.linked import LinkedTdx
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.tables import KeyState, Lifecycle, PageType

if TYPE_CHECKING:
    from protocol.arch.tdx.compose import Rig
    from protocol.arch.tdx.nesting import Nested

OWNED = [kind for kind in PageType if kind > PageType.RSVD]
SHOWN = 8  # leaks of one kind that are named; the others are counted by them


class Leak(NamedTuple):
    """Something that one of two books has only."""

    kind: str
    host: int
    id: str


def audit(rig: Rig) -> dict[str, Any]:
    hosts = []
    leaks: list[Leak] = []
    for seat in rig.seats:
        level, tracked = seat.level, {}
        if isinstance(level, Machine):
            te = statistics(level)
            leaks += in_machine(level, seat.number)
        else:
            machine = rig.machines[0]
            memory = held(machine, level)
            te, tracked = part(machine, memory), statistics(level)
            leaks += [] if level.gone else compared(machine, level, memory, seat.number)
        donated = sum(te[kind] for kind in ("tdr", "tdcx", "tdvpr", "ept"))
        hosts.append({"tracked": tracked, "te": te, "donated_pages": donated, "secure_pages": te["reg"]})
    if rig.chain:
        leaks += in_machine(rig.machines[0], 0)
        for level in rig.levels[1:]:
            leaks += compared(rig.machines[0], level, held(rig.machines[0], level), 0)
    for number, gone in rig.haunting:
        leaks += [Leak("quarantine", number, lost.reason) for lost in gone.quarantine]
    return {"hosts": hosts, "leaks": [leak._asdict() for leak in leaks]}


def statistics(level: Machine | Nested) -> dict[str, int]:
    """The pages by type, and the KeyIDs, in a module's own book."""
    return level.platform.pages() | level.platform.key_states()


# -- one module ------------------------------------------------------------------------------------


def in_machine(machine: Machine, host: int) -> list[Leak]:
    """What does not fit inside one module."""
    platform = machine.platform
    found = []
    children = np.flatnonzero(platform.kind > PageType.RSVD)
    children = children[platform.kind[children] != PageType.TDR]
    owners, counts = np.unique(platform.owner[children], return_counts=True)
    pages = dict(zip(owners.tolist(), counts.tolist(), strict=True))
    for frame, td in machine.tds.items():
        if platform.kind_of(frame) != PageType.TDR or pages.pop(frame, 0) != td.children:
            found.append(Leak("td", host, hex(frame << 12)))
    found += [Leak("pages", host, hex(owner << 12)) for owner in pages]
    held = {td.hkid for td in machine.tds.values() if td.lifecycle is not Lifecycle.TEARDOWN}
    for hkid, key in platform.kot.items():
        if (key.state in (KeyState.ASSIGNED, KeyState.FLUSHED)) != (hkid in held):
            found.append(Leak("hkid", host, hex(hkid)))
    return found


# -- a guest host and the machine ------------------------------------------------------------------


class Held(NamedTuple):
    """For each frame of a guest host: where it lies on the machine, and its type in the machine's PAMT."""

    frames: np.ndarray
    kinds: np.ndarray


def held(machine: Machine, nested: Nested) -> Held:
    frames = on_machine(nested, slice(None))
    return Held(frames, machine.platform.kind[frames])


def on_machine(level: Machine | Nested, frames: Any) -> np.ndarray:
    """Where on the machine these frames of a host lie: their numbers, or a slice of them."""
    while not isinstance(level, Machine):
        frames, below = level.slots[frames], level.below.memory
        level = cast(Any, below.memory if isinstance(below, LinkedTdx) else below)
    return cast(np.ndarray, frames)


def part(machine: Machine, memory: Held) -> dict[str, int]:
    """What the machine's module has in a guest host's memory."""
    counts = np.bincount(memory.kinds[memory.kinds > PageType.RSVD], minlength=max(PageType) + 1)
    tds = [machine.tds[frame] for frame in memory.frames[memory.kinds == PageType.TDR].tolist()]
    states = [machine.platform.kot[td.hkid].state for td in tds if td.lifecycle is not Lifecycle.TEARDOWN]
    return {kind.name.lower(): int(counts[kind]) for kind in OWNED} | {
        "hkid_assigned": states.count(KeyState.ASSIGNED),
        "hkid_flushed": states.count(KeyState.FLUSHED),
    }


def compared(machine: Machine, nested: Nested, memory: Held, host: int) -> list[Leak]:
    """Frames, owners, TDs, KeyIDs and lost memory that two books do not agree about."""
    own, theirs = nested.platform, machine.platform
    tracked, real = _owned(own.kind), _owned(memory.kinds)
    differing = np.flatnonzero(tracked != real)
    used = np.flatnonzero(real != 0)
    used = used[(tracked[used] == real[used]) & (real[used] != PageType.TDR)]
    owners = on_machine(nested, own.owner[used].astype(np.int64))
    strangers = used[owners != theirs.owner[memory.frames[used]]]
    found = [Leak("page", host, hex(frame << 12)) for frame in differing[:SHOWN].tolist()]
    found += [Leak("owner", host, hex(frame << 12)) for frame in strangers[:SHOWN].tolist()]
    for frame, td in nested.tds.items():
        below = machine.tds.get(int(memory.frames[frame]))
        if below is None or below.lifecycle is not td.lifecycle:
            found.append(Leak("td", host, hex(frame << 12)))
    found += [Leak("quarantine", host, lost.reason) for lost in nested.quarantine]
    return found


def _owned(kinds: np.ndarray) -> np.ndarray:
    """The types of pages that belong to a TD, 0 for all others."""
    return np.where(kinds > PageType.RSVD, kinds, 0)
