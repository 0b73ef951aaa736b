"""TDCALL, what a TD asks the module for: section 2.7 of the fact sheet."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.leaves.row import BUSY, GUEST, INVALID, row
from protocol.arch.tdx.machine import guest, partition
from protocol.arch.tdx.status import R8, RCX, RDX, Operand, Status
from protocol.calls import Basis, CallSpec, Category, Check, Issuer, Treatment


def _tdcall(code: int, name: str, handler: Any, **more: Any) -> CallSpec:
    more = dict[str, Any]({"states": "inside a TD", "issuer": Issuer.GUEST, "on_error": "RAX alone"} | more)
    why = "between the TD and the module alone"
    return row(GUEST | code, name, Category.GUEST, Treatment.NATIVE, why, handler, source="2.7", **more)


GUEST_CALLS = (
    _tdcall(
        0,
        "TDG.VP.VMCALL",
        guest.vmcall,
        on_error="it leaves with reason 77",
        checks=(Check(INVALID | RCX, "a register that cannot be shown"),),
    ),
    _tdcall(1, "TDG.VP.INFO", guest.info),
    _tdcall(
        2,
        "TDG.MR.RTMR.EXTEND",
        guest.extend_rtmr,
        length=48,
        checks=(
            Check(INVALID | RCX, "not aligned, or no private address"),
            Check(INVALID | RDX, "no such register"),
            Check(BUSY | Operand.RTMR, "the registers are locked"),
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
            Check(INVALID | RCX, "not aligned"),
            Check(INVALID | RDX, "not aligned, or no address"),
            Check(INVALID | R8, "sub-type"),
        ),
    ),
    _tdcall(5, "TDG.VP.CPUIDVE.SET", guest.cpuid_ve, checks=(Check(INVALID | RCX, "a reserved bit"),)),
    _tdcall(
        6,
        "TDG.MEM.PAGE.ACCEPT",
        guest.accept,
        on_error="it may leave with an EPT violation",
        checks=(
            Check(INVALID | RCX, "GPA_LEVEL"),
            Check(BUSY | RCX, "the host holds the entry"),
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
            checks=(Check(INVALID | RCX, "no binding has that handle: none is ever made here"),),
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
            Check(INVALID | RCX, "no private address"),
            Check(BUSY | RCX, "the host holds the entry"),
        ),
    ),
    _tdcall(
        24,
        "TDG.MEM.PAGE.ATTR.WR",
        partition.write_attributes,
        on_error="RCX and RDX are zeroed; it may leave with an EPT violation",
        checks=(
            Check(INVALID | RDX, "attributes of the TD itself, of an L2 VM that it has not, or not VALID"),
            Check(INVALID | R8, "a mask for the TD itself, or for an L2 VM that it has not"),
            Check(INVALID | RCX, "GPA_LEVEL"),
            Check(BUSY | RCX, "the host holds the entry"),
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
            Check(INVALID | RDX, "not aligned, or no private address"),
            Check(INVALID | RCX, "no L2 VM of this TD, or a reserved bit"),
            Check(INVALID | Operand.L2_VAPIC_GPA, "the L2 VM has no virtual APIC page: here it never has"),
        ),
    ),
    _tdcall(
        26,
        "TDG.VP.INVEPT",
        partition.invalidate_ept,
        checks=(Check(INVALID | RCX, "the TD itself, or an L2 VM that it has not"),),
    ),
    _tdcall(
        27,
        "TDG.VP.INVVPID",
        partition.invalidate_vpid,
        length=4096,
        checks=(
            Check(INVALID | RCX, "no L2 VM of this TD, or a reserved bit"),
            Check(INVALID | RDX, "the list's form, or no private address"),
            Check(Status.GLA_NOT_CANONICAL, "a linear address that cannot be"),
        ),
    ),
)
