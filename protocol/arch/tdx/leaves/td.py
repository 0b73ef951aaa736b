"""TDs and their VCPUs: sections 2.3 and 2.4 of the fact sheet."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.leaves.row import (
    BUSY,
    EMULATED,
    INVALID,
    MODIFIED,
    OWNED,
    PAGE_IN,
    PASSED,
    SAME,
    STATE,
    TDR,
    TDVPR,
    VCPU_CHECKS,
    page_of,
    row,
)
from protocol.arch.tdx.machine import enter, vcpu, vm
from protocol.arch.tdx.status import RCX, RDX, Operand, Status
from protocol.calls import Area, CallSpec, Category, Check, Treatment


def _vm(
    code: int, name: str, treatment: Treatment, why: str, handler: Any, at: int = RCX, **more: Any
) -> CallSpec:
    more = dict[str, Any]({"handle": TDR, "source": "2.3, 3.3"} | more)
    return row(code, name, Category.VM, treatment, why, handler, at=at, **more)


VM = (
    _vm(
        9,
        "TDH.MNG.CREATE",
        MODIFIED,
        "page and KeyID are both replaced",
        vm.create,
        handle="",
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            Check(INVALID | RDX, "no private KeyID"),
            *page_of(RCX, "TDR"),
            Check(BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.HKID_NOT_FREE, "the KeyID is somebody's"),
        ),
    ),
    _vm(
        8,
        "TDH.MNG.KEY.CONFIG",
        MODIFIED,
        "virtual packages: all real ones with the last",
        vm.key_config,
        checks=(
            *page_of(RCX, "TDR"),
            Check(Status.TD_FATAL, "the TD is dead"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the key is configured"),
            Check(Status.KEY_CONFIGURED, "done on this package"),
            Check(BUSY | Operand.KET, "the key table is locked"),
        ),
    ),
    _vm(
        1,
        "TDH.MNG.ADDCX",
        MODIFIED,
        PAGE_IN,
        vm.add_page,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *page_of(RDX, "TDR"),
            Check(Status.TD_FATAL, "the TD is dead"),
            Check(Status.TD_KEYS_NOT_CONFIGURED, "the key is not on all packages"),
            Check(Status.TDCX_NUM_INCORRECT, "nine pages are there"),
            *page_of(RCX, "page"),
            Check(Status.OP_STATE_INCORRECT, "initialised (from the seventh page on)"),
        ),
    ),
    _vm(
        21,
        "TDH.MNG.INIT",
        MODIFIED,
        "handle and TD_PARAMS are addresses of the guest host's",
        vm.initialize,
        length=1024,
        checks=(
            *page_of(RCX, "TDR"),
            *OWNED,
            Check(INVALID | RDX, "buffer, or a reserved field"),
            *(
                Check(INVALID | operand, operand.name)
                for operand in (Operand.ATTRIBUTES, Operand.XFAM, Operand.MAX_VCPUS, Operand.NUM_L2_VMS)
            ),
            Check(Status.TDCS_NOT_ALLOCATED, "not enough pages for the L2 VMs"),
            *(
                Check(INVALID | operand, operand.name)
                for operand in (
                    Operand.EXEC_CONTROLS,
                    Operand.EPTP_CONTROLS,
                    Operand.TSC_FREQUENCY,
                    Operand.CPUID_CONFIG,
                    Operand.ARCH_CAPABILITIES,
                )
            ),
        ),
        on_error="RCX is zeroed, or holds the CPUID leaf that was wrong",
    ),
    _vm(
        11,
        "TDH.MNG.RD",
        PASSED,
        "fields with addresses and the KeyID are filtered",
        vm.read,
        checks=(
            *page_of(RCX, "TDR"),
            *STATE,
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_READABLE, "not for a host"),
        ),
        on_error="R8 is zeroed; in version 1 RDX names no field where there is no such one",
    ),
    _vm(
        13,
        "TDH.MNG.WR",
        PASSED,
        "the handle is an address of the guest host's",
        vm.write,
        checks=(
            *page_of(RCX, "TDR"),
            *STATE,
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_WRITABLE, "not for a host"),
        ),
        on_error="R8 is zeroed",
    ),
    _vm(
        19,
        "TDH.MNG.VPFLUSHDONE",
        MODIFIED,
        "the KeyID is another one below",
        vm.flush_done,
        checks=(
            *page_of(RCX, "TDR"),
            Check(BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "the TD has no key any more"),
            Check(Status.FLUSHVP_NOT_DONE, "a VCPU is associated"),
        ),
    ),
    _vm(
        20,
        "TDH.MNG.KEY.FREEID",
        MODIFIED,
        "the KeyID goes back to the level's pool",
        vm.free_key,
        checks=(
            *page_of(RCX, "TDR"),
            Check(Status.LIFECYCLE_STATE_INCORRECT, "not flushed"),
            Check(BUSY | Operand.KOT, "the key ownership table is locked"),
            Check(Status.WBCACHE_NOT_COMPLETE, "a package's cache may hold it"),
        ),
    ),
    _vm(27, "TDH.MNG.KEY.RECLAIMID", EMULATED, "does nothing", vm.reclaim_key, handle=""),
    _vm(
        17,
        "TDH.MR.FINALIZE",
        PASSED,
        "the handle is an address of the guest host's",
        vm.finalize,
        checks=(*page_of(RCX, "TDR"), *OWNED, Check(Status.NO_VCPUS, "no VCPU is initialised")),
    ),
)


def _vcpu(code: int, name: str, treatment: Treatment, why: str, handler: Any, **more: Any) -> CallSpec:
    more = dict[str, Any]({"handle": TDVPR, "at": RCX, "source": "2.4, 3.3"} | more)
    return row(code, name, Category.VCPU, treatment, why, handler, **more)


VCPU = (
    _vcpu(
        10,
        "TDH.VP.CREATE",
        MODIFIED,
        PAGE_IN,
        vcpu.create,
        handle=TDR,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(*page_of(RDX, "TDR"), *STATE, *page_of(RCX, "page")),
    ),
    _vcpu(
        4,
        "TDH.VP.ADDCX",
        MODIFIED,
        PAGE_IN,
        vcpu.add_page,
        at=RDX,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *page_of(RDX, "TDVPR"),
            Check(BUSY | Operand.TDR, "the TDR is locked"),
            *STATE,
            Check(Status.VCPU_STATE_INCORRECT, "initialised"),
            Check(Status.TDCX_NUM_INCORRECT, "fifteen pages are there"),
            *page_of(RCX, "page"),
        ),
    ),
    _vcpu(
        22,
        "TDH.VP.INIT",
        PASSED,
        "the handle is an address of the guest host's",
        vcpu.initialize,
        checks=(
            *VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "initialised"),
            Check(Status.MAX_VCPUS_EXCEEDED, "the TD has all of its VCPUs"),
        ),
    ),
    _vcpu(
        0,
        "TDH.VP.ENTER",
        MODIFIED,
        "exits that are this level's own are kept; the shared EPT is a shadow",
        enter.enter,
        checks=(
            Check(INVALID | RCX, "a reserved bit"),
            *VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "not ready"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(INVALID | RCX, "a hint, or RESUME_L1, that does not fit the last exit"),
            Check(BUSY | Operand.TD_EPOCH, "a TRACK is under way"),
            Check(BUSY | Operand.SEPT_TREE, "the zero-step filter does not get the tree"),
        ),
    ),
    _vcpu(
        18,
        "TDH.VP.FLUSH",
        MODIFIED,
        "the LP is that on which the level below entered it",
        vcpu.flush,
        checks=(
            *page_of(RCX, "TDVPR"),
            Check(BUSY | Operand.TDR, "the TDR is locked"),
            Check(Status.TD_KEYS_NOT_CONFIGURED, "the TD has no key"),
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_NOT_ASSOCIATED, "not with this LP"),
        ),
    ),
    _vcpu(
        26,
        "TDH.VP.RD",
        PASSED,
        "fields with addresses are filtered",
        vcpu.read,
        checks=(
            *VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "neither ready nor disabled"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_READABLE, "not for a host"),
        ),
        on_error="R8 is zeroed; in version 1 RDX names no field where there is no such one",
    ),
    _vcpu(
        43,
        "TDH.VP.WR",
        MODIFIED,
        "SHARED_EPT_POINTER and the posted-interrupt descriptor are addresses",
        vcpu.write,
        checks=(
            *VCPU_CHECKS,
            Check(Status.TDCX_NUM_INCORRECT, "too few pages"),
            Check(Status.VCPU_STATE_INCORRECT, "not ready"),
            Check(Status.VCPU_ASSOCIATED, "with another LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
            Check(Status.METADATA_FIELD_NOT_WRITABLE, "not for a host"),
            Check(Status.METADATA_FIELD_VALUE_NOT_VALID, "not such a value"),
        ),
        on_error="R8 is zeroed",
    ),
)
