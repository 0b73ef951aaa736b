"""The TDX module's call table: sections 2.2 to 2.7 of the fact sheet, one row per leaf, out of `leaves`.

The number of a host's leaf is its code; a guest's has GUEST added, because both count from zero. `handle`
is what the leaf names and `handle_at` the register that does; `length` is what is read or written in
memory beside registers. Treatments are the sheet's own proposal for every row: nobody has built this way.
"""

from __future__ import annotations

from protocol.arch.tdx.leaves.guest import GUEST_CALLS
from protocol.arch.tdx.leaves.memory import MEMORY
from protocol.arch.tdx.leaves.migration import MIGRATION
from protocol.arch.tdx.leaves.row import GUEST
from protocol.arch.tdx.leaves.system import INIT
from protocol.arch.tdx.leaves.td import VCPU, VM
from protocol.calls import table

CALLS = table((*INIT, *VM, *VCPU, *MEMORY, *MIGRATION, *GUEST_CALLS))

__all__ = ["CALLS", "GUEST"]
