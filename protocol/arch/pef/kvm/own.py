"""What a KVM may use for VMs of its own, where guest hosts run beside them."""

from __future__ import annotations

from typing import NamedTuple


class Own(NamedTuple):
    """Addresses of the host's memory in whole pages, and LPIDs: nobody else is given any of them."""

    memory: range
    lpids: range


NOTHING = Own(range(0), range(0))
