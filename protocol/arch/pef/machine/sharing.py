"""UV_SHARE_PAGE, UV_UNSHARE_PAGE, UV_UNSHARE_ALL_PAGES: sections 5.2 to 5.4 and 6.3.

Every page of a call passes through transient states while the hypervisor is asked about it, and only behind
the last one are all of them zeroed and mapped. A share that fails takes back what this call has begun.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from protocol.arch.pef import hcalls
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.machine.upcall import Answer, Reflect, Wait, page_in
from protocol.arch.pef.profiles import FIRMWARE
from protocol.arch.pef.status import P2, PARAMETER, SUCCESS
from protocol.arch.pef.tables import EXPLICIT, IMPLICIT, PAGE, PSEUDO, TRANSIENT, Page

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine

TRIES = 4  # page-ins of a page that is out and is to be shared
STAYS = EXPLICIT | IMPLICIT | PSEUDO  # shared already: nothing to do

Asking = Generator[Reflect | Wait, Answer | None, int]


def share(machine: Machine, svm: Svm, first: int, count: int) -> Asking:
    """Make pages visible to the hypervisor, zeroed."""
    pages = _pages(machine, svm, first, count)
    if pages is None:
        return _outside(machine)
    if any(page in TRANSIENT for page in pages):
        return P2
    begun: list[int] = []
    for gfn in range(first, first + count):
        if _page(machine, svm, gfn) in STAYS:
            continue
        if not (yield from _share_one(machine, svm, gfn, begun)):
            yield from _take_back(machine, svm, begun)
            return P2
    for gfn in begun:
        _now_shared(machine, svm, gfn)
    return SUCCESS


def unshare(machine: Machine, svm: Svm, first: int, count: int) -> Asking:
    """Make pages secure again, zeroed."""
    pages = _pages(machine, svm, first, count)
    if pages is None:
        return _outside(machine)
    if any(page in TRANSIENT or page in IMPLICIT or page in PSEUDO for page in pages):
        return P2
    return (yield from _unshare(machine, svm, range(first, first + count)))


def unshare_all(machine: Machine, svm: Svm) -> Asking:
    """Every explicitly shared page."""
    gfns = [gfn for gfn, frame in svm.gfns() if machine.secure.page(frame) in EXPLICIT]
    return (yield from _unshare(machine, svm, gfns))


def _pages(machine: Machine, svm: Svm, first: int, count: int) -> list[Page] | None:
    """The states of a range; None if it is empty or leaves the slots."""
    if not 0 < count <= machine.secure.state.size:
        return None
    frames = [svm.frame(gfn) for gfn in range(first, first + count)]
    return None if None in frames else [machine.secure.page(frame) for frame in frames if frame is not None]


def _outside(machine: Machine) -> int:
    return P2 if machine.profile.choices.share_gfn == FIRMWARE else PARAMETER


def _page(machine: Machine, svm: Svm, gfn: int) -> Page | None:
    frame = svm.frame(gfn)
    return None if frame is None else machine.secure.page(frame)


def _become(machine: Machine, svm: Svm, gfn: int, page: Page) -> None:
    frame = svm.frame(gfn)
    if frame is not None:  # its slot may have gone while the hypervisor was asked
        machine.secure.become(frame, page)


def _share_one(
    machine: Machine, svm: Svm, gfn: int, begun: list[int]
) -> Generator[Reflect | Wait, Answer | None, bool]:
    for _ in range(TRIES):
        if _page(machine, svm, gfn) is not Page.PAGEDOUT:
            break
        yield from page_in(gfn, hcalls.NONSHARED)
    if _page(machine, svm, gfn) is not Page.SECURE:
        return False
    _become(machine, svm, gfn, Page.HV_SHARING)
    begun.append(gfn)
    status = yield from page_in(gfn, hcalls.SHARED)
    return status == SUCCESS and _page(machine, svm, gfn) in (Page.HV_SHARED, Page.HV_SHARED_INV)


def _now_shared(machine: Machine, svm: Svm, gfn: int) -> None:
    frame = svm.frame(gfn)
    if frame is None:
        return
    machine.secure.zero(frame)
    if machine.secure.page(frame) is Page.HV_SHARED:
        machine.store(machine.secure.normal_of(frame), bytes(PAGE))
        machine.secure.become(frame, Page.SHARED)
    else:
        machine.secure.become(frame, Page.SHARED_INV)


def _take_back(
    machine: Machine, svm: Svm, begun: Sequence[int]
) -> Generator[Reflect | Wait, Answer | None, None]:
    """The call failed: what it began is secure again, whatever the hypervisor says to that."""
    for gfn in begun:
        _become(machine, svm, gfn, Page.HV_UNSHARING)
        yield from page_in(gfn, hcalls.NONSHARED)
        _now_secure(machine, svm, gfn)


def _unshare(machine: Machine, svm: Svm, gfns: Sequence[int]) -> Asking:
    begun: list[int] = []
    status = SUCCESS
    for gfn in gfns:
        page = _page(machine, svm, gfn)
        if page not in EXPLICIT:
            continue
        _become(machine, svm, gfn, Page.HV_UNSHARING)
        if (yield from page_in(gfn, hcalls.NONSHARED)) != SUCCESS:
            _still_shared(machine, svm, gfn)
            status = P2
            break
        _become(machine, svm, gfn, Page.HV_UNSHARED)
        begun.append(gfn)
    for gfn in begun:
        _now_secure(machine, svm, gfn)
    return status


def _still_shared(machine: Machine, svm: Svm, gfn: int) -> None:
    """The hypervisor refused: the page stays what it was."""
    valid = _page(machine, svm, gfn) is Page.HV_UNSHARING
    _become(machine, svm, gfn, Page.SHARED if valid else Page.SHARED_INV)


def _now_secure(machine: Machine, svm: Svm, gfn: int) -> None:
    frame = svm.frame(gfn)
    if frame is not None:
        machine.secure.zero(frame)
        machine.secure.become(frame, Page.SECURE)
