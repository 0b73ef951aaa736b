"""Rows 5 and 6: a guest's pages: host page faults, import and unpack, swapping, pins for I/O; what a fault of
a guest means.

Frames that are faulted in are not zeroed: Convert to Secure and Unpack clear what lay there (5.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.host.guests import Guest, GuestFailed, Vcpu
from protocol.arch.s390.host.memory import backed, frame_of
from protocol.arch.s390.machine.memory import ALREADY_SECURE, NOT_MAPPED
from protocol.arch.s390.runs import stretches
from protocol.arch.s390.structs import EXECUTED, HANDLE_GADDR, PADDR, UNPACK, Outcome
from protocol.effects import Fault, Step
from protocol.errors import TeRefused
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from struct import Struct

    from protocol.arch.s390.host.system import Host
    from protocol.arch.s390.image import ImagePage

# Who brings a page in, and when: the words of a scenario, see `nesting.strategy`.
TWO_FAULT, MERGED_L1, MERGED_L0, PREFAULT = "two_fault", "merged_l1", "merged_l0", "prefault"
POLICIES = (TWO_FAULT, MERGED_L1, MERGED_L0, PREFAULT)
TRIES = 3  # a page is faulted in again if the Ultravisor does not find it; more is a mistake somewhere


# -- bringing in -----------------------------------------------------------------------------------


def fault_in(host: Host, guest: Guest, page: int) -> int:
    """A host page fault: the page has a frame afterwards, with its content if it was swapped out.

    Raises OutOfFrames with nothing changed.
    """
    frame = frame_of(host.level, guest.table, page)
    if frame is not None:
        return frame
    frame = host.backing.take_one()
    content = guest.swapped.get(page) if guest.swapped else None
    if content is not None:
        host.store(frame << PAGE_SHIFT, content)
    try:
        guest.table.map(page, frame)
    except OutOfFrames:
        host.backing.give(np.array([frame]))
        raise
    if content is not None and guest.swapped:
        del guest.swapped[page]
    host.keep("native_page", 1)
    return frame


def import_page(host: Host, guest: Guest, page: int) -> Step[None]:
    """Convert to Secure. Raises GuestFailed where Linux kills the VMM."""
    outcome = yield from make_secure(
        host, guest, page, "convert_to_secure", HANDLE_GADDR, guest.handle, page << PAGE_SHIFT
    )
    if outcome.rc not in (EXECUTED, ALREADY_SECURE.rc):
        raise GuestFailed(f"page {page:#x} cannot be made secure: rc {outcome.rc:#06x}")


def make_secure(
    host: Host, guest: Guest, page: int, name: str, layout: Struct, *values: int
) -> Step[Outcome]:
    """Issue a call that needs the page mapped: Linux looks into its own table first, and again if told
    0x010A."""
    outcome = NOT_MAPPED
    for _ in range(TRIES):
        if outcome.rc != NOT_MAPPED.rc:
            break
        fault_in(host, guest, page)
        outcome = yield from host.ask(host.cpu_of(guest), name, layout, *values)
    return outcome


def unpack(host: Host, guest: Guest, pages: Sequence[ImagePage]) -> Step[None]:
    """Unpack pages in the order given, which has to be the image's: the digests run along."""
    for each in pages:
        yield from unpack_page(host, guest, each)


def unpack_page(host: Host, guest: Guest, each: ImagePage) -> Step[None]:
    """The VMM writes the encrypted page, which faults it in; then it is unpacked where it lies.

    Raises TeRefused, OutOfFrames.
    """
    page = each.gaddr >> PAGE_SHIFT
    host.store(fault_in(host, guest, page) << PAGE_SHIFT, each.data)
    outcome = yield from make_secure(
        host, guest, page, "unpack", UNPACK, guest.handle, each.gaddr, *each.tweak
    )
    if outcome.rc != EXECUTED:
        raise TeRefused("unpack", outcome.rc, outcome.rrc)


def back_all(host: Host, guest: Guest) -> None:
    """Fault in all of the guest's memory, in ascending order. Each page is a store of its own."""
    pages = missing(host, guest)
    frames = host.backing.take(pages.size)
    for start, stop in stretches(pages):
        guest.table.map_run(int(pages[start]), frames[start:stop])
    host.keep("native_page", pages.size)


def missing(host: Host, guest: Guest) -> np.ndarray:
    """Pages of the guest that have no frame, ascending."""
    pages = np.arange(guest.pages)
    found: np.ndarray = pages[backed(host.level, guest.table, pages) < 0]
    return found


