"""A level: one Trusted Entity, and the processor below it, as a host meets them.

The machine implements a level on memory. An emulation implements the same interface for a guest host on the
level below. Depth is composition: machine, nested over machine, nested over that.

All four parts recurse: `call` (the ABI), `enter` (run a guest VCPU until it exits), `read` and `write` (every
access of the host to its memory), and what comes back up: exits, faults, notices.
"""

from __future__ import annotations

from typing import Protocol

from protocol.effects import Fault


class HostMemory(Protocol):
    """A host's memory as its CPUs reach it. Addresses are host-physical; a refused access is a value."""

    size: int  # bytes; what lies behind is not there

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        """Store `data`; `stores` says by how many stores the host does it (each may trap)."""
        ...
