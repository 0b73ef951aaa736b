"""The TDX module's call table: sections 2.2 to 2.7 of the fact sheet, one row per leaf.

The number of a host's leaf is its code; a guest's has GUEST added, because both count from zero. `handle`
is what the leaf names and `handle_at` the register that does; `length` is what is read or written in
memory beside registers. Treatments are the sheet's own proposal for every row: nobody has built this way.
"""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.machine import (
    enter,
    guest,
    init,
    lifecycle,
    memory,
    pages,
    partition,
    phymem,
    vcpu,
    vm,
)
from protocol.arch.tdx.status import CODE_MASK, R8, R9, R10, RCX, RDX, Operand, Status
from protocol.calls import Area, Basis, CallSpec, Category, Check, Donation, Issuer, Treatment, table

GUEST = 0x1_0000
SAME = Donation.SAME_FRAME
E_, R_, P_ = Treatment.EMULATED, Treatment.MODIFIED, Treatment.PASSED
_TDR = "tdr"
_TDVPR = "tdvpr"
_INVALID, _BUSY = Status.OPERAND_INVALID, Status.OPERAND_BUSY
_RANGE, _META = Status.OPERAND_ADDR_RANGE_ERROR, Status.PAGE_METADATA_INCORRECT


def _page(operand: int, what: str) -> tuple[Check, ...]:
    """The checks of a private page that an operand names, in their order."""
    return (
        Check(_INVALID | operand, f"{what}: not aligned, KeyID bits, or too high"),
        Check(_RANGE | operand, f"{what}: in no initialised GiB of a TDMR"),
        Check(_BUSY | operand, f"{what}: locked in the PAMT"),
        Check(_META | operand, f"{what}: another size or type"),
    )


_STATE = (
    Check(Status.TD_FATAL, "the TD is dead"),
    Check(Status.TD_KEYS_NOT_CONFIGURED, "the key is not on all packages, or is gone"),
    Check(Status.TDCS_NOT_ALLOCATED, "fewer than six TDCS pages"),
    Check(_BUSY | Operand.OP_STATE, "the op state is locked"),
    Check(Status.OP_STATE_INCORRECT, "the op state is none of this call's"),
)
_OWNED = tuple(check for check in _STATE if check.code != _BUSY | Operand.OP_STATE)  # of who owns the TDR
_WALK = (
    Check(_INVALID | RCX, "GPA_LEVEL: form, or no private address"),
    Check(_BUSY | Operand.SEPT_TREE, "the tree is locked"),
    Check(Status.EPT_WALK_FAILED | RCX, "the level is not reached"),
    Check(_BUSY | RCX, "the entry is locked"),
    Check(Status.EPT_ENTRY_STATE_INCORRECT | RCX, "the entry's state is none of this call's"),
)
_OWN_WALK = tuple(check for check in _WALK if check.code & CODE_MASK != _BUSY)
_TRACKED = (
    Check(Status.GPA_RANGE_NOT_BLOCKED | RCX, "the TD may run and the entry is not blocked"),
    Check(Status.TLB_TRACKING_NOT_DONE | RCX, "the TD may run and translations may be cached"),
)
_SEPT = (*_page(RDX, "TDR"), *_STATE, *_WALK)
_ANY_ENTRY = tuple(check for check in _SEPT if check.code != Status.EPT_ENTRY_STATE_INCORRECT | RCX)
_ORDER = "order: section 3.3. "


def _row(
    code: int,
    name: str,
    category: Category,
    treatment: Treatment,
    why: str,
    handler: Any,
    handle: str = "",
    at: int = -1,
    checks: tuple[Check, ...] = (),
    donated: tuple[Area, ...] = (),
    states: str = "ready",
    length: int = 0,
    issuer: Issuer = Issuer.HOST,
    on_error: str = "RCX and RDX may show the entry in the way",
    basis: Basis = Basis.SOURCE,
    source: str = "2",
) -> CallSpec:
    return CallSpec(
        code,
        name.removeprefix("TDH.").lower().replace(".", "_") if issuer is Issuer.HOST else _guest_name(name),
        name,
        category,
        treatment,
        _ORDER + why,
        length,
        issuer,
        source,
        handle=handle,
        handle_at=at,
        states=states,
        checks=checks,
        donated=donated,
        on_error=on_error,
        basis=basis,
        handler=handler,
    )


