"""Calls that go below with other addresses: one row each says what they name and what then changes here.

Handles and pages are addresses, so the map of handles is that of the guest host's memory. Guest addresses
pass. Where an answer shows an address below (a page that came back, an entry that was in the way, an
owner), the guest host gets its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from protocol.arch.tdx import fields
from protocol.arch.tdx.fields import TD_FIELDS
from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import phymem
from protocol.arch.tdx.machine.sept import ADDRESS, LEAF
from protocol.arch.tdx.nesting.entities import TrackedVcpu
from protocol.arch.tdx.nesting.keys import asked
from protocol.arch.tdx.nesting.operands import Operands
from protocol.arch.tdx.platform import FRAMES, PAGE_SHIFT
from protocol.arch.tdx.status import R8, R9, RCX, RDX, Operand, Status
from protocol.arch.tdx.structs import GPAW, TD_PARAMS_SIZE, TdParams
from protocol.arch.tdx.tables import PageType
from protocol.effects import Step
from protocol.memory.store import PAGE

if TYPE_CHECKING:
    from protocol.arch.tdx.nesting import Nested

NULL_PAGE = (1 << 64) - 1
NOT_USED = 1 << 63
READ_METADATA = 24
RESTARTABLE = Status.INTERRUPTED_RESTARTABLE
MBMD_ALIGN = 128
SIZE_BITS = 0xFFF << 52  # of a buffer's size in its register

After = Callable[["Nested", Call, Operands], None]


class Row(NamedTuple):
    """What a call names, in the module's order. `shared` handles are locked shared, others exclusively."""

    handle: int
    shared: bool = False
    vcpu: bool = False
    flags: int = 0  # of the handle's register
    page: int = 0  # the register of a page that is donated
    kind: PageType = PageType.NDA  # what becomes of it
    buffer: tuple[int, int] = (0, 0)  # register, alignment
    buffer_flags: int = 0
    entry: bool = False  # RCX may show a Secure EPT entry
    after: After | None = None


def reissue(row: Row) -> Callable[[Nested, Call], Step[int]]:
    """The treatment that `row` describes."""

    def treatment(n: Nested, call: Call) -> Step[int]:
        operands = Operands(n, call)
        if row.vcpu:
            operands.vcpu(row.handle, not row.shared, row.flags)
        else:
            operands.page(row.handle, not row.shared, flags=row.flags)
        if row.buffer[0]:
            operands.buffer(*row.buffer, flags=row.buffer_flags)
        if row.page:
            operands.page(row.page, exclusive=True)
        status = yield from operands.issue()
        if row.entry:
            show_entry(n, call, status)
        if status == Status.SUCCESS:
            if row.page:
                owner = (operands.given[row.handle] & ~row.flags) >> PAGE_SHIFT
                n.gives(operands.given[row.page] >> PAGE_SHIFT, row.kind, n.td_frame(owner))
            if row.after is not None:
                row.after(n, call, operands)
        return status

    return treatment


def show_entry(n: Nested, call: Call, status: int) -> None:
    """An entry in RCX names a page by its address below. A call that was interrupted shows its operand."""
    if status & ~0xFFFF_FFFF == RESTARTABLE:
        return
    entry = call.r[RCX]
    below = entry & ADDRESS
    if entry & LEAF and below and n.holds(below):
        call.r[RCX] = entry & ~ADDRESS | n.own_address(below)


# -- what changes here -----------------------------------------------------------------------------


def _initialized(n: Nested, call: Call, operands: Operands) -> None:
    """The TD's shape is what its parameters said."""
    data = n.peek(n.profile.without_hkid(operands.given[RDX]), TD_PARAMS_SIZE)
    assert isinstance(data, bytes)
    td = n.tds[operands.given[RCX] >> PAGE_SHIFT]
    params = TdParams.unpack(data, 0)
    td.eptp, td.gpaw = params.eptp, params.config_flags & GPAW


def _created(n: Nested, call: Call, operands: Operands) -> None:
    frame, td = operands.given[RCX] >> PAGE_SHIFT, n.tds[operands.given[RDX] >> PAGE_SHIFT]
    vcpu = n.vcpus[frame] = TrackedVcpu(frame, td)
    td.vcpus.append(vcpu)
    n.book_of(frame).add("vcpu_map")


