"""Hold the books of every level against those of the level below: what one knows and the other does not.

Two independent books are compared at each step of the chain: what an emulation tracked from the calls of
its guest host and the replies to its own, and what the level below it holds. Which host an entity of the
machine belongs to is known by the CPU on which it was created, and whose a frame is by the slots: neither
is a book of secure entities. At depth 0 there is one book, so nothing can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.entities import PageState, counted
from protocol.calls import Donation
from protocol.nesting.composition import Rig
from protocol.nesting.guest_host import DONATED

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

NOWHERE = np.uint8(255)  # no PageState: of a frame that is not mapped


class Leak(NamedTuple):
    """Something that one of two books has only. `host` is the host at the top, 0 if none is known."""

    kind: str
    host: int
    id: str


def audit(rig: Rig[Any]) -> dict[str, Any]:
    """What the hosts have, as their levels tracked it and as the machine knows it, and what does not
    fit."""
    if not rig.depth:
        return {"hosts": [{"tracked": {}, **machine.statistics()} for machine in rig.machines], "leaks": []}
    hosts = [{"tracked": seat.level.tracked(), **_truth(rig, seat.number, seat.level)} for seat in rig.seats]
    return {"hosts": hosts, "leaks": [leak._asdict() for leak in leaks(rig)]}


def leaks(rig: Rig[Any]) -> list[Leak]:
    """Everything that stands in one of two books only, from the machine up."""
    found: list[Leak] = []
    for number, level in enumerate(rig.levels):
        found += _between(level, guests_of(rig, number))
    return found


def guests_of(rig: Rig[Any], number: int) -> Mapping[int, Nested]:
    """The living guest hosts of L(number), by the number of the host at the top that each carries."""
    if number + 1 < rig.depth:
        level = rig.levels[number + 1]
        return {} if level.dead else {0: level}
    return {seat.number: seat.level for seat in rig.seats if not seat.level.dead}


# -- what the machine knows of one host --------------------------------------------------------


def _truth(rig: Rig[Any], number: int, host: Nested) -> dict[str, Any]:
    machine = rig.machines[0]
    width = len(host.cpus) + 1
    configs = [config for config in machine.configs.values() if config.issued_on // width == number]
    pages = counted(states_of(rig, host))
    pinned = int(pages[PageState.PINNED])
    return {
        "te": {
            "configs": len(configs),
            "cpus": sum(len(config.cpus) for config in configs),
            "pins": pinned,
            "shared_pages": int(pages[PageState.SHARED]) + pinned,
        },
        "donated_pages": int(np.count_nonzero(host.attention & DONATED)),
        "secure_pages": int(pages[PageState.SECURE]),
    }


def states_of(rig: Rig[Any], host: Nested) -> np.ndarray:
    """The machine's state of each frame in which the memory of a host lies; NOWHERE where it has none.

    States go up the chain, and not frame numbers down: a byte for each frame stays in the CPU's caches.
    """
    states: np.ndarray = rig.machines[0].state
    for level in (*rig.levels[: host.level], host):
        if not isinstance(level, Machine):
            states = np.append(states, NOWHERE)[level.slots]  # ABSENT is the last one
    return states


# -- one step of the chain ---------------------------------------------------------------------


def _between(below: Machine | Nested, guests: Mapping[int, Nested]) -> Iterator[Leak]:
    tracked: dict[str, dict[int, int]] = {
        kind: {} for kind in ("configs", "cpus", "pages", "pins", "donated")
    }
    for which, guest in guests.items():
        for kind, ids in _tracked(guest).items():
            tracked[kind].update(dict.fromkeys(ids, which))
        for lost in guest.quarantine:
            yield Leak("quarantined", which, hex(lost.first))
    for kind, held in _held(below).items():
        mine = tracked[kind]
        for each in sorted(held ^ mine.keys()):
            yield Leak(kind, mine.get(each, 0), hex(each))


def _tracked(guest: Nested) -> dict[str, Iterable[int]]:
    """What an emulation believes to have below, in the numbers of the level below."""
    pages = [frame for frame in np.flatnonzero(guest.page_owner != 0).tolist() if frame not in guest.away]
    blocks = [
        *(block for config in guest.configs.values() for block in config.donated),
        *(secure.donated for secure in guest.secure_cpus.values()),
    ]
    return {
        "configs": [config.real for config in guest.configs.values()],
        "cpus": [secure.real for secure in guest.secure_cpus.values()],
        "pages": guest.slots[[*pages, *guest.leftovers]].tolist() + guest.detached,
        "pins": guest.slots[list(guest.pins)].tolist(),
        "donated": [frame for first, pages in blocks for frame in range(first, first + pages)],
    }


def _held(level: Machine | Nested) -> dict[str, set[int]]:
    """What a level holds for its host, in that host's numbers."""
    held = {"configs": set(level.configs), "cpus": set(level.secure_cpus)}
    if isinstance(level, Machine):
        state = level.state
        secure = (state != PageState.NORMAL) & (state != PageState.DONATED)
        held["pages"] = set(np.flatnonzero(secure).tolist())
        held["pins"] = set(np.flatnonzero(state == PageState.PINNED).tolist())
        held["donated"] = set(np.flatnonzero(state == PageState.DONATED).tolist())
    else:
        held["pages"] = set(np.flatnonzero(level.page_owner != 0).tolist())
        held["pins"] = set(level.pins)
        if level.donation is Donation.NONE:
            return held
        held["donated"] = set(np.flatnonzero(level.attention & DONATED).tolist())
    held["donated"] -= set(level.base)  # the host's own, from its Init
    return held