def _guest_name(name: str) -> str:
    return name.lower().replace(".", "_")


_UP = "the module below is up already; this host has one of its own to bring up"
_OWN_TABLES = "answered from this level's own tables"
_GPA = "the handle is an address of the guest host's; the guest address is the guest's own"
_PAGE_IN = "page and handle are addresses of the guest host's"
_OUT = "the answer names a page by its address below"


def _init(code: int, name: str, why: str, handler: Any, **more: Any) -> CallSpec:
    more.setdefault("on_error", "output registers are zeroed")
    return _row(code, name, Category.INIT, E_, why, handler, **more)


_INIT = (
    _init(
        33,
        "TDH.SYS.INIT",
        _UP,
        init.initialize,
        states="SYSINIT_PENDING",
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(_INVALID | RCX, "attributes are not zero"),
            Check(Status.SYS_INIT_NOT_PENDING, "not in this state"),
        ),
    ),
    _init(
        35,
        "TDH.SYS.LP.INIT",
        _UP,
        init.lp_init,
        states="SYSINIT_DONE",
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(Status.SYS_LP_INIT_NOT_PENDING, "not in this state"),
            Check(Status.SYS_LP_INIT_DONE, "done on this LP"),
        ),
    ),
    _init(
        32,
        "TDH.SYS.INFO",
        "this host's own CMRs and features",
        init.info,
        states="any",
        length=1536,
        checks=(
            Check(Status.SYS_LP_INIT_NOT_DONE, "not done on this LP"),
            Check(_INVALID | RCX, "buffer"),
            Check(_INVALID | RDX, "fewer than 1024 bytes"),
            Check(_INVALID | R8, "CMR array"),
            Check(_INVALID | R9, "fewer than 32 entries"),
        ),
    ),
    _init(
        34,
        "TDH.SYS.RD",
        _OWN_TABLES,
        init.read,
        states="any",
        checks=(
            Check(Status.SYS_LP_INIT_NOT_DONE, "not done on this LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
        ),
    ),
    _init(
        37,
        "TDH.SYS.RDALL",
        _OWN_TABLES,
        init.read_all,
        states="any",
        length=4096,
        checks=(
            Check(Status.SYS_LP_INIT_NOT_DONE, "not done on this LP"),
            Check(_INVALID | RDX, "buffer"),
        ),
    ),
    _init(
        45,
        "TDH.SYS.CONFIG",
        "PAMTs are tables of this level",
        init.configure,
        states="SYSINIT_DONE",
        length=512,
        donated=(Area("PAMT", "1/256 of the TDMRs'", Donation.VIRTUAL),),
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(Status.SYS_CONFIG_NOT_PENDING, "not in this state, or an LP is missing"),
            Check(_INVALID | RCX, "array of pointers"),
            Check(_INVALID | RDX, "0 TDMRs, or more than 64"),
            Check(_INVALID | R8, "no private KeyID"),
            Check(Status.NON_ORDERED_TDMR, "out of order, or overlapping"),
            Check(Status.INVALID_TDMR, "not whole GiBs"),
            Check(Status.INVALID_RESERVED_IN_TDMR, "reserved areas"),
            Check(Status.INVALID_PAMT, "PAMT areas"),
            Check(Status.PAMT_OVERLAP, "PAMT areas overlap each other, or memory to use"),
            Check(Status.PAMT_OUTSIDE_CMRS, "PAMT areas"),
            Check(Status.TDMR_OUTSIDE_CMRS, "memory to use"),
        ),
        on_error="the KeyID stays reserved",
    ),
    _init(
        31,
        "TDH.SYS.KEY.CONFIG",
        "nothing to program",
        init.key_config,
        states="SYSCONFIG_DONE",
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(Status.SYS_KEY_CONFIG_NOT_PENDING, "not in this state"),
            Check(Status.KEY_CONFIGURED, "done on this package"),
            Check(_BUSY | Operand.KET, "the key table is locked"),
        ),
    ),
    _init(
        36,
        "TDH.SYS.TDMR.INIT",
        "a table of this level",
        init.tdmr_init,
        donated=(Area("PAMT", "4202512", Donation.VIRTUAL),),
        checks=(
            Check(_INVALID | RCX, "not the base of a TDMR"),
            Check(_BUSY | RCX, "another LP initialises it"),
            Check(Status.TDMR_ALREADY_INITIALIZED, "all of it is initialised"),
        ),
    ),
    _init(
        52,
        "TDH.SYS.SHUTDOWN",
        "this host's own module",
        init.shutdown,
        checks=(
            Check(_INVALID | RCX, "handoff version"),
            Check(Status.SYS_BUSY, "the global lock is taken, or another LP is in SEAM"),
        ),
    ),
    _init(
        53,
        "TDH.SYS.UPDATE",
        "this host's own module",
        init.update,
        states="SYSINIT_DONE",
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(Status.SYS_STATE_INCORRECT, "not in this state, or an LP is missing"),
            Check(Status.SYS_INVALID_HANDOFF, "no handoff data"),
        ),
    ),
    _init(44, "TDH.SYS.LP.SHUTDOWN", "does nothing", init.lp_shutdown, states="any"),
)


