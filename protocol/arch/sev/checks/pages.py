"""Checks of the commands about single pages under SNP: sections 2.6, 3.4 and 5 of the fact sheet."""

from __future__ import annotations

from typing import NamedTuple

from protocol.arch.sev.books import Context, View, reachable, writable
from protocol.arch.sev.checks.snp import context, known, ready
from protocol.arch.sev.rmp import (
    ASSIGNED,
    IMMUTABLE,
    LARGE,
    SUBPAGES,
    VMSA,
    PageState,
)
from protocol.arch.sev.status import DEBUG, ContextState, PageType, SnpState, Status, SwapType
from protocol.arch.sev.structs import MDATA_LEN, PAGE, TWO_MIB, Buffer

SIZE = 1
IN_PLACE = 8
ROOT_MDATA = 0x10
IMI_PAGE = 0x10
_PRE = (PageState.PRE_GUEST, PageState.PRE_SWAP)
_GUESTS = (*_PRE, PageState.GUEST_INVALID, PageState.GUEST_VALID)
_SMALL_ONLY = (PageType.VMSA, PageType.SECRETS, PageType.CPUID)
_ALIVE = (ContextState.LAUNCH, ContextState.RUNNING)


class Page(NamedTuple):
    """A guest and one page of it, or two."""

    guest: Context
    frame: int
    other: int = 0


