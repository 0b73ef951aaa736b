"""Row 1: the host finds out what the Ultravisor can do and initialises it; row 15: it goes down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.profiles import MIB
from protocol.arch.s390.structs import EXECUTED, INIT, MORE_DATA, QUI_LENGTH, Query, header
from protocol.effects import Step
from protocol.errors import TeRefused

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host


def boot(host: Host) -> Step[None]:
    """The decompressor asks, one CPU initialises, then the others come up.

    Where the kernel is up already (it is the hypervisor's, too), it only has to ask. Raises TeRefused: Linux
    then goes on without secure guests.
    """
    if host.query is not None:
        raise ValueError(f"the host at level {host.depth} has booted already")
    first = host.cpus[0]
    outcome = yield from host.issue(first, header(QUI_LENGTH, BY_NAME["query"].code), out=QUI_LENGTH)
    if outcome.rc not in (EXECUTED, MORE_DATA):
        raise TeRefused("query", outcome.rc, outcome.rrc)
    query = Query.unpack(bytes(8) + outcome.out[0][1])
    base = (host.level.size - query.base_len) // MIB * MIB
    if not host.shares_its_kernel:
        first.running = True
        for cpu in host.cpus[1:]:
            cpu.running = False
        yield from host.must(first, "init", INIT, base, query.base_len)
        for cpu in host.cpus:
            cpu.running = True
    host.furnish(query, base)


def shut_down(host: Host) -> Step[None]:
    """No call: the reset that follows clears all (5.1). A kernel that stays up gets its frames back."""
    if host.guests:
        raise ValueError(f"guests {sorted(host.guests)} are still there")
    if host.shares_its_kernel:
        host.clear_out()
    yield from ()