def _vm(
    code: int, name: str, treatment: Treatment, why: str, handler: Any, at: int = RCX, **more: Any
) -> CallSpec:
    more.setdefault("handle", _TDR)
    return _row(code, name, Category.VM, treatment, why, handler, at=at, **more)


_VM = (
    _vm(
        9,
        "TDH.MNG.CREATE",
        R_,
        "page and KeyID are both replaced",
        vm.create,
        handle="",
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            Check(_INVALID | RDX, "no private KeyID"),
            *_page(RCX, "TDR"),
            Check(_BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.HKID_NOT_FREE, "the KeyID is somebody's"),
        ),
    ),
    _vm(
        8,
        "TDH.MNG.KEY.CONFIG",
        R_,
        "virtual packages: all real ones with the last",
        vm.key_config,
        checks=(
            *_page(RCX, "TDR"),
            Check(Status.TD_FATAL, "the TD is dead"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the key is configured"),
            Check(Status.KEY_CONFIGURED, "done on this package"),
            Check(_BUSY | Operand.KET, "the key table is locked"),
        ),
    ),
    _vm(
        1,
        "TDH.MNG.ADDCX",
        R_,
        _PAGE_IN,
        vm.add_page,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *_page(RDX, "TDR"),
            Check(Status.TD_FATAL, "the TD is dead"),
            Check(Status.TD_KEYS_NOT_CONFIGURED, "the key is not on all packages"),
            Check(Status.TDCX_NUM_INCORRECT, "nine pages are there"),
            *_page(RCX, "page"),
            Check(Status.OP_STATE_INCORRECT, "initialised (from the seventh page on)"),
        ),
    ),
    _vm(
        21,
        "TDH.MNG.INIT",
        R_,
        "handle and TD_PARAMS are addresses of the guest host's",
        vm.initialize,
        length=1024,
        checks=(
            *_page(RCX, "TDR"),
            *_OWNED,
            Check(_INVALID | RDX, "buffer, or a reserved field"),
            *(
                Check(_INVALID | operand, operand.name)
                for operand in (Operand.ATTRIBUTES, Operand.XFAM, Operand.MAX_VCPUS, Operand.NUM_L2_VMS)
            ),
            Check(Status.TDCS_NOT_ALLOCATED, "not enough pages for the L2 VMs"),
            *(
                Check(_INVALID | operand, operand.name)
                for operand in (
                    Operand.EXEC_CONTROLS,
                    Operand.EPTP_CONTROLS,
                    Operand.TSC_FREQUENCY,
                    Operand.CPUID_CONFIG,
                    Operand.ARCH_CAPABILITIES,
                )
            ),
        ),
        on_error="RCX holds the CPUID leaf that was wrong",
    ),
    _vm(
        11,
        "TDH.MNG.RD",
        P_,
        "fields with addresses and the KeyID are filtered",
        vm.read,
        checks=(
            *_page(RCX, "TDR"),
            *_STATE,
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_READABLE, "not for a host"),
        ),
    ),
    _vm(
        13,
        "TDH.MNG.WR",
        P_,
        "the handle is an address of the guest host's",
        vm.write,
        checks=(
            *_page(RCX, "TDR"),
            *_STATE,
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_WRITABLE, "not for a host"),
        ),
    ),
    _vm(
        19,
        "TDH.MNG.VPFLUSHDONE",
        R_,
        "the KeyID is another one below",
        vm.flush_done,
        checks=(
            *_page(RCX, "TDR"),
            Check(_BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the TD has no key any more"),
            Check(Status.FLUSHVP_NOT_DONE, "a VCPU is associated"),
        ),
    ),
    _vm(
        20,
        "TDH.MNG.KEY.FREEID",
        R_,
        "the KeyID goes back to the level's pool",
        vm.free_key,
        checks=(
            *_page(RCX, "TDR"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "not flushed"),
            Check(_BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.WBCACHE_NOT_COMPLETE, "a package's cache may hold it"),
        ),
    ),
    _vm(27, "TDH.MNG.KEY.RECLAIMID", E_, "does nothing", vm.reclaim_key, handle=""),
    _vm(
        17,
        "TDH.MR.FINALIZE",
        P_,
        "the handle is an address of the guest host's",
        vm.finalize,
        checks=(*_page(RCX, "TDR"), *_OWNED, Check(Status.NO_VCPUS, "no VCPU is initialised")),
    ),
)