def _page_back(n: Nested, call: Call, operands: Operands) -> None:
    """RCX names a page that is the guest host's again."""
    size = operands.given[RCX] & 7
    call.r[RCX] = n.own_address(call.r[RCX])
    n.takes_back(call.r[RCX] >> PAGE_SHIFT, FRAMES[size])


def _table_back(n: Nested, call: Call, operands: Operands) -> None:
    call.r[RCX] = n.own_address(call.r[RCX])
    n.takes_back(call.r[RCX] >> PAGE_SHIFT, 1)


def augment(n: Nested, call: Call) -> Step[int]:
    """TDH.MEM.PAGE.AUG: of a page or of a large one."""
    operands = Operands(n, call)
    operands.page(RDX, exclusive=False)
    size = int(operands.given[RCX] & 7 == 1)
    operands.page(R8, exclusive=True, size=size)
    status = yield from operands.issue()
    show_entry(n, call, status)
    if status == Status.SUCCESS:
        first, tdr = operands.given[R8] >> PAGE_SHIFT, operands.given[RDX] >> PAGE_SHIFT
        n.gives(first, PageType.REG, tdr, FRAMES[size])
    return status


def add_table(n: Nested, call: Call) -> Step[int]:
    """TDH.MEM.SEPT.ADD: whether the page was taken is in R8 of version 1, and otherwise has to be asked."""
    operands = Operands(n, call)
    allow, page = operands.given[RDX] & 1, operands.given[R8]
    operands.page(RDX, exclusive=False, flags=1)
    if page != NULL_PAGE:
        operands.page(R8, exclusive=True, flags=NOT_USED)
    below = operands.r[R8]
    frame = (page & ~NOT_USED) >> PAGE_SHIFT
    free = n.platform.covered(frame << PAGE_SHIFT) and n.platform.kind_of(frame) == PageType.NDA
    status = yield from operands.issue()
    show_entry(n, call, status)
    if status or page == NULL_PAGE:
        return status
    if call.version:
        taken = call.r[R8] == NULL_PAGE
        if not taken:
            call.r[R8] = page | NOT_USED
    else:
        taken = not allow or (free and (yield from _is_table(n, call, below)))
    if taken:
        tdr = (operands.given[RDX] & ~1) >> PAGE_SHIFT
        n.gives(frame, PageType.EPT, tdr)
    return status


def _is_table(n: Nested, call: Call, below: int) -> Step[bool]:
    out = yield from asked(n, n.under(call.lp), rax=READ_METADATA, rcx=below & ~NOT_USED)
    return out[RCX] == PageType.EPT


# -- physical memory -------------------------------------------------------------------------------