def launch_update(view: View, b: Buffer) -> Page | Status:
    """Up to the contents of the page."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    frame, large, kind = b.pa // PAGE, bool(b.flags & SIZE), b.flags >> 1 & 7
    if view.rmp.state(frame) is not PageState.PRE_GUEST:
        return Status.INVALID_PAGE_STATE
    if view.rmp.large(frame) is not large:
        return Status.INVALID_PAGE_SIZE.because("size")
    if large and b.pa % TWO_MIB:  # pragma: no cover - sheet's order; only an entry's first page is large
        return Status.INVALID_ADDRESS
    if kind in _SMALL_ONLY and large:
        return Status.INVALID_PAGE_SIZE.because("type with 2 MiB")
    if kind in (0, 7):
        return Status.INVALID_PARAM.because("type")
    if found.state is not ContextState.LAUNCH:
        return Status.INVALID_GUEST_STATE
    if not found.asid:
        return Status.INACTIVE
    if view.rmp.asid_of(frame) != found.asid:
        return Status.INVALID_PAGE_OWNER
    if b.flags & IMI_PAGE and not found.imi:
        return Status.INVALID_PARAM.because("IMI")
    return Page(found, frame)


def debug(view: View, b: Buffer, encrypt: bool) -> Page | Status:
    """SNP_DBG_DECRYPT and ENCRYPT; they alone look up the entry that a page inside 2 MiB belongs to.

    ENCRYPT has its first two checks the other way round.
    """
    if encrypt and view.platform.snp is not SnpState.INIT:
        return Status.INVALID_PLATFORM_STATE
    if status := ready(view, b):
        return status
    found = context(view, b.gctx)
    if found is None:
        return Status.INVALID_GUEST
    source, target = b.src // PAGE, b.dst // PAGE
    rmp = view.rmp
    if encrypt:
        fits = rmp.state(rmp.head(target)) in _PRE and reachable(view, b.src, PAGE)
    else:
        fits = rmp.state(rmp.head(source)) in _GUESTS
        fits = fits and rmp.state(target) is PageState.FIRMWARE and reachable(view, b.dst, PAGE)
    if not fits:
        return Status.INVALID_PAGE_STATE
    private = rmp.head(target if encrypt else source)
    if rmp.asid_of(private) != found.asid:
        return Status.INVALID_PAGE_OWNER
    if not found.policy & DEBUG:
        return Status.POLICY_FAILURE
    return Page(found, source, target) if found.asid else Status.INACTIVE


def reclaim(view: View, b: Buffer) -> tuple[int, PageState] | Status:
    """The page and the state that it is to leave; HYPERVISOR where there is nothing to do."""
    if status := ready(view, b):
        return status
    address, large = b.pa & ~SIZE, bool(b.pa & SIZE)
    frame = address // PAGE
    if not reachable(view, address, PAGE):
        return Status.INVALID_ADDRESS.because("address")
    if view.rmp.large(frame) is not large:
        return Status.INVALID_PAGE_SIZE
    if large and address % TWO_MIB:  # pragma: no cover - sheet's order; only an entry's first page is large
        return Status.INVALID_ADDRESS.because("alignment")
    if not view.rmp.immutable(frame):
        return frame, PageState.HYPERVISOR
    state = view.rmp.state(frame)
    if state not in (PageState.FIRMWARE, PageState.METADATA, *_PRE):
        return Status.INVALID_PAGE_STATE
    return frame, state


def unsmash(view: View, b: Buffer) -> int | Status:
    """512 entries that differ in nothing but their place."""
    if b.strays or b.pa % TWO_MIB:
        return Status.INVALID_PARAM
    if view.platform.snp is not SnpState.INIT:
        return Status.INVALID_PLATFORM_STATE
    if not reachable(view, b.pa, TWO_MIB):
        return Status.INVALID_ADDRESS
    rmp, frame = view.rmp, b.pa // PAGE
    if frame + SUBPAGES > rmp.covered:
        return Status.INVALID_PAGE_STATE
    first = rmp.flags_of(frame)
    if first & (ASSIGNED | LARGE | IMMUTABLE | VMSA) != ASSIGNED | IMMUTABLE or not rmp.asid_of(frame):
        return Status.INVALID_PAGE_STATE
    here = slice(frame, frame + SUBPAGES)
    page = rmp.gpa_of(frame) // PAGE
    alike = (
        page % SUBPAGES == 0
        and (rmp.flags[here] == first).all()
        and (rmp.asid[here] == rmp.asid_of(frame)).all()
        and (rmp.perms[here] == rmp.perms_of(frame)).all()
        and all(rmp.gpa_of(frame + n) // PAGE == page + n for n in range(SUBPAGES))
    )
    return frame if alike else Status.INVALID_PAGE_STATE


def move(view: View, b: Buffer) -> Page | Status:
    found = known(view, b)
    if isinstance(found, Status):
        return found
    rmp, large = view.rmp, bool(b.size & SIZE)
    source, target = b.src // PAGE, b.dst // PAGE
    if rmp.large(source) is not large or rmp.large(target) is not large:
        return Status.INVALID_PAGE_SIZE
    if status := _alive(found):
        return status
    pair = rmp.state(source), rmp.state(target)
    if not all(_is_of(view, found, frame) for frame in (source, target)):
        return Status.INVALID_PAGE_OWNER
    metadata = pair == (PageState.METADATA, PageState.FIRMWARE)
    if not metadata and not (pair[0] in _PRE and pair[1] is PageState.PRE_GUEST):
        return Status.INVALID_PAGE_STATE
    if metadata and not reachable(view, b.dst, PAGE):
        return Status.INVALID_PAGE_STATE
    return Page(found, source, target)


def _alive(found: Context) -> Status:
    if found.state not in _ALIVE:
        return Status.INVALID_GUEST_STATE
    return Status.SUCCESS if found.asid else Status.INACTIVE


def _is_of(view: View, found: Context, frame: int) -> bool:
    """A guest's page has to be this guest's; what is no guest's page is judged by its state."""
    rmp, state = view.rmp, view.rmp.state(frame)
    if state is PageState.METADATA:
        return rmp.metadata_owner(frame) == found.frame
    return state not in _GUESTS or rmp.asid_of(frame) == found.asid