def _vcpu(code: int, name: str, treatment: Treatment, why: str, handler: Any, **more: Any) -> CallSpec:
    more = dict[str, Any]({"handle": _TDVPR, "at": RCX} | more)
    return _row(code, name, Category.VCPU, treatment, why, handler, **more)


_VCPU_CHECKS = (*_page(RCX, "TDVPR"), Check(_BUSY | Operand.TDR, "the TDR is locked"), *_STATE)
_VCPU = (
    _vcpu(
        10,
        "TDH.VP.CREATE",
        R_,
        _PAGE_IN,
        vcpu.create,
        handle=_TDR,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(*_page(RDX, "TDR"), *_STATE, *_page(RCX, "page")),
    ),
    _vcpu(
        4,
        "TDH.VP.ADDCX",
        R_,
        _PAGE_IN,
        vcpu.add_page,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *_page(RDX, "TDVPR"),
            Check(_BUSY | Operand.TDR, "the TDR is locked"),
            *_STATE,
            Check(Status.VCPU_STATE_INCORRECT, "initialised"),
            Check(Status.TDCX_NUM_INCORRECT, "fifteen pages are there"),
            *_page(RCX, "page"),
        ),
    ),
    _vcpu(
        22,
        "TDH.VP.INIT",
        P_,
        "the handle is an address of the guest host's",
        vcpu.initialize,
        checks=(
            *_VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "initialised"),
            Check(Status.MAX_VCPUS_EXCEEDED, "the TD has all of its VCPUs"),
        ),
    ),
    _vcpu(
        0,
        "TDH.VP.ENTER",
        R_,
        "exits that are this level's own are kept; the shared EPT is a shadow",
        enter.enter,
        checks=(
            Check(_INVALID | RCX, "a reserved bit"),
            *_VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "not ready"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(_INVALID | RCX, "a hint, or RESUME_L1, that does not fit the last exit"),
            Check(_BUSY | Operand.TD_EPOCH, "a TRACK is under way"),
            Check(_BUSY | Operand.SEPT_TREE, "the zero-step filter does not get the tree"),
        ),
    ),
    _vcpu(
        18,
        "TDH.VP.FLUSH",
        R_,
        "the LP is that on which the level below entered it",
        vcpu.flush,
        checks=(
            *_page(RCX, "TDVPR"),
            Check(_BUSY | Operand.TDR, "the TDR is locked"),
            Check(Status.TD_KEYS_NOT_CONFIGURED, "the TD has no key"),
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_NOT_ASSOCIATED, "not with this LP"),
        ),
    ),
    _vcpu(
        26,
        "TDH.VP.RD",
        P_,
        "fields with addresses are filtered",
        vcpu.read,
        checks=(
            *_VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "neither ready nor disabled"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_READABLE, "not for a host"),
        ),
    ),
    _vcpu(
        43,
        "TDH.VP.WR",
        R_,
        "SHARED_EPT_POINTER and the posted-interrupt descriptor are addresses",
        vcpu.write,
        checks=(
            *_VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "not ready"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_WRITABLE, "not for a host"),
            Check(Status.METADATA_FIELD_VALUE_NOT_VALID, "not such a value"),
        ),
    ),
)


