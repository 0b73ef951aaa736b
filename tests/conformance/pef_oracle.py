"""Which check of a row refused a call, judged from outside, by the order in which the table lists them.

Many rows of POWER answer one code for several reasons, so a code does not say which check it was. What can be
seen before the call is asked here: `CONDITIONS` has the checks whose code stands more than once in its row. A
check that is not there is known by its code. Nothing here is used by the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.status import unsigned
from protocol.arch.pef.tables import IMPLICIT, ORDER, PAGE, PAGE_SHIFT, PSEUDO, SECURE_BIT, TRANSIENT, Page

ROWS = {row.name: row for row in CALLS.values()}


@dataclass(frozen=True)
class Seen:
    """What there is to see before a call is judged: the machine, who asks, the registers."""

    machine: Any
    gpr: list[int]
    lpid: int = 0  # of the guest that asks
    pid: int = 0
    hv: bool = False
    pr: bool = False
    secure: bool = False
    vm: Any = None  # KVM's, where KVM is asked
    srr1: int = 0

    @property
    def svm(self) -> Any:
        """The SVM that the call is about."""
        return self.machine.svms.get(self.gpr[4])

    @property
    def own(self) -> Any:
        """The SVM that asks."""
        return self.machine.svms.get(self.lpid)

    def page(self, gpa: int) -> Page | None:
        frame = None if self.svm is None else self.svm.frame(gpa >> PAGE_SHIFT)
        return None if frame is None else self.machine.secure.page(frame)

    def range(self) -> list[Page] | None:
        """States of the pages that a guest names; None if one lies in no slot."""
        first, count = self.gpr[4:6]
        if self.own is None or not 0 < count <= self.machine.secure.state.size:
            return None
        frames = [self.own.frame(gfn) for gfn in range(first, first + count)]
        return None if None in frames else [self.machine.secure.page(frame) for frame in frames]


Condition = Callable[[Seen], bool]


def _not_hypervisor(seen: Seen) -> bool:
    return not seen.hv or seen.pr


def _privileged(seen: Seen) -> bool:
    return seen.hv or seen.pr


def _bad_address(seen: Seen) -> bool:
    address = seen.gpr[5]
    outside = address % PAGE > 0 or address + PAGE > seen.machine.size
    return not address or bool(address & SECURE_BIT) or outside


def _states(*states: Any) -> Condition:
    found = frozenset().union(*states)
    return lambda seen: any(page in found for page in seen.range() or ())


_SVM_ONLY: dict[int, Condition] = {0: lambda seen: not seen.secure, 1: _privileged}
_RANGE: dict[int, Condition] = {2: lambda seen: seen.range() is None}
_REFUSED: dict[int, Condition] = {0: _not_hypervisor}
_PLATFORM = ("READ_SCOM", "WRITE_SCOM", "READ_MEM", "WRITE_MEM", "SEND_SBE_COMMAND")
_UPCALL: dict[int, Condition] = {
    0: lambda seen: not seen.srr1 & 0x400000,
    1: lambda seen: not seen.vm.flags & 1,
}

CONDITIONS: Mapping[str, Mapping[int, Condition]] = {
    **{f"UV_{name}": _REFUSED for name in _PLATFORM},
    "UV_REGISTER_MEM_SLOT": {1: lambda seen: seen.svm is None},
    "UV_PAGE_IN": {2: _bad_address, 5: lambda seen: seen.page(seen.gpr[6]) is None},
    "UV_PAGE_OUT": {3: lambda seen: seen.svm is None},
    "UV_PAGE_INVAL": {1: lambda seen: seen.gpr[6] != ORDER},
    "UV_ESM": {0: _privileged},
    "UV_SHARE_PAGE": {**_SVM_ONLY, **_RANGE, 3: _states(TRANSIENT)},
    "UV_UNSHARE_PAGE": {**_SVM_ONLY, **_RANGE, 3: _states(TRANSIENT, IMPLICIT, PSEUDO)},
    "UV_UNSHARE_ALL_PAGES": _SVM_ONLY,
    "UV_ESMB_GET_FILE": {0: lambda seen: seen.own is None},
    "H_SVM_PAGE_IN": _UPCALL,
    "H_SVM_PAGE_OUT": _UPCALL,
    "H_SVM_INIT_DONE": _UPCALL,
    "H_SVM_INIT_START": {0: _UPCALL[0], 1: lambda seen: not seen.machine.profile.ultravisor},
}


def judged(name: str, seen: Seen) -> dict[int, bool]:
    """Which conditions of a row hold now."""
    return {place: condition(seen) for place, condition in CONDITIONS.get(name, {}).items()}


def place_of(name: str, before: Mapping[int, bool], answered: int) -> int | None:
    """The place of the check that answered; None if no check of the row answers that.

    `before` is what `judged` said when the call began.
    """
    for place, check in enumerate(ROWS[name].checks):
        if check.code == unsigned(answered) and before.get(place, True):
            return place
    return None