def metadata(n: Nested, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.RDMD: the epoch is known below alone; a reserved page is one of this level's tables."""
    address = call.r[RCX]
    if n.platform.covered(address) and n.platform.kind_of(address >> PAGE_SHIFT) == PageType.RSVD:
        return (yield from phymem.read_metadata(n, call))
    operands = Operands(n, call)
    operands.page(RCX, exclusive=False)
    status = yield from operands.issue()
    if status == Status.SUCCESS and call.r[RDX]:
        call.r[RDX] = n.own_address(call.r[RDX])
    return status


def reclaim(n: Nested, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.RECLAIM: page and owner."""
    platform = n.platform
    operands = Operands(n, call)
    operands.page(RCX, exclusive=True)
    frame = operands.given[RCX] >> PAGE_SHIFT
    kind = PageType(platform.kind_of(frame))
    if not operands.wrong and kind not in (PageType.NDA, PageType.TDR, PageType.RSVD):
        operands.share_owner(RCX, platform.owners[frame])
    status = yield from operands.issue()
    if status == Status.OPERAND_BUSY | Operand.TDR and operands.wrong:
        call.r[RCX], call.r[RDX] = kind, platform.owners[frame] << PAGE_SHIFT
    elif call.r[RDX]:
        call.r[RDX] = n.own_address(call.r[RDX])
    if status == Status.SUCCESS:
        if kind is PageType.TDR:
            del n.tds[frame]
            n.book_of(frame).drop("vm_map")
        n.takes_back(frame, FRAMES[call.r[R8]])
    return status


def flush_page(n: Nested, call: Call) -> Step[int]:
    """TDH.PHYMEM.PAGE.WBINVD: the KeyID in the address is another one below."""
    operands = Operands(n, call)
    hkid = n.profile.hkid_of(operands.given[RCX])
    operands.given[RCX] = n.profile.without_hkid(operands.given[RCX])
    operands.page(RCX, exclusive=False)
    real = next((td.real for td in n.tds.values() if td.hkid == hkid), 0)
    if not operands.wrong:
        operands.r[RCX] |= real << n.below.memory.profile.hkid_shift
        operands.translations.append("handle")
    operands.given[RCX] = call.r[RCX]
    return (yield from operands.issue())


# -- metadata --------------------------------------------------------------------------------------


def read_td(n: Nested, call: Call) -> Step[int]:
    """TDH.MNG.RD: what is an address, a KeyID or a set of packages is the guest host's own."""
    operands = Operands(n, call)
    operands.page(RCX, exclusive=False)
    status = yield from operands.issue()
    found = fields.find(TD_FIELDS, operands.given[RDX])
    td = n.td_at(operands, RCX)
    if status == Status.SUCCESS and found is not None and td is not None:
        match found[0].name:
            case "TDCX_PA":
                call.r[R8] = keyed(n, call.r[R8], td.hkid)
            case "EPTP":
                below = call.r[R8] & ADDRESS
                call.r[R8] = call.r[R8] & ~ADDRESS | n.own_address(below)
            case "HKID":
                call.r[R8] = td.hkid
            case "PKG_CONFIG_BITMAP":
                call.r[R8] = td.configured
    return status


def keyed(n: Nested, below: int, hkid: int) -> int:
    """A page's address below, with a KeyID in it, as the guest host's with its own."""
    if not below:
        return 0
    plain: int = n.below.memory.profile.without_hkid(below)
    return n.own_address(plain) | hkid << n.profile.hkid_shift


_TDR_X = Row(RCX)
_TDR_S = Row(RCX, shared=True)
_SEPT = Row(RDX, shared=True, entry=True)
ROWS = {
    1: Row(RDX, page=RCX, kind=PageType.TDCX),
    21: Row(RCX, buffer=(RDX, TD_PARAMS_SIZE), after=_initialized),
    13: _TDR_S,
    17: _TDR_X,
    10: Row(RDX, shared=True, page=RCX, kind=PageType.TDVPR, after=_created),
    4: Row(RDX, vcpu=True, page=RCX, kind=PageType.TDCX),
    30: _SEPT._replace(after=_table_back),
    25: _SEPT._replace(flags=1),
    2: Row(RDX, entry=True, buffer=(R9, PAGE), page=R8, kind=PageType.REG),
    7: _SEPT,
    39: _SEPT,
    38: _TDR_S,
    29: _SEPT._replace(after=_page_back),
    5: _SEPT._replace(page=R8, kind=PageType.REG, after=_table_back),
    15: _SEPT._replace(flags=1, page=R8, kind=PageType.EPT),
    23: _SEPT._replace(after=_table_back),
    12: _SEPT,
    14: _SEPT,
    16: Row(RDX, entry=True),
} | {
    # section 2.6
    96: Row(RDX, shared=True, page=RCX, kind=PageType.TDCX),
    **dict.fromkeys((49, 72, 71, 73), _TDR_S),
    **dict.fromkeys((65, 75, 68, 66, 83), Row(RDX, shared=True)),
    **dict.fromkeys((70, 81, 82, 84, 85, 86), _TDR_X),
    **dict.fromkeys((74, 87), Row(RCX, vcpu=True)),
    64: Row(RCX, shared=True, buffer=(R8, MBMD_ALIGN), buffer_flags=SIZE_BITS),
    80: Row(RCX, buffer=(R8, MBMD_ALIGN), buffer_flags=SIZE_BITS),
}


def bind(n: Nested, call: Call) -> Step[int]:
    """TDH.SERVTD.BIND names two TDs."""
    operands = Operands(n, call)
    operands.page(RCX, exclusive=False)
    operands.page(RDX, exclusive=False)
    return (yield from operands.issue())