def _mem(code: int, name: str, treatment: Treatment, why: str, handler: Any, **more: Any) -> CallSpec:
    more = dict[str, Any]({"handle": _TDR, "at": RDX, "checks": _SEPT} | more)
    return _row(code, name, Category.MEMORY, treatment, why, handler, **more)


_R8_PAGE = (Area("r8", "4096", SAME),)
_MEMORY = (
    _mem(
        3,
        "TDH.MEM.SEPT.ADD",
        R_,
        _PAGE_IN,
        memory.add_table,
        donated=_R8_PAGE,
        checks=(Check(_INVALID | RDX, "reserved bits"), *_SEPT, *_page(R8, "page")),
    ),
    _mem(
        30,
        "TDH.MEM.SEPT.REMOVE",
        R_,
        _OUT,
        memory.remove_table,
        checks=(*_SEPT, *_TRACKED, Check(Status.EPT_PAGE_NOT_FREE | RCX, "an entry is not free")),
    ),
    _mem(25, "TDH.MEM.SEPT.RD", R_, _OUT, memory.read_entry, checks=_ANY_ENTRY),
    _mem(
        2,
        "TDH.MEM.PAGE.ADD",
        R_,
        "page, source and handle are addresses of the guest host's",
        memory.add_page,
        donated=_R8_PAGE,
        length=4096,
        checks=(
            *_page(RDX, "TDR"),
            *_OWNED,
            *_OWN_WALK,
            Check(_INVALID | R9, "source"),
            *_page(R8, "page"),
        ),
    ),
    _mem(
        6,
        "TDH.MEM.PAGE.AUG",
        R_,
        _PAGE_IN,
        memory.augment,
        donated=(Area("r8", "4096 or 2097152", SAME),),
        checks=(*_SEPT, *_page(R8, "page")),
    ),
    _mem(
        7,
        "TDH.MEM.RANGE.BLOCK",
        P_,
        _GPA,
        memory.block,
        checks=(*_SEPT, Check(Status.GPA_RANGE_ALREADY_BLOCKED | RCX, "blocked already: a success")),
    ),
    _mem(
        39,
        "TDH.MEM.RANGE.UNBLOCK",
        P_,
        _GPA,
        memory.unblock,
        checks=(
            *_SEPT,
            Check(Status.TLB_TRACKING_NOT_DONE | Operand.SEPT_TREE, "translations may be cached"),
        ),
    ),
    _mem(
        38,
        "TDH.MEM.TRACK",
        P_,
        _GPA,
        memory.track,
        at=RCX,
        checks=(
            *_page(RCX, "TDR"),
            *_STATE,
            Check(_BUSY | Operand.TD_EPOCH, "the epoch is locked"),
            Check(Status.PREVIOUS_TLB_EPOCH_BUSY, "a VCPU is in an older epoch"),
        ),
    ),
    _mem(29, "TDH.MEM.PAGE.REMOVE", R_, _OUT, memory.remove_page, checks=(*_SEPT, *_TRACKED)),
    _mem(
        5,
        "TDH.MEM.PAGE.RELOCATE",
        R_,
        _OUT,
        pages.relocate,
        donated=_R8_PAGE,
        checks=(*_SEPT, Check(_INVALID | R8, "the present page"), *_TRACKED, *_page(R8, "page")),
    ),
    _mem(
        15,
        "TDH.MEM.PAGE.DEMOTE",
        R_,
        _PAGE_IN,
        pages.demote,
        donated=_R8_PAGE,
        checks=(*_SEPT, *_TRACKED, *_page(R8, "page")),
    ),
    _mem(
        23,
        "TDH.MEM.PAGE.PROMOTE",
        R_,
        _OUT,
        pages.promote,
        checks=(
            *_SEPT,
            *_TRACKED,
            Check(Status.EPT_INVALID_PROMOTE_CONDITIONS | RCX, "512 entries that do not fit together"),
        ),
    ),
    *(
        _mem(
            code,
            name,
            P_,
            _GPA,
            handler,
            checks=(
                *_page(RDX, "TDR"),
                *_STATE,
                Check(Status.TD_NON_DEBUG, "no debug TD"),
                Check(_INVALID | RCX, "not aligned, or no private address"),
                Check(_BUSY | Operand.SEPT_TREE, "the tree is locked"),
                Check(Status.EPT_ENTRY_NOT_PRESENT | RCX, "not mapped"),
                Check(_BUSY | RCX, "the entry is locked"),
                Check(Status.EPT_ENTRY_STATE_INCORRECT | RCX, "the entry's state is none of this call's"),
            ),
        )
        for code, name, handler in (
            (12, "TDH.MEM.RD", memory.read_memory),
            (14, "TDH.MEM.WR", memory.write_memory),
        )
    ),
    _mem(
        16,
        "TDH.MR.EXTEND",
        P_,
        _GPA,
        memory.extend,
        checks=(
            *_page(RDX, "TDR"),
            *_OWNED,
            Check(_INVALID | RCX, "not aligned, or no private address"),
            Check(Status.EPT_ENTRY_NOT_PRESENT | RCX, "not mapped"),
        ),
    ),
    _mem(
        24,
        "TDH.PHYMEM.PAGE.RDMD",
        R_,
        "owner and epoch are known below alone",
        phymem.read_metadata,
        handle="",
        at=-1,
        checks=(
            Check(_INVALID | RCX, "not aligned, KeyID bits, or too high"),
            Check(_RANGE | RCX, "in no initialised GiB of a TDMR"),
            Check(_BUSY | RCX, "locked in the PAMT"),
        ),
    ),
    _mem(
        28,
        "TDH.PHYMEM.PAGE.RECLAIM",
        R_,
        "the page, and the owner that the answer names",
        phymem.reclaim,
        handle="",
        at=-1,
        checks=(
            Check(_INVALID | RCX, "not aligned, KeyID bits, or too high"),
            Check(_RANGE | RCX, "in no initialised GiB of a TDMR"),
            Check(_BUSY | RCX, "locked in the PAMT"),
            Check(_META | RCX, "nobody's page"),
            Check(_INVALID | RCX, "inside a large page"),
            Check(_BUSY | Operand.TDR, "the owner is locked"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the owner has its key still"),
            Check(Status.TD_ASSOCIATED_PAGES_EXIST, "a TDR with pages"),
        ),
        on_error="RCX, RDX and R8 say what the page is",
    ),
    _mem(
        40,
        "TDH.PHYMEM.CACHE.WB",
        E_,
        "batched: a guest host never flushes real caches at will",
        phymem.write_back,
        handle="",
        at=-1,
        checks=(
            Check(_INVALID | RCX, "neither start nor resume"),
            Check(_BUSY | Operand.WBCACHE, "another LP of the package does it"),
            Check(_BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.NO_HKID_READY_TO_WBCACHE, "start, and no KeyID was flushed"),
            Check(Status.WBCACHE_RESUME_ERROR, "resume, and nothing was interrupted"),
        ),
    ),
    _mem(
        41,
        "TDH.PHYMEM.PAGE.WBINVD",
        R_,
        "the address, and the KeyID in it",
        phymem.flush_page,
        handle="",
        at=-1,
        checks=_page(RCX, "page"),
    ),
)

_FENCED = "not offered to a guest host, nor to any other, but in the profile that is about it"


def _migration(code: int, name: str, handler: Any, at: int = RCX, **more: Any) -> CallSpec:
    state = _OWNED if more.pop("alone", False) else _STATE
    usual = {"handle": _TDR, "basis": Basis.GUESS, "checks": (*_page(at, "TDR"), *state)}
    more = dict[str, Any](usual | more)
    return _row(code, name, Category.LIFECYCLE, P_, _FENCED, handler, at=at, **more)


def _data(
    code: int, name: str, at: int, operand: int, tdr: str = "S", op: str = "S", **more: Any
) -> CallSpec:
    handler = lifecycle.data_leaf(code, at, operand, tdr, op, vcpu=more.get("handle") == _TDVPR)
    return _migration(code, name, handler, at=at, alone=tdr == "X", **more)


_LIFECYCLE = (
    _migration(
        96,
        "TDH.MIG.STREAM.CREATE",
        lifecycle.create_stream,
        at=RDX,
        basis=Basis.SOURCE,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *_page(RDX, "TDR"),
            *_STATE,
            Check(_BUSY | Operand.MIG, "migration is locked"),
            Check(Status.MAX_MIGS_NUM_EXCEEDED, "512 streams are there"),
            *_page(RCX, "page"),
        ),
    ),
    _migration(48, "TDH.SERVTD.BIND", lifecycle.bind),
    _data(49, "TDH.SERVTD.PREBIND", RCX, R8),
    _migration(72, "TDH.EXPORT.STATE.IMMUTABLE", lifecycle.export_immutable),
    _data(65, "TDH.EXPORT.BLOCKW", RDX, RCX),
    _data(75, "TDH.EXPORT.UNBLOCKW", RDX, RCX),
    _data(68, "TDH.EXPORT.MEM", RDX, R10),
    _data(71, "TDH.EXPORT.TRACK", RCX, R10, op="X"),
    _migration(70, "TDH.EXPORT.PAUSE", lifecycle.pause, alone=True, basis=Basis.SOURCE),
    _data(73, "TDH.EXPORT.STATE.TD", RCX, R8, op="X"),
    _data(74, "TDH.EXPORT.STATE.VP", RCX, R8, handle=_TDVPR, checks=_VCPU_CHECKS),
    _migration(64, "TDH.EXPORT.ABORT", lifecycle.abort_export),
    _data(66, "TDH.EXPORT.RESTORE", RDX, RCX),
    _migration(85, "TDH.IMPORT.STATE.IMMUTABLE", lifecycle.import_immutable, alone=True),
    _data(83, "TDH.IMPORT.MEM", RDX, R10),
    _data(84, "TDH.IMPORT.TRACK", RCX, R10, tdr="X"),
    _data(86, "TDH.IMPORT.STATE.TD", RCX, R8, tdr="X"),
    _data(87, "TDH.IMPORT.STATE.VP", RCX, R8, handle=_TDVPR, checks=_VCPU_CHECKS),
    _migration(82, "TDH.IMPORT.COMMIT", lifecycle.commit, alone=True, basis=Basis.SOURCE),
    _migration(81, "TDH.IMPORT.END", lifecycle.end, alone=True, basis=Basis.SOURCE),
    _migration(80, "TDH.IMPORT.ABORT", lifecycle.abort_import, alone=True),
)


