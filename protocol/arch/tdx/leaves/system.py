"""TDH.SYS: the module comes up. Section 2.2 of the fact sheet."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.leaves.row import BUSY, EMULATED, INVALID, OWN_TABLES, UP, row
from protocol.arch.tdx.machine import init
from protocol.arch.tdx.status import R8, R9, RCX, RDX, Operand, Status
from protocol.calls import Area, CallSpec, Category, Check, Donation


def _init(code: int, name: str, why: str, handler: Any, **more: Any) -> CallSpec:
    return row(code, name, Category.INIT, EMULATED, why, handler, source="2.2, 3.3", **more)


INIT = (
    _init(
        33,
        "TDH.SYS.INIT",
        UP,
        init.initialize,
        states="SYSINIT_PENDING",
        checks=(
            Check(Status.SYS_BUSY, "the global lock is taken"),
            Check(INVALID | RCX, "attributes are not zero"),
            Check(Status.SYS_INIT_NOT_PENDING, "not in this state"),
        ),
    ),
    _init(
        35,
        "TDH.SYS.LP.INIT",
        UP,
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
            Check(INVALID | RCX, "buffer"),
            Check(INVALID | RDX, "fewer than 1024 bytes"),
            Check(INVALID | R8, "CMR array"),
            Check(INVALID | R9, "fewer than 32 entries"),
        ),
        on_error="RDX and R9 are zeroed",
    ),
    _init(
        34,
        "TDH.SYS.RD",
        OWN_TABLES,
        init.read,
        states="any",
        checks=(
            Check(Status.SYS_LP_INIT_NOT_DONE, "not done on this LP"),
            Check(Status.METADATA_FIELD_ID_INCORRECT, "no such field"),
        ),
        on_error="RDX names no field, R8 is zeroed",
    ),
    _init(
        37,
        "TDH.SYS.RDALL",
        OWN_TABLES,
        init.read_all,
        states="any",
        length=4096,
        checks=(
            Check(Status.SYS_LP_INIT_NOT_DONE, "not done on this LP"),
            Check(INVALID | RDX, "buffer"),
        ),
        on_error="R8 names no field",
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
            Check(INVALID | RCX, "array of pointers"),
            Check(INVALID | RDX, "0 TDMRs, or more than 64"),
            Check(INVALID | R8, "no private KeyID"),
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
            Check(BUSY | Operand.KET, "the key table is locked"),
        ),
    ),
    _init(
        36,
        "TDH.SYS.TDMR.INIT",
        "a table of this level",
        init.tdmr_init,
        donated=(Area("PAMT", "4202512", Donation.VIRTUAL),),
        checks=(
            Check(INVALID | RCX, "not the base of a TDMR"),
            Check(BUSY | RCX, "another LP initialises it"),
            Check(Status.TDMR_ALREADY_INITIALIZED, "all of it is initialised"),
        ),
        on_error="RDX is zeroed",
    ),
    _init(
        52,
        "TDH.SYS.SHUTDOWN",
        "this host's own module",
        init.shutdown,
        checks=(
            Check(INVALID | RCX, "handoff version"),
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
