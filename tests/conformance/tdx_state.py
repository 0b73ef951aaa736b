"""Everything that the TDX module of a machine keeps, as one number: has a call changed anything?

Left out are registers and counts, which any call changes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

PAGE_SHIFT = 12


def state(machine: Any) -> int:
    """Of the module, of all TDs, and of all memory that was ever written."""
    found = 0
    for part in (*_module(machine.platform), *_tds(machine), *_memory(machine)):
        found = zlib.crc32(part, found)
    return found


def _said(*facts: Any) -> bytes:
    return repr(facts).encode()


def _module(platform: Any) -> Iterator[bytes]:
    yield _said(platform.state, sorted(platform.lps), platform.tdmrs, platform.global_hkid, platform.packages)
    yield _said(
        platform.kot, platform.caches, platform.locks.held(), platform.in_seam, platform.handoff_valid
    )
    yield _said(sorted(platform._covered))
    for column in (platform.kind, platform.size, platform.owner, platform.bepoch):
        yield column.tobytes()


def _tds(machine: Any) -> Iterator[bytes]:
    for frame, td in sorted(machine.tds.items()):
        plain = [
            (each.name, getattr(td, each.name))
            for each in fields(td)
            if each.name not in ("vcpus", "hashing", "sept")
        ]
        measured = None if td.hashing is None else td.hashing.copy().hexdigest()
        yield _said(frame, plain, measured, [vcpu.frame for vcpu in td.vcpus])
        for number, table in sorted(td.sept.tables.items()) if td.sept is not None else ():
            yield _said(number)
            yield table.tobytes()
    for frame, vcpu in sorted(machine.vcpus.items()):
        yield _said(
            frame, [(each.name, getattr(vcpu, each.name)) for each in fields(vcpu) if each.name != "td"]
        )


def _memory(machine: Any) -> Iterator[bytes]:
    yield machine.owned.tobytes()
    yield machine.poison.tobytes()
    storage = machine.storage
    for frame in np.flatnonzero(storage._vaulted).tolist():
        yield storage.vault_read(frame, 0, 1 << PAGE_SHIFT)
    for frame in np.flatnonzero(storage._filled).tolist():
        yield storage.read(frame << PAGE_SHIFT, 1 << PAGE_SHIFT)
