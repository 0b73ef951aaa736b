"""Pages of SNP guests:

LAUNCH_UPDATE, RECLAIM, MOVE, MD_INIT, UNSMASH, SET_STATE. Sections 2.6, 3.4, 4.5, 5.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev import cpuid
from protocol.arch.sev.checks import pages, platform
from protocol.arch.sev.crypto import digest
from protocol.arch.sev.machine.entities import SnpGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import (
    ASSIGNED,
    IMMUTABLE,
    METADATA_TAG,
    SUBPAGES,
    TAG_SHIFT,
    VALIDATED,
    VMSA,
    PageState,
    Rmp,
)
from protocol.arch.sev.status import PageType, Status
from protocol.arch.sev.structs import PAGE, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

SECRETS_VERSION = 3
FAMILY_MODEL_STEPPING = 0x00A1_0F11  # CPUID 1 EAX of the emulated part


def launch_update(fw: Machine, b: Buffer) -> Step[Reply]:
    """One page of 4 KiB or 2 MiB: extend the digest, encrypt in place, hand it over to the guest."""
    found = pages.launch_update(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    guest, frame = found.guest, found.frame
    assert isinstance(guest, SnpGuest)
    kind, count = b.flags >> 1 & 7, SUBPAGES if b.flags & pages.SIZE else 1
    if kind == PageType.CPUID and (fixed := cpuid.corrected(fw.profile, fw.fetch(b.pa, PAGE))) is not None:
        if fixed:
            fw.deposit(b.pa, fixed)
        return Reply(Status.INVALID_PARAM.because("CPUID table"))
    yield from fw.hold((frame,))
    imi = bool(b.flags & pages.IMI_PAGE)
    vmpls = b.vmpl1, b.vmpl2, b.vmpl3
    for n in range(count):
        address, gpa = b.pa + n * PAGE, fw.rmp.gpa_of(frame) + n * PAGE
        contents = _contents(fw, guest, kind, address)
        guest.digest = digest.extend(guest.digest, kind, contents, gpa, imi, vmpls)
        if imi:
            guest.imi_digest = digest.extend(guest.imi_digest, kind, contents, gpa, imi, vmpls)
        fw.seal(guest.key, address, contents)
    launched(fw.rmp, frame, kind, vmpls)
    return DONE


def launched(rmp: Rmp, frame: int, kind: int, vmpls: tuple[int, int, int]) -> None:
    """Pre-Guest becomes Guest-Valid. VMPL0 needs no mask: it may do everything."""
    rmp.change(frame, VALIDATED | (VMSA if kind == PageType.VMSA else 0), IMMUTABLE)
    rmp.set_perms(frame, vmpls[0] << 8 | vmpls[1] << 16 | vmpls[2] << 24)


def _contents(fw: Machine, guest: SnpGuest, kind: int, address: int) -> bytes:
    if kind == PageType.ZERO:
        return bytes(PAGE)
    if kind == PageType.SECRETS:
        return _secrets(guest)
    return fw.fetch(address, PAGE)


def _secrets(guest: SnpGuest) -> bytes:
    page = bytearray(PAGE)
    page[0:4] = SECRETS_VERSION.to_bytes(4, "little")
    page[4] = guest.imi
    page[8:12] = FAMILY_MODEL_STEPPING.to_bytes(4, "little")
    page[0x10:0x20] = guest.gosvw
    for n, key in enumerate(guest.vmpcks):
        page[0x20 + 0x20 * n : 0x40 + 0x20 * n] = key
    return bytes(page)


def reclaim(fw: Machine, b: Buffer) -> Step[Reply]:
    """A page that is not immutable is left alone, with success."""
    found = pages.reclaim(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    frame, _ = found
    yield from fw.hold((frame,))
    reclaimed(fw.rmp, *found)
    return DONE


def reclaimed(rmp: Rmp, frame: int, state: PageState) -> None:
    """A metadata page loses its tag: Reclaim has no other mark than being assigned."""
    if state is PageState.METADATA:
        rmp.put(frame, ASSIGNED)
    elif state is not PageState.HYPERVISOR:
        rmp.change(frame, clear=IMMUTABLE)


def unsmash(fw: Machine, b: Buffer) -> Step[Reply]:
    frame = pages.unsmash(fw, b)
    if isinstance(frame, Status):
        return Reply(frame)
    yield from fw.hold(range(frame, frame + SUBPAGES))
    fw.rmp.join(frame)
    return DONE


def set_state(fw: Machine, b: Buffer) -> Step[Reply]:
    listed = platform.page_set_state(fw, b)
    if isinstance(listed, Status):
        return Reply(listed)
    yield from fw.hold(page for one in listed for page in one)
    for one in listed:
        for page in one:
            fw.rmp.put(page, IMMUTABLE)
    return DONE


def md_init(fw: Machine, b: Buffer) -> Step[Reply]:
    found = pages.md_init(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    yield from fw.hold((found.frame,))
    make_metadata(fw.rmp, found.frame, found.guest.frame)
    fw.deposit(b.pa, bytes(PAGE))
    return DONE


def make_metadata(rmp: Rmp, frame: int, context: int) -> None:
    rmp.put(frame, ASSIGNED | IMMUTABLE, gpa=METADATA_TAG << TAG_SHIFT | context)


def move(fw: Machine, b: Buffer) -> Step[Reply]:
    """The contents are encrypted for their new place; the source stays behind without them."""
    found = pages.move(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    guest = found.guest
    assert isinstance(guest, SnpGuest)
    count = SUBPAGES if b.size & pages.SIZE else 1
    yield from fw.hold((found.frame, found.other))
    metadata = fw.rmp.state(found.frame) is PageState.METADATA
    for offset in range(0, count * PAGE, PAGE):
        if metadata:
            fw.deposit(b.dst + offset, fw.fetch(b.src + offset, PAGE))
        else:
            fw.seal(guest.key, b.dst + offset, fw.plain(guest.key, b.src + offset, PAGE))
    moved(fw.rmp, guest.frame, found.frame, found.other)
    return DONE


def moved(rmp: Rmp, context: int, source: int, target: int) -> None:
    """Section 5.3: the target takes GPA, VMSA and masks, and is valid if the source was Pre-Swap."""
    state = rmp.state(source)
    if state is PageState.METADATA:
        make_metadata(rmp, target, context)
        rmp.put(source, ASSIGNED | IMMUTABLE)
        return
    flags = rmp.flags_of(source) & ~IMMUTABLE
    asid, gpa, perms = rmp.asid_of(source), rmp.gpa_of(source) // PAGE, rmp.perms_of(source)
    rmp.put(target, flags, asid, gpa, perms)
    rmp.change(source, clear=IMMUTABLE | VALIDATED)
