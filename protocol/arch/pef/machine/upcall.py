"""What the ultravisor says to the hypervisor while a vcpu of an SVM is with it.

Work on behalf of such a vcpu is a generator: it yields a `Reflect`, and goes on with the `Answer` that the
hypervisor's UV_RETURN brings. `WAIT` means that the guest has nothing to do.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from protocol.arch.pef import hcalls
from protocol.arch.pef.cpu import DECREMENTER, HCALL
from protocol.arch.pef.status import signed
from protocol.arch.pef.tables import ORDER, PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Reflect:
    """An exception that the hypervisor gets to see. `own`: SRR0 and SRR1 are the guest's own.

    `last`: nothing comes back from it.
    """

    trap: int
    inputs: dict[int, int] = field(default_factory=dict)
    hdar: int = 0
    hdsisr: int = 0
    asdr: int = 0
    own: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a UV_RETURN brings. `vector` is the interrupt that the hypervisor wants delivered, 0 if none."""

    gpr: tuple[int, ...]
    vector: int = 0

    @property
    def status(self) -> int:
        return signed(self.gpr[0])


class Wait:
    """The guest has nothing to do."""


WAIT = Wait()
SLICE_ENDS = Reflect(DECREMENTER)

Work = Generator[Reflect | Wait, Answer | None, Any]


BAD_COOKIE = "UV_RETURN with a bad cookie: the ultravisor panicked"
OS_TERM_RETURNED = "ibm,os-term returned: the ultravisor gave up the machine"


class Panic(Exception):
    """The ultravisor cannot go on: the machine stands still. It never leaves `vcpu.drive`."""


def hypercall(number: int, *arguments: int) -> Generator[Reflect | Wait, Answer | None, Answer]:
    """Ask the hypervisor by a hypercall of the ultravisor's own."""
    registers = {4 + place: value for place, value in enumerate(arguments)}
    answer = yield Reflect(HCALL, {3: number, **registers})
    assert answer is not None
    return answer


def page_in(gfn: int, flags: int) -> Generator[Reflect | Wait, Answer | None, int]:
    """H_SVM_PAGE_IN: the hypervisor's answer."""
    answer = yield from hypercall(hcalls.SVM_PAGE_IN, gfn << PAGE_SHIFT, flags, ORDER)
    return answer.status
