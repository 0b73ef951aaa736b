"""Memory of TDs, and pages of the machine: section 2.5 of the fact sheet."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.leaves.row import (
    ANY_ENTRY,
    BUSY,
    EMULATED,
    GPA,
    INVALID,
    META,
    MODIFIED,
    OUT,
    OWN_WALK,
    OWNED,
    PAGE_IN,
    PASSED,
    RANGE,
    SAME,
    SEPT,
    STATE,
    TDR,
    TRACKED,
    page_of,
    row,
)
from protocol.arch.tdx.machine import memory, pages, phymem
from protocol.arch.tdx.status import R8, R9, RCX, RDX, Operand, Status
from protocol.calls import Area, CallSpec, Category, Check, Treatment

_ENTRY = "RCX and RDX are zeroed, or show the entry in the way"
_ENTRY_AND_DATA = f"{_ENTRY}; R8 is zeroed"
_ENTRY_AND_L2 = f"{_ENTRY}; in version 1 R9, R10 and R11 are all ones"
_NO_ENTRY = "nothing"


def _mem(code: int, name: str, treatment: Treatment, why: str, handler: Any, **more: Any) -> CallSpec:
    usual = {"handle": TDR, "at": RDX, "checks": SEPT, "on_error": _ENTRY, "source": "2.5, 3.3, 4.6"}
    more = dict[str, Any](usual | more)
    return row(code, name, Category.MEMORY, treatment, why, handler, **more)


_R8_PAGE = (Area("r8", "4096", SAME),)
MEMORY = (
    _mem(
        3,
        "TDH.MEM.SEPT.ADD",
        MODIFIED,
        PAGE_IN,
        memory.add_table,
        donated=_R8_PAGE,
        checks=(Check(INVALID | RDX, "reserved bits"), *SEPT, *page_of(R8, "page")),
    ),
    _mem(
        30,
        "TDH.MEM.SEPT.REMOVE",
        MODIFIED,
        OUT,
        memory.remove_table,
        checks=(*SEPT, *TRACKED, Check(Status.EPT_PAGE_NOT_FREE | RCX, "an entry is not free")),
        on_error=_ENTRY_AND_L2,
    ),
    _mem(25, "TDH.MEM.SEPT.RD", MODIFIED, OUT, memory.read_entry, checks=ANY_ENTRY),
    _mem(
        2,
        "TDH.MEM.PAGE.ADD",
        MODIFIED,
        "page, source and handle are addresses of the guest host's",
        memory.add_page,
        donated=_R8_PAGE,
        length=4096,
        checks=(
            *page_of(RDX, "TDR"),
            *OWNED,
            *OWN_WALK,
            Check(INVALID | R9, "source"),
            *page_of(R8, "page"),
        ),
    ),
    _mem(
        6,
        "TDH.MEM.PAGE.AUG",
        MODIFIED,
        PAGE_IN,
        memory.augment,
        donated=(Area("r8", "4096 or 2097152", SAME),),
        checks=(*SEPT, *page_of(R8, "page")),
    ),
    _mem(
        7,
        "TDH.MEM.RANGE.BLOCK",
        PASSED,
        GPA,
        memory.block,
        checks=(*SEPT, Check(Status.GPA_RANGE_ALREADY_BLOCKED | RCX, "blocked already: a success")),
    ),
    _mem(
        39,
        "TDH.MEM.RANGE.UNBLOCK",
        PASSED,
        GPA,
        memory.unblock,
        checks=(
            *SEPT,
            Check(Status.TLB_TRACKING_NOT_DONE | Operand.SEPT_TREE, "translations may be cached"),
        ),
    ),
    _mem(
        38,
        "TDH.MEM.TRACK",
        PASSED,
        GPA,
        memory.track,
        at=RCX,
        checks=(
            *page_of(RCX, "TDR"),
            *STATE,
            Check(BUSY | Operand.TD_EPOCH, "the epoch is locked"),
            Check(Status.PREVIOUS_TLB_EPOCH_BUSY, "a VCPU is in an older epoch"),
        ),
        on_error=_NO_ENTRY,
    ),
    _mem(29, "TDH.MEM.PAGE.REMOVE", MODIFIED, OUT, memory.remove_page, checks=(*SEPT, *TRACKED)),
    _mem(
        5,
        "TDH.MEM.PAGE.RELOCATE",
        MODIFIED,
        OUT,
        pages.relocate,
        donated=_R8_PAGE,
        checks=(*SEPT, Check(INVALID | R8, "the present page"), *TRACKED, *page_of(R8, "page")),
    ),
    _mem(
        15,
        "TDH.MEM.PAGE.DEMOTE",
        MODIFIED,
        PAGE_IN,
        pages.demote,
        donated=_R8_PAGE,
        checks=(*SEPT, *TRACKED, *page_of(R8, "page")),
    ),
    _mem(
        23,
        "TDH.MEM.PAGE.PROMOTE",
        MODIFIED,
        OUT,
        pages.promote,
        checks=(
            *SEPT,
            *TRACKED,
            Check(Status.EPT_INVALID_PROMOTE_CONDITIONS | RCX, "512 entries that do not fit together"),
        ),
        on_error=_ENTRY_AND_L2,
    ),
    *(
        _mem(
            code,
            name,
            PASSED,
            GPA,
            handler,
            checks=(
                *page_of(RDX, "TDR"),
                *STATE,
                Check(Status.TD_NON_DEBUG, "no debug TD"),
                Check(INVALID | RCX, "not aligned, or no private address"),
                Check(BUSY | Operand.SEPT_TREE, "the tree is locked"),
                Check(Status.EPT_ENTRY_NOT_PRESENT | RCX, "not mapped"),
                Check(BUSY | RCX, "the entry is locked"),
                Check(Status.EPT_ENTRY_STATE_INCORRECT | RCX, "the entry's state is none of this call's"),
            ),
            on_error=_ENTRY_AND_DATA,
        )
        for code, name, handler in (
            (12, "TDH.MEM.RD", memory.read_memory),
            (14, "TDH.MEM.WR", memory.write_memory),
        )
    ),
    _mem(
        16,
        "TDH.MR.EXTEND",
        PASSED,
        GPA,
        memory.extend,
        checks=(
            *page_of(RDX, "TDR"),
            *OWNED,
            Check(INVALID | RCX, "not aligned, or no private address"),
            Check(Status.EPT_ENTRY_NOT_PRESENT | RCX, "not mapped"),
        ),
    ),
    _mem(
        24,
        "TDH.PHYMEM.PAGE.RDMD",
        MODIFIED,
        "owner and epoch are known below alone",
        phymem.read_metadata,
        handle="",
        at=-1,
        checks=(
            Check(INVALID | RCX, "not aligned, KeyID bits, or too high"),
            Check(RANGE | RCX, "in no initialised GiB of a TDMR"),
            Check(BUSY | RCX, "locked in the PAMT"),
        ),
        on_error="RCX, RDX, R8, R9, R10 and R11 are zeroed",
    ),
    _mem(
        28,
        "TDH.PHYMEM.PAGE.RECLAIM",
        MODIFIED,
        "the page, and the owner that the answer names",
        phymem.reclaim,
        handle="",
        at=-1,
        checks=(
            Check(INVALID | RCX, "not aligned, KeyID bits, or too high"),
            Check(RANGE | RCX, "in no initialised GiB of a TDMR"),
            Check(BUSY | RCX, "locked in the PAMT"),
            Check(META | RCX, "nobody's page"),
            Check(INVALID | RCX, "inside a large page"),
            Check(BUSY | Operand.TDR, "the owner is locked"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the owner has its key still"),
            Check(Status.TD_ASSOCIATED_PAGES_EXIST, "a TDR with pages"),
        ),
        on_error="RCX, RDX and R8 are zeroed, or say what the page is; R9, R10 and R11 are zeroed",
    ),
    _mem(
        40,
        "TDH.PHYMEM.CACHE.WB",
        EMULATED,
        "batched: a guest host never flushes real caches at will",
        phymem.write_back,
        handle="",
        at=-1,
        checks=(
            Check(INVALID | RCX, "neither start nor resume"),
            Check(BUSY | Operand.WBCACHE, "another LP of the package does it"),
            Check(BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.NO_HKID_READY_TO_WBCACHE, "start, and no KeyID was flushed"),
            Check(Status.WBCACHE_RESUME_ERROR, "resume, and nothing was interrupted"),
        ),
        on_error=_NO_ENTRY,
    ),
    _mem(
        41,
        "TDH.PHYMEM.PAGE.WBINVD",
        MODIFIED,
        "the address, and the KeyID in it",
        phymem.flush_page,
        handle="",
        at=-1,
        checks=page_of(RCX, "page"),
        on_error=_NO_ENTRY,
    ),
)
