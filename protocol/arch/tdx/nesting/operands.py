"""Operands of one call on their way down, and the registers on their way up.

An operand that this level itself finds wrong (its form, an address in none of the guest host's TDMRs, a
lock that another call of this guest host holds here) is replaced by one that is wrong in form. So the
module below still makes its own checks in their order, and where it comes to that operand and refuses it,
the answer is what this level found. Everything else about an operand the module below judges by itself:
type, size, and the locks that it holds are the same in both books.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call, Raised
from protocol.arch.tdx.platform import FRAMES, NOT_OURS, PAGE_SHIFT, page_lock
from protocol.arch.tdx.status import BUSY, CODE_MASK, RAX, Operand, Refused, Status
from protocol.arch.tdx.tables import PageType
from protocol.effects import Fault, Step

if TYPE_CHECKING:
    from protocol.arch.tdx.cpu import Lp, Registers
    from protocol.arch.tdx.nesting import Nested

WRONG = 0x808  # neither a page nor a buffer can be there


class Operands:
    """The registers as they go below. What is found wrong is kept by register."""

    def __init__(self, n: Nested, call: Call) -> None:
        self._n = n
        self._call = call
        self.given = list(call.r)
        self.r = list(call.r)
        self.wrong: dict[int, int] = {}
        self.translations: list[str] = []  # by stage; they count when the answer is not "busy"
        self._changed: list[int] = []

    # -- down --------------------------------------------------------------------------------------

    def page(self, register: int, exclusive: bool, size: int = 0, flags: int = 0) -> None:
        """A private page, but for `flags`; `exclusive` is how the module locks it."""
        address, kept = self.given[register] & ~flags, self.given[register] & flags
        try:
            below = located(self._n, self._call, address, register, exclusive, size)
            self.translated(register, below | kept, "host_page")
        except Refused as refused:
            self.fail(register, refused.status)

    def vcpu(self, register: int, exclusive: bool, flags: int = 0) -> None:
        """A TDVPR: the module shares the TDR that it belongs to."""
        self.page(register, exclusive, flags=flags)
        frame = (self.given[register] & ~flags) >> PAGE_SHIFT
        platform = self._n.platform
        if register not in self.wrong and platform.kind_of(frame) == PageType.TDVPR:
            self.share_owner(register, platform.owners[frame])

    def share_owner(self, register: int, tdr: int) -> None:
        """What `register` names belongs to a TD, whose TDR the module shares."""
        if not self._call.held.share(page_lock(tdr, 0)):
            self.fail(register, Status.OPERAND_BUSY | Operand.TDR)

    def buffer(self, register: int, align: int, size: int = 0, flags: int = 0) -> None:
        """Memory of the guest host's own, within one page."""
        address, kept = self.given[register] & ~flags, self.given[register] & flags
        plain = self._n.platform.shared_form(address, align, size or align)
        if plain == NOT_OURS:
            self.fail(register, Status.OPERAND_INVALID | register, kept)
        else:
            self.translated(register, self._n.anywhere(plain) | kept, "host_page")

    def translated(self, register: int, value: int, stage: str) -> None:
        """What the level below knows under another number."""
        self.translations.append(stage)
        self.put(register, value)

    def put(self, register: int, value: int) -> None:
        self.r[register] = value
        self._changed.append(register)

    def fail(self, register: int, status: int, kept: int = 0) -> None:
        self.wrong.setdefault(register, status)
        self.put(register, WRONG | kept)

    # -- below -------------------------------------------------------------------------------------

    def issue(self) -> Step[int]:
        """Issue the call below on the LP on which the guest host's LP runs, and look at the answer."""
        call = self._call
        out = yield from self._n.below.memory.call(self._n.under(call.lp), self.r, call.park)
        return self.take(out)

    def issue_at_once(self) -> Step[int]:
        """The same without stopping on the way, and without showing what others below are busy with."""
        out = yield from undisturbed(self._n, self._n.under(self._call.lp), self.r)
        return self.take(out)

    # -- up ----------------------------------------------------------------------------------------

    def take(self, out: Registers | Fault) -> int:
        """Registers and status as the guest host gets them."""
        if isinstance(out, Fault):
            raise Raised(replace(out, address=self._n.own_address(out.address)))
        status = out[RAX]
        if status & CODE_MASK not in BUSY:
            for stage in self.translations:
                self._n.ledger.count(("translations", stage))
        for register, own in self.wrong.items():
            if status == Status.OPERAND_INVALID | register:
                status, self._call.own = own, True
        self._call.r[1:] = out[1:]
        for register in self._changed:
            if out[register] == self.r[register]:
                self._call.r[register] = self.given[register]
        return status


def located(n: Nested, call: Call, address: int, operand: int, exclusive: bool, size: int = 0) -> int:
    """The address below of a private page, locked here. Raises Refused with what this level finds wrong."""
    platform = n.platform
    platform.form(address, operand, size)
    frame = address >> PAGE_SHIFT
    platform.walk(call.held, frame, operand, exclusive, size)
    reserved = PageType.RSVD
    if size:
        run = platform.kind[frame : frame + FRAMES[size]]
        outside = run.size < FRAMES[size] or bool((run == reserved).any())
    else:
        outside = platform.kind_of(frame) == reserved
    if outside:
        raise Refused(Status.PAGE_METADATA_INCORRECT | operand)
    return n.frame_below(frame) << PAGE_SHIFT


TRIES = 16
OWN_TRIES = 4096  # of a level's own work for a guest host: nobody else would do it later
_BUSY = frozenset({Status.OPERAND_BUSY, Status.SYS_BUSY})


def undisturbed(n: Nested, lp: Lp, r: Registers, tries: int = TRIES) -> Step[Registers | Fault]:
    """Issue a call below; where somebody else's call is in the way, try again, a bounded number of times."""
    out: Registers | Fault = r
    for _ in range(tries):
        out = yield from n.below.memory.call(lp, r)
        if isinstance(out, Fault) or out[RAX] & CODE_MASK not in _BUSY:
            break
        n.ledger.contention["absorbed_busy"] += 1
    return out
