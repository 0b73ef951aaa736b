"""Rows 4, 8 and 9: CPU states, start, and the two resets that a secure guest may ask for (diag 308)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.host.guests import LOAD, OPERATING, STOPPED, Guest, Vcpu
from protocol.arch.s390.structs import NODATA, SET_STATE
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

MODIFIED_CLEAR, LOAD_NORMAL = 0, 1  # subcodes


def set_state(host: Host, guest: Guest, vcpu: Vcpu, state: int) -> Step[None]:
    """CPU Set State, only where it changes something, as Linux does. Raises TeRefused."""
    becomes = OPERATING if state == LOAD else state
    if vcpu.state == becomes and state != LOAD:
        return
    yield from host.must(host.cpu_of(guest, vcpu.number), "cpu_set_state", SET_STATE, vcpu.handle, state)
    vcpu.state = becomes


def start(host: Host, guest: Guest) -> Step[None]:
    """The first CPU, with its PSW loaded. The guest starts the others."""
    yield from set_state(host, guest, guest.vcpus[0], LOAD)


def reset(host: Host, guest: Guest, subcode: int) -> Step[None]:
    """The whole chain, or the guest cannot run again. Raises TeRefused.

    The CPU that asked is not told apart from the IPL CPU: in Linux guests it is CPU 0 that asks.
    """
    first, others = guest.vcpus[0], guest.vcpus[1:]
    for vcpu in guest.vcpus:
        yield from set_state(host, guest, vcpu, STOPPED)
    cpu = host.cpu_of(guest)
    yield from host.must(cpu, "unshare_all", NODATA, guest.handle)
    guest.pinned = None
    yield from host.must(cpu, "prepare_reset", NODATA, guest.handle)
    if subcode == MODIFIED_CLEAR:
        for vcpu in guest.vcpus:
            yield from _reset_cpu(host, guest, vcpu, "cpu_reset_clear")
    else:
        for vcpu in others:
            yield from _reset_cpu(host, guest, vcpu, "cpu_reset")
        yield from _reset_cpu(host, guest, first, "cpu_reset_initial")
    yield from set_state(host, guest, first, LOAD)


def _reset_cpu(host: Host, guest: Guest, vcpu: Vcpu, name: str) -> Step[None]:
    yield from host.must(host.cpu_of(guest, vcpu.number), name, NODATA, vcpu.handle)
    vcpu.waiting = False
    if name != "cpu_reset":
        vcpu.prefix = 0
