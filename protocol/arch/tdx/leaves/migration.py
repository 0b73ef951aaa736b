"""Service TDs and migration: section 2.6 of the fact sheet."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.leaves.row import (
    BUSY,
    OWNED,
    PASSED,
    SAME,
    STATE,
    TDR,
    TDVPR,
    VCPU_CHECKS,
    page_of,
    row,
)
from protocol.arch.tdx.machine import lifecycle
from protocol.arch.tdx.status import R8, R10, RCX, RDX, Operand, Status
from protocol.calls import Area, Basis, CallSpec, Category, Check

_FENCED = "not offered to a guest host, nor to any other, but in the profile that is about it"


def _migration(code: int, name: str, handler: Any, at: int = RCX, **more: Any) -> CallSpec:
    state = OWNED if more.pop("alone", False) else STATE
    usual = {
        "handle": TDR,
        "source": "2.6, 4.4",
        "basis": Basis.GUESS,
        "checks": (*page_of(at, "TDR"), *state),
    }
    more = dict[str, Any](usual | more)
    return row(code, name, Category.LIFECYCLE, PASSED, _FENCED, handler, at=at, **more)


def _data(
    code: int, name: str, at: int, operand: int, tdr: str = "S", op: str = "S", **more: Any
) -> CallSpec:
    handler = lifecycle.data_leaf(code, at, operand, tdr, op, vcpu=more.get("handle") == TDVPR)
    return _migration(code, name, handler, at=at, alone=tdr == "X", **more)


MIGRATION = (
    _migration(
        96,
        "TDH.MIG.STREAM.CREATE",
        lifecycle.create_stream,
        at=RDX,
        basis=Basis.SOURCE,
        donated=(Area("rcx", "4096", SAME),),
        checks=(
            *page_of(RDX, "TDR"),
            *STATE,
            Check(BUSY | Operand.MIG, "migration is locked"),
            Check(Status.MAX_MIGS_NUM_EXCEEDED, "512 streams are there"),
            *page_of(RCX, "page"),
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
    _data(74, "TDH.EXPORT.STATE.VP", RCX, R8, handle=TDVPR, checks=VCPU_CHECKS),
    _migration(64, "TDH.EXPORT.ABORT", lifecycle.abort_export),
    _data(66, "TDH.EXPORT.RESTORE", RDX, RCX),
    _migration(85, "TDH.IMPORT.STATE.IMMUTABLE", lifecycle.import_immutable, alone=True),
    _data(83, "TDH.IMPORT.MEM", RDX, R10),
    _data(84, "TDH.IMPORT.TRACK", RCX, R10, tdr="X"),
    _data(86, "TDH.IMPORT.STATE.TD", RCX, R8, tdr="X"),
    _data(87, "TDH.IMPORT.STATE.VP", RCX, R8, handle=TDVPR, checks=VCPU_CHECKS),
    _migration(82, "TDH.IMPORT.COMMIT", lifecycle.commit, alone=True, basis=Basis.SOURCE),
    _migration(81, "TDH.IMPORT.END", lifecycle.end, alone=True, basis=Basis.SOURCE),
    _migration(80, "TDH.IMPORT.ABORT", lifecycle.abort_import, alone=True),
)
