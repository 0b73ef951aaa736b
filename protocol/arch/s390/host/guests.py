"""What a host keeps of a secure guest. A guest that does nothing is this and no more: no task, no program.

What is mapped where stands in the guest's table, in the host's own memory; what the guest's registers hold,
the Ultravisor knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.s390.tables import GuestTable
from protocol.errors import OperationFailed
from protocol.memory.store import PAGE_SHIFT

STOPPED, OPERATING, LOAD = 2, 1, 5  # operands of CPU Set State
NOTHING = -1
SCA_FRAMES = 4  # an extended SCA


class GuestFailed(OperationFailed):
    """The guest cannot go on: Linux sends SIGSEGV to its VMM, or the VMM gives up.

    It can still be destroyed.
    """


@dataclass(slots=True)
class Vcpu:
    """One secure CPU. `storage` is the first frame of what was donated; `sie` and `sida` are addresses."""

    number: int
    storage: int
    sie: int
    sida: int
    handle: int = 0
    state: int = STOPPED
    prefix: int = 0
    waiting: bool = False  # left SIE in an enabled wait: an interruption goes with its next entry


@dataclass(slots=True)
class Guest:
    """One secure guest. Frames and addresses are the host's own; NOTHING stands for what it does not hold."""

    number: int
    size: int  # bytes
    table: GuestTable
    handle: int = 0
    base: int = NOTHING  # first frame
    variable: int = NOTHING  # address in the host's home space
    sca: int = NOTHING  # first frame
    vcpus: list[Vcpu] = field(default_factory=list)
    swapped: dict[int, bytes] | None = None  # page -> what was written out
    pinned: set[int] | None = None  # pages that the host has pinned for I/O

    @property
    def pages(self) -> int:
        return self.size >> PAGE_SHIFT