def md_init(view: View, b: Buffer) -> Page | Status:
    """Inside a 2 MiB entry there is no Firmware page but the first, whose size is wrong (inferred)."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    frame = b.pa // PAGE
    if view.rmp.state(frame) is not PageState.FIRMWARE or not reachable(view, b.pa, PAGE):
        return Status.INVALID_PAGE_STATE
    if view.rmp.large(frame):
        return Status.INVALID_PAGE_SIZE
    return Page(found, frame) if found.state in _ALIVE else Status.INVALID_GUEST_STATE


# -- swapping ------------------------------------------------------------------------------------------


def swap_out(view: View, b: Buffer) -> Page | Status:
    """Up to the counter of the keys."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    if status := _mdata(view, found, b):
        return status
    rmp, large = view.rmp, bool(b.flags & SIZE)
    source, target = b.src // PAGE, b.dst // PAGE
    if rmp.large(source) is not large or (writable_state(view, target) and rmp.large(target) is not large):
        return Status.INVALID_PAGE_SIZE
    if status := _alive(found):
        return status
    kind = b.flags >> 1 & 3
    wanted = (PageState.METADATA,) if kind == SwapType.METADATA else _PRE
    wrong = Status.INVALID_PAGE_STATE.because("pages")
    if rmp.state(source) not in wanted or not _writes_to(view, b.dst, large):
        return wrong
    if kind != SwapType.METADATA and bool(rmp.flags_of(source) & VMSA) is not (kind == SwapType.VMSA):
        return wrong
    mine = _is_of(view, found, source)
    return Page(found, source, target) if mine else Status.INVALID_PAGE_OWNER.because("owner")


def writable_state(view: View, frame: int) -> bool:
    return view.rmp.state(frame) in (PageState.FIRMWARE, PageState.DEFAULT)


def _writes_to(view: View, address: int, large: bool) -> bool:
    size = TWO_MIB if large else PAGE
    if large and view.rmp.large(address // PAGE):
        size = PAGE  # one Firmware entry speaks for all of it
    return writable(view, address, size) and reachable(view, address, TWO_MIB if large else PAGE)


def _mdata(view: View, found: Context, b: Buffer) -> Status:
    """Where the page's metadata entry lies; none is named if it is kept in the context itself."""
    kind, misplaced = b.flags >> 1 & 3, Status.INVALID_PARAM.because("metadata place")
    if kind > SwapType.VMSA or (kind != SwapType.DATA and b.flags & SIZE):
        return misplaced
    if b.flags & ROOT_MDATA:
        return Status.SUCCESS if kind == SwapType.METADATA else misplaced
    page = b.mdata & ~(PAGE - 1)
    if b.mdata % MDATA_LEN or page in (b.src, b.dst):
        return misplaced
    if view.rmp.state(page // PAGE) is not PageState.METADATA:
        return Status.INVALID_PAGE_STATE.because("not Metadata")
    mine = view.rmp.metadata_owner(page // PAGE) == found.frame
    return Status.SUCCESS if mine else Status.INVALID_PAGE_OWNER.because("metadata owner")


def swap_in_start(view: View, b: Buffer) -> Context | Status:
    """Up to the metadata entry, which says what kind of page it is."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    if b.flags & IN_PLACE and b.src != b.dst:
        return Status.INVALID_ADDRESS
    kind = b.flags >> 1 & 3
    if b.flags & IN_PLACE and kind != SwapType.DATA:
        return Status.INVALID_PARAM.because("in place metadata or VMSA")
    return _mdata(view, found, b) or found


def swap_in_finish(view: View, found: Context, b: Buffer) -> Page | Status:
    """Behind the metadata entry."""
    rmp, large, kind = view.rmp, bool(b.flags & SIZE), b.flags >> 1 & 3
    source, target = b.src // PAGE, b.dst // PAGE
    if rmp.large(target) is not large:
        return Status.INVALID_PAGE_SIZE
    if status := _alive(found):
        return status
    wanted = PageState.FIRMWARE if kind == SwapType.METADATA else PageState.PRE_GUEST
    size = TWO_MIB if large else PAGE
    if (
        rmp.state(target) is not wanted
        or not reachable(view, b.src, size)
        or not reachable(view, b.dst, size)
    ):
        return Status.INVALID_PAGE_STATE.because("pages")
    mine = _is_of(view, found, target)
    return Page(found, source, target) if mine else Status.INVALID_PAGE_OWNER.because("owner")
