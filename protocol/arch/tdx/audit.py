"""Hold the books against each other: what a level knows of a host, and what the module has.

At depth 0 there is one book of pages, the PAMT, and one of TDs; they are compared with each other: pages
whose owner is no TD, TDs that count other pages than they have, KeyIDs that are nobody's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from protocol.arch.tdx.compose import Rig
from protocol.arch.tdx.machine import Machine
from protocol.arch.tdx.tables import KeyState, Lifecycle, PageType


class Leak(NamedTuple):
    """Something that one of two books has only."""

    kind: str
    host: int
    id: str


def audit(rig: Rig) -> dict[str, Any]:
    hosts = []
    leaks: list[Leak] = []
    for seat in rig.seats:
        te = statistics(seat.level)
        donated = sum(te[kind] for kind in ("tdr", "tdcx", "tdvpr", "ept"))
        hosts.append({"tracked": {}, "te": te, "donated_pages": donated, "secure_pages": te["reg"]})
        leaks += in_machine(seat.level, seat.number)
    return {"hosts": hosts, "leaks": [leak._asdict() for leak in leaks]}


def statistics(machine: Machine) -> dict[str, int]:
    """The module's pages by type, and its KeyIDs."""
    return machine.platform.pages() | machine.platform.key_states()


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
