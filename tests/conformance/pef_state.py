"""Everything that levels and kernels of a POWER console keep, as one number: has a call changed anything?

Left out is what any request changes: registers of CPUs and vcpus, random numbers, counts, and the value of
the cookie that an open reflection has (that it is open counts).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from protocol.arch.pef.nesting import Nested
from protocol.memory.store import PAGE_SHIFT as SMALL_SHIFT

PIECE = 1 << 20


def state(console: Any) -> int:
    """Of every machine, emulation and KVM of a console in this process."""
    found = 0
    rig = console._rig
    levels = (*rig.levels, *(seat.level for seat in rig.seats))
    for machine in rig.machines:
        for part in _machine(machine):
            found = zlib.crc32(part, found)
    for level in levels:
        if isinstance(level, Nested):
            found = zlib.crc32(_emulation(level), found)
    for host in console.hosts:
        for part in _kvm(host.kvm):
            found = zlib.crc32(part, found)
    return found


def _said(*facts: Any) -> bytes:
    return repr(facts).encode()


def _machine(machine: Any) -> Iterator[bytes]:
    yield _said(machine.stopped, machine.debug._values)
    yield machine._table.tobytes()
    for lpid, svm in sorted(machine.svms.items()):
        slots = [(s.number, s.first, s.frames.tolist(), s.units) for s in svm.slots.values()]
        readers = {name: (reader.pid, reader.offset) for name, reader in svm.readers.items()}
        its = (svm.key is None, svm.shared, sorted(svm.paged_in), svm.files, readers, svm.starting)
        yield _said(lpid, svm.state, slots, len(svm.open), *its)
    secure = machine.secure
    for column in (secure.owner, secure.gfn, secure.state, secure.normal, secure.iv, secure.tag):
        yield column.tobytes()
    for frame in np.flatnonzero(secure.owner).tolist():
        yield secure.read(frame, 0, 1 << 16)
    for frame in np.flatnonzero(machine.storage._filled).tolist():
        yield machine.storage.read(frame << SMALL_SHIFT, 1 << SMALL_SHIFT)


def _emulation(level: Nested) -> bytes:
    records = [
        (
            *(lpid, record.shadow, record.entry, record.svm, record.secure, record.slots, record.ranges),
            *(len(record.open), sorted(record.mapped.items()), sorted(record.bound.items())),
            *(sorted(record.shared), sorted(record.lost)),
        )
        for lpid, record in sorted(level.records.items())
    ]
    return _said(level.stopped, level.debug._values, records, level._pinned, level.reserving)


def _kvm(kvm: Any) -> Iterator[bytes]:
    yield _said(sorted(kvm.devices), sorted(kvm.shadows))
    yield kvm.frames.use.tobytes()
    for lpid, vm in sorted(kvm.vms.items()):
        yield _said(lpid, vm.radix, vm.flags, vm.svm_enabled, vm.nested_enabled, sorted(vm.vcpus))
        for slot in vm.in_order():
            yield _said(slot.number, slot.first)
            yield slot.words.tobytes()
            yield slot.frames.tobytes()
