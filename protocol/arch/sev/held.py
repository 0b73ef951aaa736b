"""What commands and entries keep others away from, in words: section 5.4 of the fact sheet.

A command keeps the RMP entries of its pages busy, a VCPU that runs that of its VMSA, and a mailbox has one
command at a time. What a kernel's commands wait for beside that is its own: `host.asids`, `host.turns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from protocol.arch.sev.rmp import Rmp
from protocol.memory.store import PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Held:
    """Of one level. `under_way`: there is a command in its mailbox."""

    rmp: Rmp
    under_way: bool = False

    def held(self) -> Iterator[str]:
        if self.under_way:
            yield "mailbox"
        for frame in sorted(self.rmp.busy):
            yield f"RMP entry of page {frame << PAGE_SHIFT:#x}"
        for frame in sorted(self.rmp.running):
            yield f"VMSA {frame << PAGE_SHIFT:#x}"
