"""What rows of several kinds of leaves have in common: runs of checks, and how a row is made."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.status import CODE_MASK, RCX, RDX, Operand, Status
from protocol.calls import Area, Basis, CallSpec, Category, Check, Donation, Issuer, Treatment

GUEST = 0x1_0000
SAME = Donation.SAME_FRAME
EMULATED, MODIFIED, PASSED = Treatment.EMULATED, Treatment.MODIFIED, Treatment.PASSED
TDR = "tdr"
TDVPR = "tdvpr"
INVALID, BUSY = Status.OPERAND_INVALID, Status.OPERAND_BUSY
RANGE, META = Status.OPERAND_ADDR_RANGE_ERROR, Status.PAGE_METADATA_INCORRECT


def page_of(operand: int, what: str) -> tuple[Check, ...]:
    """The checks of a private page that an operand names, in their order."""
    return (
        Check(INVALID | operand, f"{what}: not aligned, KeyID bits, or too high"),
        Check(RANGE | operand, f"{what}: in no initialised GiB of a TDMR"),
        Check(BUSY | operand, f"{what}: locked in the PAMT"),
        Check(META | operand, f"{what}: another size or type"),
    )


STATE = (
    Check(Status.TD_FATAL, "the TD is dead"),
    Check(Status.TD_KEYS_NOT_CONFIGURED, "the key is not on all packages, or is gone"),
    Check(Status.TDCS_NOT_ALLOCATED, "fewer than six TDCS pages"),
    Check(BUSY | Operand.OP_STATE, "the op state is locked"),
    Check(Status.OP_STATE_INCORRECT, "the op state is none of this call's"),
)
OWNED = tuple(check for check in STATE if check.code != BUSY | Operand.OP_STATE)  # of who owns the TDR
WALK = (
    Check(INVALID | RCX, "GPA_LEVEL: form, or no private address"),
    Check(BUSY | Operand.SEPT_TREE, "the tree is locked"),
    Check(Status.EPT_WALK_FAILED | RCX, "the level is not reached"),
    Check(BUSY | RCX, "the entry is locked"),
    Check(Status.EPT_ENTRY_STATE_INCORRECT | RCX, "the entry's state is none of this call's"),
)
OWN_WALK = tuple(check for check in WALK if check.code & CODE_MASK != BUSY)
TRACKED = (
    Check(Status.GPA_RANGE_NOT_BLOCKED | RCX, "the TD may run and the entry is not blocked"),
    Check(Status.TLB_TRACKING_NOT_DONE | RCX, "the TD may run and translations may be cached"),
)
SEPT = (*page_of(RDX, "TDR"), *STATE, *WALK)
ANY_ENTRY = tuple(check for check in SEPT if check.code != Status.EPT_ENTRY_STATE_INCORRECT | RCX)
_ORDER = "order: section 3.3. "


def row(
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
    on_error: str = "nothing",
    basis: Basis = Basis.SOURCE,
    source: str = "2, 3.3",
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


UP = "the module below is up already; this host has one of its own to bring up"
OWN_TABLES = "answered from this level's own tables"
GPA = "the handle is an address of the guest host's; the guest address is the guest's own"
PAGE_IN = "page and handle are addresses of the guest host's"
OUT = "the answer names a page by its address below"
VCPU_CHECKS = (*page_of(RCX, "TDVPR"), Check(BUSY | Operand.TDR, "the TDR is locked"), *STATE)
