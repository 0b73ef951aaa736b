"""Hold the books against each other: what each level knows, and what the ultravisor has.

A host's KVM has words of its GFNs, each emulation its records, the ultravisor its objects. KVM's words differ
from the truth while a reflection is open and wherever somebody at the keyboard goes behind KVM's back; what
cannot be right is named as a leak: an SVM that nobody has a VM for, units that no slot holds, records of an
emulation that are not the ultravisor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from protocol.arch.pef.kvm import Kvm
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import Record
from protocol.arch.pef.tables import Page

if TYPE_CHECKING:
    from protocol.arch.pef.compose import Rig


class Leak(NamedTuple):
    """Something that one of two books has only."""

    kind: str
    host: int
    id: str


def audit(rig: Rig, kvms: Sequence[Kvm]) -> dict[str, Any]:
    hosts = []
    found: list[Leak] = []
    known: set[int] = set()
    for seat, kvm in zip(rig.seats, kvms, strict=True):
        machine = seat.level if isinstance(seat.level, Machine) else rig.machines[0]
        mine = _of_host(rig, seat.level)
        truth = statistics(mine.values())
        hosts.append(
            {
                "tracked": kvm.tracked(),
                "te": truth,
                "donated_pages": 0,
                "secure_pages": _secure_pages(machine, mine.values()),
            }
        )
        found += [
            Leak("svm", seat.number, hex(lpid))
            for lpid in mine
            if lpid not in kvm.vms and lpid not in kvm.shadows
        ]
        if isinstance(seat.level, Nested):
            found += in_level(seat.level, seat.number, truth)
        else:
            found += in_machine(machine, seat.number)
        known |= {id(svm) for svm in mine.values()}
    for machine in rig.machines[: 1 if rig.depth else 0]:
        found += in_machine(machine, 0)
        strange = [lpid for lpid, svm in machine.svms.items() if not _somebodys(rig, lpid, svm, known)]
        found += [Leak("svm", 0, f"shadow {lpid:#x}") for lpid in strange]
    return {"hosts": hosts, "leaks": [leak._asdict() for leak in found]}


def leaks(rig: Rig) -> list[Leak]:
    """The same without the hosts' own books."""
    found: list[Leak] = []
    known: set[int] = set()
    for seat in rig.seats:
        if isinstance(seat.level, Nested) and not seat.level.dead:
            mine = _of_host(rig, seat.level)
            found += in_level(seat.level, seat.number, statistics(mine.values()))
            known |= {id(svm) for svm in mine.values()}
        if isinstance(seat.level, Nested) and seat.level.lpids.given != seat.level.lpids_held:
            given, held = seat.level.lpids.given, seat.level.lpids_held
            found.append(Leak("lpid", seat.number, f"{given} given, {held} tracked"))
    for machine in rig.machines:
        found += in_machine(machine, 0)
        strange = [
            lpid for lpid, svm in machine.svms.items() if rig.depth and not _somebodys(rig, lpid, svm, known)
        ]
        found += [Leak("svm", 0, f"shadow {lpid:#x}") for lpid in strange]
    return found


def _somebodys(rig: Rig, lpid: int, svm: Svm, known: set[int]) -> bool:
    """Is it of a guest host that is `known`, or L0's own?"""
    return id(svm) in known or lpid in rig.own.lpids


def _of_host(rig: Rig, level: Machine | Nested) -> dict[int, Svm]:
    """The SVMs of one host by its own LPIDs, found by going down from record to record."""
    if isinstance(level, Machine):
        return dict(level.svms)
    found = {}
    for lpid, record in level.records.items():
        at = record.shadow
        for lower in reversed(rig.levels[1:]):
            assert isinstance(lower, Nested)
            if at not in lower.records:
                break
            at = lower.records[at].shadow
        else:
            svm = rig.machines[0].svms.get(at)
            if svm is not None:
                found[lpid] = svm
    return found


def statistics(svms: Iterable[Svm]) -> dict[str, int]:
    """What the ultravisor has, in the console's words."""
    svms = list(svms)
    slots = [slot for svm in svms for slot in svm.slots.values()]
    return {
        "svms": len(svms),
        "slots": len(slots),
        "units": sum(len(slot.units) for slot in slots),
        "open_reflections": sum(len(svm.open) for svm in svms),
    }


def _secure_pages(machine: Machine, svms: Iterable[Svm]) -> int:
    """GFNs that are secure and resident."""
    state = machine.secure.state
    return sum(
        int(np.count_nonzero(state[slot.frames] == Page.SECURE))
        for svm in svms
        for slot in svm.slots.values()
    )


def in_level(level: Nested, host: int, truth: dict[str, int]) -> list[Leak]:
    """What does not fit between one emulation and the ultravisor, and inside it."""
    return _differences(host, level.tracked(), truth) + _cookies(host, level.open, level.records.values())


def _cookies(host: int, known: Sized, owners: Iterable[Svm | Record]) -> list[Leak]:
    """Each open reflection is found by its cookie, and no cookie is known of any other."""
    there = sum(len(owner.open) for owner in owners)
    return [] if len(known) == there else [Leak("cookie", host, f"{len(known)} known, {there} open")]


def _differences(host: int, tracked: dict[str, int], truth: dict[str, int]) -> list[Leak]:
    """What an emulation's records and the ultravisor disagree about."""
    return [
        Leak(kind, host, f"{tracked[kind]} tracked, {truth[kind]} there")
        for kind in truth
        if tracked[kind] != truth[kind]
    ]


def in_machine(machine: Machine, host: int) -> list[Leak]:
    """What does not fit inside one ultravisor."""
    found = []
    secure = machine.secure
    held = [unit for svm in machine.svms.values() for slot in svm.slots.values() for unit in slot.units]
    if len(held) + secure.free_units != secure.units or len(set(held)) != len(held):
        found.append(Leak("units", host, hex(len(held))))
    found += _cookies(host, machine.reflected, machine.svms.values())
    for svm in machine.svms.values():
        for slot in svm.slots.values():
            if (secure.owner[slot.frames] != svm.lpid).any():
                found.append(Leak("slot", host, f"{svm.lpid:#x}:{slot.number}"))
    return found
