"""Row 2: a guest enters secure mode: Create Configuration, then Create CPU for each VCPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.host.destroy import abandon
from protocol.arch.s390.host.guests import NOTHING, SCA_FRAMES, Guest, Vcpu
from protocol.arch.s390.profiles import MIB
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_OUT,
    NODATA,
    SECURE,
    SIE_CONFIG_HANDLE,
    SIE_CPU_HANDLE,
    SIE_SDF,
    SIE_SIDA,
    U64,
    CreateConfig,
    CreateCpu,
    Outcome,
)
from protocol.arch.s390.tables import GuestTable
from protocol.effects import Step
from protocol.errors import TeRefused
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

NEED_DESTROY = 0x8000
ZERO_PAGE = bytes(PAGE)


def create(host: Host, number: int, memory_mib: int, vcpus: int) -> Step[Guest]:
    """A secure guest with an empty table. Raises TeRefused or OutOfFrames, everything undone."""
    query = host.up
    if number in host.guests:
        raise ValueError(f"the host at level {host.depth} has a guest {number} already")
    guest = Guest(number, memory_mib * MIB, GuestTable(host.level, host.tables))
    try:
        guest.base = host.pool.take_run(query.conf_base_len >> PAGE_SHIFT)
        guest.variable = host.home.allocate(_variable_pages(host, guest.size))
        guest.sca = host.pool.take_run(SCA_FRAMES)
        yield from _configuration(host, guest)
        for each in range(vcpus):
            yield from _add_vcpu(host, guest, each)
    except (TeRefused, OutOfFrames):
        yield from abandon(host, guest)
        raise
    host.guests[number] = guest
    return guest


def _variable_pages(host: Host, size: int) -> int:
    """Linux rounds the sum up to pages."""
    query = host.up
    length = query.conf_virtual_len + query.conf_variable_len * -(-size // MIB)
    return -(-length // PAGE)


def _configuration(host: Host, guest: Guest) -> Step[None]:
    fields = CreateConfig(
        base=guest.base << PAGE_SHIFT,
        variable=guest.variable,
        flags=0,
        mso=0,
        length=guest.size,
        sca=guest.sca << PAGE_SHIFT,
        asce=guest.table.asce,
    )
    cpu = host.cpu_of(guest)
    outcome = yield from host.in_home_space(cpu, fields.pack(), out=HANDLE_OUT + 8)
    if outcome.rc == EXECUTED:
        guest.handle = _handle(outcome)
        return
    # Half built: it has a handle all the same, and the sheet orders its end. No level here leaves one so.
    if outcome.rc & NEED_DESTROY:  # pragma: no cover - firmware may answer it, nothing here does
        yield from host.must(cpu, "destroy_config", NODATA, _handle(outcome))
    raise TeRefused("create_config", outcome.rc, outcome.rrc)


def _add_vcpu(host: Host, guest: Guest, number: int) -> Step[None]:
    """The handles are written into the SIE block only after the call."""
    frames = host.up.cpu_len >> PAGE_SHIFT
    vcpu = Vcpu(number, host.pool.take_run(frames), NOTHING, NOTHING)
    guest.vcpus.append(vcpu)
    vcpu.sie, vcpu.sida = (frame << PAGE_SHIFT for frame in host.pool.take_singles(2))
    host.store(vcpu.sie, ZERO_PAGE)
    host.store(vcpu.sida, ZERO_PAGE)
    fields = CreateCpu(guest.handle, vcpu.storage << PAGE_SHIFT, number, vcpu.sie)
    outcome = yield from host.issue(host.cpu_of(guest), fields.pack(), out=HANDLE_OUT + 8)
    if outcome.rc != EXECUTED:
        raise TeRefused("create_cpu", outcome.rc, outcome.rrc)
    vcpu.handle = _handle(outcome)
    host.keep("native_vcpu", 1)
    host.store(vcpu.sie + SIE_CPU_HANDLE, U64.pack(vcpu.handle))
    host.store(vcpu.sie + SIE_CONFIG_HANDLE, U64.pack(guest.handle))
    host.store(vcpu.sie + SIE_SDF, bytes((SECURE,)))
    host.store(vcpu.sie + SIE_SIDA, U64.pack(vcpu.sida))


def _handle(outcome: Outcome) -> int:
    """From the bytes behind the header."""
    handle: int = U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0]
    return handle