def _tdcall(code: int, name: str, handler: Any, **more: Any) -> CallSpec:
    more = dict[str, Any]({"states": "inside a TD", "issuer": Issuer.GUEST, "on_error": "RAX alone"} | more)
    why = "between the TD and the module alone"
    return _row(GUEST | code, name, Category.GUEST, Treatment.NATIVE, why, handler, source="2.7", **more)


_GUEST_CALLS = (
    _tdcall(
        0,
        "TDG.VP.VMCALL",
        guest.vmcall,
        on_error="it leaves with reason 77",
        checks=(Check(_INVALID | RCX, "a register that cannot be shown"),),
    ),
    _tdcall(1, "TDG.VP.INFO", guest.info),
    _tdcall(
        2,
        "TDG.MR.RTMR.EXTEND",
        guest.extend_rtmr,
        length=48,
        checks=(
            Check(_INVALID | RCX, "not aligned, or no private address"),
            Check(_INVALID | RDX, "no such register"),
            Check(_BUSY | Operand.RTMR, "the registers are locked"),
        ),
    ),
    _tdcall(
        3, "TDG.VP.VEINFO.GET", guest.ve_info, checks=(Check(Status.NO_VALID_VE_INFO, "there was no #VE"),)
    ),
    _tdcall(
        4,
        "TDG.MR.REPORT",
        guest.make_report,
        length=1088,
        checks=(
            Check(_INVALID | RCX, "not aligned"),
            Check(_INVALID | RDX, "not aligned, or no address"),
            Check(_INVALID | R8, "sub-type"),
        ),
    ),
    _tdcall(5, "TDG.VP.CPUIDVE.SET", guest.cpuid_ve, checks=(Check(_INVALID | RCX, "a reserved bit"),)),
    _tdcall(
        6,
        "TDG.MEM.PAGE.ACCEPT",
        guest.accept,
        on_error="it may leave with an EPT violation",
        checks=(
            Check(_INVALID | RCX, "GPA_LEVEL"),
            Check(_BUSY | RCX, "the host holds the entry"),
            Check(Status.PAGE_SIZE_MISMATCH, "mapped smaller"),
            Check(Status.PAGE_ALREADY_ACCEPTED, "mapped"),
        ),
    ),
    _tdcall(7, "TDG.VM.RD", guest.vm_read),
    _tdcall(8, "TDG.VM.WR", guest.vm_write),
    _tdcall(9, "TDG.VP.RD", guest.vp_read),
    _tdcall(10, "TDG.VP.WR", guest.vp_write),
    _tdcall(11, "TDG.SYS.RD", guest.sys_read),
    _tdcall(12, "TDG.SYS.RDALL", guest.sys_read_all, length=4096),
    _tdcall(
        22,
        "TDG.MR.VERIFYREPORT",
        guest.verify_report,
        length=256,
        checks=(
            Check(Status.INVALID_CPUSVN, "another CPU"),
            Check(Status.INVALID_REPORTMACSTRUCT, "made elsewhere"),
        ),
    ),
    *(
        _tdcall(
            code,
            name,
            handler,
            basis=Basis.INFERRED,
            checks=(Check(_INVALID | RCX, "no binding has that handle: none is ever made here"),),
        )
        for code, name, handler in (
            (18, "TDG.SERVTD.RD", partition.service_read),
            (20, "TDG.SERVTD.WR", partition.service_write),
        )
    ),
    _tdcall(
        23,
        "TDG.MEM.PAGE.ATTR.RD",
        partition.read_attributes,
        on_error="RCX and RDX are zeroed; it may leave with an EPT violation",
        checks=(
            Check(_INVALID | RCX, "no private address"),
            Check(_BUSY | RCX, "the host holds the entry"),
        ),
    ),
    _tdcall(
        24,
        "TDG.MEM.PAGE.ATTR.WR",
        partition.write_attributes,
        on_error="RCX and RDX are zeroed; it may leave with an EPT violation",
        checks=(
            Check(_INVALID | RDX, "attributes of the TD itself, of an L2 VM that it has not, or not VALID"),
            Check(_INVALID | R8, "a mask for the TD itself, or for an L2 VM that it has not"),
            Check(_INVALID | RCX, "GPA_LEVEL"),
            Check(_BUSY | RCX, "the host holds the entry"),
            Check(Status.PAGE_SIZE_MISMATCH, "mapped smaller"),
            Check(Status.PAGE_ATTR_INVALID, "writable and not readable, or a reserved bit"),
            Check(Status.L2_SEPT_WALK_FAILED, "the L2 VM has no tables there: here it never has"),
        ),
    ),
    _tdcall(
        25,
        "TDG.VP.ENTER",
        partition.enter,
        checks=(
            Check(_INVALID | RDX, "not aligned, or no private address"),
            Check(_INVALID | RCX, "no L2 VM of this TD, or a reserved bit"),
            Check(_INVALID | Operand.L2_VAPIC_GPA, "the L2 VM has no virtual APIC page: here it never has"),
        ),
    ),
    _tdcall(
        26,
        "TDG.VP.INVEPT",
        partition.invalidate_ept,
        checks=(Check(_INVALID | RCX, "the TD itself, or an L2 VM that it has not"),),
    ),
    _tdcall(
        27,
        "TDG.VP.INVVPID",
        partition.invalidate_vpid,
        length=4096,
        checks=(
            Check(_INVALID | RCX, "no L2 VM of this TD, or a reserved bit"),
            Check(_INVALID | RDX, "the list's form, or no private address"),
            Check(Status.GLA_NOT_CANONICAL, "a linear address that cannot be"),
        ),
    ),
)

CALLS = table((*_INIT, *_VM, *_VCPU, *_MEMORY, *_LIFECYCLE, *_GUEST_CALLS))
