"""Row 11: the host dumps a guest, and only its owner can read the dump.

Dump Init, each CPU, the memory as the host finds it, the storage state of each MiB, Dump Complete. The guest
is not entered before the dump is complete. A page that is still secure refuses the host's load; Linux then
tries to pin it, which works for shared ones, and else exports it. So most of a dump is exports, and the guest
finds its pages outside when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgpack

from protocol.arch.s390.calls import BY_NAME
from protocol.arch.s390.host import pages as page
from protocol.arch.s390.host.guests import Guest, GuestFailed
from protocol.arch.s390.host.memory import mapped
from protocol.arch.s390.profiles import MIB
from protocol.arch.s390.structs import DUMP_AREA, DUMP_STORAGE, EXECUTED, NODATA, block
from protocol.effects import Fault, Step
from protocol.errors import TeRefused
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from struct import Struct

    from protocol.arch.s390.host.system import Host

Write = Callable[[int, bytes], None]  # a page of the guest, as the host reads it, and its number


@dataclass(frozen=True, slots=True)
class Dump:
    """What the Ultravisor gave. With the pages, it opens by `evidence.dump`."""

    cpus: tuple[bytes, ...]
    storage_state: bytes  # 16 bytes for each page, from address 0 on
    completion: bytes


def pack(made: Dump, pages: Mapping[int, bytes]) -> bytes:
    """A dump with the guest's memory in it, as it travels to the owner."""
    packed: bytes = msgpack.packb((made.completion, made.cpus, made.storage_state, list(pages.items())))
    return packed


def unpack(data: bytes) -> tuple[Dump, dict[int, bytes]]:
    """What `pack` packed. Raises ValueError for bytes that are none."""
    try:
        completion, cpus, state, pages = msgpack.unpackb(data)
        made, memory = Dump(tuple(cpus), state, completion), dict(pages)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no dump: {error}") from None
    parts = (completion, state, *made.cpus, *memory.values())
    if any(type(part) is not bytes for part in parts) or any(type(page) is not int for page in memory):
        raise ValueError("no dump: a part of it is no bytes, or the number of a page is no number")
    return made, memory


def dump(host: Host, guest: Guest, write: Write = lambda _page, _data: None) -> Step[Dump]:
    """Dump the guest; each page that the host has goes to `write`.

    Raises TeRefused (rc 0x0103 of Dump Init: the owner's image does not allow it), OutOfFrames.
    """
    up = host.up
    area = host.home.allocate(max(up.cpu_len, up.dump_storage_len, up.dump_finalize_len) // PAGE)
    try:
        yield from host.must(host.cpu_of(guest), "dump_init", NODATA, guest.handle)
        cpus = []
        for vcpu in guest.vcpus:
            filled = _filled(host, guest, area, up.cpu_len, "dump_cpu", DUMP_AREA, vcpu.handle, area)
            cpus.append((yield from filled))
        yield from _read_memory(host, guest, write)
        state = bytearray()
        for at in range(0, guest.size, MIB):
            which = ("dump_storage_state", DUMP_STORAGE, guest.handle, area, at)
            state += yield from _filled(host, guest, area, up.dump_storage_len, *which)
        last = ("dump_complete", DUMP_AREA, guest.handle, area)
        end = yield from _filled(host, guest, area, up.dump_finalize_len, *last)
    finally:
        host.home.release(area)
    return Dump(tuple(cpus), bytes(state), end)


def _filled(
    host: Host, guest: Guest, area: int, length: int, name: str, layout: Struct, *values: int
) -> Step[bytes]:
    """What a call put into the area, which is contiguous in the home space only. Raises TeRefused."""
    spec = BY_NAME[name]
    request = block(spec.length, spec.code, layout, *values)
    outcome = yield from host.in_home_space(host.cpu_of(guest), request)
    if outcome.rc != EXECUTED:
        raise TeRefused(name, outcome.rc, outcome.rrc)
    frames = host.home.frames(area)[: length // PAGE]
    return b"".join(host.load(frame << PAGE_SHIFT, PAGE) for frame in frames.tolist())


def _read_memory(host: Host, guest: Guest, write: Write) -> Step[None]:
    """Every page that the guest has; what was swapped out comes back for it."""
    for number in sorted(guest.swapped or ()):
        page.fault_in(host, guest, number)
    numbers, frames = mapped(host.level, guest.table)
    for number, frame in zip(numbers.tolist(), frames.tolist(), strict=True):
        data = host.level.read(frame << PAGE_SHIFT, PAGE)
        if isinstance(data, Fault):
            if not (yield from page.make_accessible(host, guest, frame)):
                raise GuestFailed(f"page {number:#x} of guest {guest.number} cannot be exported")
            data = host.load(frame << PAGE_SHIFT, PAGE)
        write(number, data)
