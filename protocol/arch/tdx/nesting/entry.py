"""VCPUs of a guest host: VP.ENTER, and the calls that tie a VCPU to an LP or tell addresses.

Section 7.6. Each LP of the guest host runs on one of the level below, so an association there is one here.
An exit because of a shared address is looked at first: what this level has not shadowed yet is its own
business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol.arch.tdx import fields
from protocol.arch.tdx.fields import VP_FIELDS
from protocol.arch.tdx.front import Call
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.machine import metadata
from protocol.arch.tdx.machine.access import EPT_MISCONFIGURATION, EPT_VIOLATION, Exit
from protocol.arch.tdx.nesting.entities import TrackedVcpu
from protocol.arch.tdx.nesting.memory import keyed
from protocol.arch.tdx.nesting.operands import Operands
from protocol.arch.tdx.platform import PAGE_SHIFT
from protocol.arch.tdx.shared_ept import READ, WRITE
from protocol.arch.tdx.status import R8, R9, RAX, RCX, RDX, Operand, Refused, Status
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.tdx.cpu import Registers
    from protocol.arch.tdx.nesting import Nested

HANDLE = 0x000F_FFFF_FFFF_F000
FLAGS = 1 << 52 | 1 << 53
CODE = 0xFFFF_FFFF_0000_0000
NO_SUCH_FIELD = 0x3F << 56 | 0xFFFF  # of a class that there is not
# A call that ends with one of these did not get as far as to associate the VCPU with an LP.
_NOT_ASSOCIATED = frozenset(
    {
        Status.TD_FATAL,
        Status.TD_KEYS_NOT_CONFIGURED,
        Status.TDCS_NOT_ALLOCATED,
        Status.OP_STATE_INCORRECT,
        Status.TDCX_NUM_INCORRECT,
        Status.VCPU_STATE_INCORRECT,
        Status.VCPU_ASSOCIATED,
        Status.OPERAND_ADDR_RANGE_ERROR,
        Status.PAGE_METADATA_INCORRECT,
    }
)
_BUSY_BEFORE = frozenset(
    Status.OPERAND_BUSY | operand for operand in (RCX, int(Operand.TDR), int(Operand.OP_STATE))
)


def enter(n: Nested, call: Call) -> Step[int]:
    """TDH.VP.ENTER."""
    operands = Operands(n, call)
    flags = operands.given[RCX] & ~HANDLE
    if flags & ~FLAGS:
        raise Refused(Status.OPERAND_INVALID | RCX)
    operands.vcpu(RCX, exclusive=False, flags=flags)
    vcpu = n.vcpus.get((operands.given[RCX] & HANDLE) >> PAGE_SHIFT)
    legal = not operands.wrong
    program, park = call.program or Program(), call.park
    lp = n.under(call.lp)
    while True:
        out = yield from n.below.memory.enter(lp, operands.r, program, call.stay, park)
        park = False
        assert not isinstance(out, Fault), "what an entry meets in memory ends the guest, and is no exception"
        if vcpu is not None and legal:
            _associated(vcpu, call, out[RAX])
        missed = _missed(vcpu, out)
        if missed is None:
            return operands.take(out)
        assert vcpu is not None
        left = n.shadows.resolve(vcpu, *missed)
        if left is not None:
            return _show(call, left)


def _associated(vcpu: TrackedVcpu, call: Call, status: int) -> None:
    if status & CODE not in _NOT_ASSOCIATED and status not in _BUSY_BEFORE:
        vcpu.lp = call.lp.number


def _missed(vcpu: TrackedVcpu | None, out: Registers) -> tuple[int, int] | None:
    """The shared address that the guest could not reach, and how it wanted to: READ or WRITE."""
    if vcpu is None or out[RAX] not in (EPT_VIOLATION, EPT_MISCONFIGURATION):
        return None
    if not out[R8] & vcpu.td.shared_bit:
        return None
    return out[R8], out[RCX] & (READ | WRITE) or READ


def _show(call: Call, left: Exit) -> int:
    call.r[1:] = [0] * 15
    call.r[RCX], call.r[RDX], call.r[R8], call.r[R9] = left.rcx, left.rdx, left.r8, left.r9
    return left.status


def initialize(n: Nested, call: Call) -> Step[int]:
    """TDH.VP.INIT."""
    operands = Operands(n, call)
    operands.vcpu(RCX, exclusive=True)
    status = yield from operands.issue()
    if status == Status.SUCCESS:
        n.vcpus[operands.given[RCX] >> PAGE_SHIFT].lp = call.lp.number
    return status


def flush(n: Nested, call: Call) -> Step[int]:
    """TDH.VP.FLUSH."""
    operands = Operands(n, call)
    operands.vcpu(RCX, exclusive=True)
    status = yield from operands.issue()
    if status == Status.SUCCESS:
        n.vcpus[operands.given[RCX] >> PAGE_SHIFT].lp = None
    return status


# -- metadata --------------------------------------------------------------------------------------


def _named(n: Nested, call: Call) -> tuple[Operands, TrackedVcpu | None, str]:
    """The VCPU, if it is one, and the name of the field."""
    operands = Operands(n, call)
    operands.vcpu(RCX, exclusive=False)
    found = fields.find(VP_FIELDS, operands.given[RDX])
    vcpu = None if operands.wrong else n.vcpus.get(operands.given[RCX] >> PAGE_SHIFT)
    return operands, vcpu, "" if found is None else found[0].name


def read(n: Nested, call: Call) -> Step[int]:
    """TDH.VP.RD."""
    operands, vcpu, name = _named(n, call)
    status = yield from operands.issue()
    if vcpu is None:
        return status
    if call.version <= 1:
        _associated(vcpu, call, status)
    if status:
        return status
    match name:
        case "ASSOC_LPID":
            call.r[R8] = call.lp.number
        case "TDVPS_PAGE_PA":
            call.r[R8] = keyed(n, call.r[R8], vcpu.td.hkid)
        case "SHARED_EPTP":
            call.r[R8] = vcpu.shared_eptp & HANDLE
        case "PI_DESCRIPTOR":
            call.r[R8] = vcpu.pi_descriptor
    return status


def write(n: Nested, call: Call) -> Step[int]:
    """TDH.VP.WR: an address is looked at here and written below as that of the shadow, or of the page."""
    operands, vcpu, name = _named(n, call)
    if vcpu is None or name not in ("SHARED_EPTP", "PI_DESCRIPTOR"):
        status = yield from operands.issue()
        if vcpu is not None:
            _associated(vcpu, call, status)
        return status
    before = vcpu.shared_eptp, vcpu.pi_descriptor
    field = name.lower()
    book: Any = n  # the checks of these two fields look at addresses and nothing else
    tracked: Any = vcpu
    own, old = metadata.write_vp(book, tracked, operands.given[RDX], operands.given[R8], operands.given[R9])
    after, coming = getattr(vcpu, field), vcpu.shared_eptp
    vcpu.shared_eptp, vcpu.pi_descriptor = before
    vcpu.coming.append(coming)
    try:
        if own:
            operands.put(RDX, NO_SUCH_FIELD)
        else:
            operands.put(R8, _below(n, vcpu, name, n.profile.without_hkid(after)))
            operands.put(R9, (1 << 64) - 1)
        status = yield from operands.issue()
    finally:
        vcpu.coming.remove(coming)
    _associated(vcpu, call, status)
    if own and status == Status.METADATA_FIELD_ID_INCORRECT:
        call.r[R8] = 0
        return own
    if not status:
        setattr(vcpu, field, after)
        call.r[R8] = old
    return status


def _below(n: Nested, vcpu: TrackedVcpu, name: str, address: int) -> int:
    """What is written below in the place of an address of the guest host's."""
    if name == "SHARED_EPTP":
        return n.shadows.root(address, vcpu.td.eptp >> 3 & 7)
    return n.anywhere(address)