def take_back(host: Host, frames: np.ndarray) -> None:
    """Frames of a guest's pages are free again."""
    host.backing.give(frames)
    if frames.size:
        host.keep("native_page", -frames.size)


# -- faults of the guest ---------------------------------------------------------------------------


def answer_fault(host: Host, guest: Guest, fault: Fault) -> Step[None]:
    """A host exception that ended SIE. Raises GuestFailed where Linux gives up."""
    page = fault.address >> PAGE_SHIFT
    if fault.code in z.NOT_MAPPED:
        fault_in(host, guest, page)
        if host.policy == MERGED_L1:
            yield from import_page(host, guest, page)
    elif fault.code == z.NON_SECURE_ACCESS:
        yield from import_page(host, guest, page)
    elif fault.code in (z.SECURE_ACCESS, z.SECURE_VIOLATION):
        yield from _clear_leftover(host, guest, page)
    else:
        raise GuestFailed(f"{fault.name} at {fault.address:#x}")


def _clear_leftover(host: Host, guest: Guest, page: int) -> Step[None]:
    """A page that an earlier guest left: newest kernels destroy it, with export as the way out."""
    frame = frame_of(host.level, guest.table, page)
    if frame is not None and (yield from let_go(host, guest, frame)):
        return
    raise GuestFailed(f"page {page:#x} belongs to somebody else")


def let_go(host: Host, guest: Guest, frame: int) -> Step[bool]:
    """Destroy Secure Storage, or else export; False if the Ultravisor does neither."""
    return (yield from _one_of(host, guest, frame, "destroy_storage", "convert_from_secure"))


def _one_of(host: Host, guest: Guest, frame: int, *names: str) -> Step[bool]:
    """The first of these calls that the Ultravisor executes for a page; False if it executes none."""
    for name in names:
        outcome = yield from host.ask(host.cpu_of(guest), name, PADDR, frame << PAGE_SHIFT)
        if outcome.rc == EXECUTED:
            return True
    return False


def import_prefix(host: Host, guest: Guest, vcpu: Vcpu) -> Step[None]:
    """Row 5a: after intercept 112, both pages."""
    for address in (vcpu.prefix, vcpu.prefix + PAGE):
        yield from import_page(host, guest, address >> PAGE_SHIFT)


# -- swapping and I/O ------------------------------------------------------------------------------


def swap_out(host: Host, guest: Guest, page: int) -> Step[None]:
    """Make the page accessible (it is no pinned one), write it out, take it away from the guest."""
    frame = frame_of(host.level, guest.table, page)
    if frame is None:
        raise ValueError(f"page {page:#x} of guest {guest.number} is not there")
    paddr = frame << PAGE_SHIFT
    cpu = host.cpu_of(guest)
    outcome = yield from host.ask(cpu, "pin", PADDR, paddr)
    if outcome.rc == EXECUTED:
        yield from host.must(cpu, "unpin", HANDLE_GADDR, guest.handle, page << PAGE_SHIFT)
        raise ValueError(f"page {page:#x} of guest {guest.number} is shared: only private ones are swapped")
    yield from host.must(cpu, "convert_from_secure", PADDR, paddr)
    if guest.swapped is None:
        guest.swapped = {}
    guest.swapped[page] = host.load(paddr, PAGE)
    guest.table.unmap(page)
    host.backing.give(np.array([frame]))
    host.keep("native_page", -1)


def make_accessible(host: Host, guest: Guest, frame: int) -> Step[bool]:
    """How the kernel answers a 0x3D of its own: pin the page, in case it is shared, or else export it."""
    return (yield from _one_of(host, guest, frame, "pin", "convert_from_secure"))


def pin(host: Host, guest: Guest, page: int) -> Step[None]:
    """The host begins an I/O on a page that the guest shares. Raises TeRefused."""
    frame = frame_of(host.level, guest.table, page)
    if frame is None:
        raise ValueError(f"page {page:#x} of guest {guest.number} is not there")
    yield from host.must(host.cpu_of(guest), "pin", PADDR, frame << PAGE_SHIFT)
    if guest.pinned is None:
        guest.pinned = set()
    guest.pinned.add(page)


def unpin(host: Host, guest: Guest, page: int) -> Step[None]:
    """The guest wants the page back: end the I/O and let it go."""
    yield from host.must(host.cpu_of(guest), "unpin", HANDLE_GADDR, guest.handle, page << PAGE_SHIFT)
    if guest.pinned is not None:
        guest.pinned.discard(page)
