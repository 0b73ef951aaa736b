"""Hold the books against each other: what a host's KVM knows, and what the ultravisor has.

At depth 0 these are the two books. They differ while a reflection is open and wherever somebody at the
keyboard goes behind KVM's back; what cannot be right is named as a leak: an SVM under an LPID that KVM has no
VM for, a unit that no slot holds, a slot's frame that is somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from protocol.arch.pef.compose import Rig
from protocol.arch.pef.kvm import Kvm
from protocol.arch.pef.machine import Machine


class Leak(NamedTuple):
    """Something that one of two books has only."""

    kind: str
    host: int
    id: str


def audit(rig: Rig, kvms: Sequence[Kvm]) -> dict[str, Any]:
    hosts = []
    found: list[Leak] = []
    for seat, kvm in zip(rig.seats, kvms, strict=True):
        machine = seat.level
        hosts.append(
            {
                "tracked": kvm.tracked(),
                "te": machine.statistics(),
                "donated_pages": 0,
                "secure_pages": machine.secure_pages(),
            }
        )
        found += in_machine(machine, seat.number)
        found += [Leak("svm", seat.number, hex(lpid)) for lpid in machine.svms if lpid not in kvm.vms]
    return {"hosts": hosts, "leaks": [leak._asdict() for leak in found]}


def in_machine(machine: Machine, host: int) -> list[Leak]:
    """What does not fit inside one ultravisor."""
    found = []
    secure = machine.secure
    held = [unit for svm in machine.svms.values() for slot in svm.slots.values() for unit in slot.units]
    if len(held) + secure.free_units != secure.units or len(set(held)) != len(held):
        found.append(Leak("units", host, hex(len(held))))
    for svm in machine.svms.values():
        for slot in svm.slots.values():
            if (secure.owner[slot.frames] != svm.lpid).any():
                found.append(Leak("slot", host, f"{svm.lpid:#x}:{slot.number}"))
    return found
