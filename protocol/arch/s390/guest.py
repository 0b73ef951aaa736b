"""What a guest does: a program of steps, done in order from where it stopped.

A program stands for the code that the guest's PSW leads to. It belongs to a SIE block of its host, at any
depth, and is handed down with each entry. Results gather here until the host at the keyboard collects them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Touch:
    """Store `value` (or one zero byte), or load one byte without showing it."""

    gpa: int
    write: bool = False
    value: bytes = b"\0"


@dataclass(frozen=True, slots=True)
class Read:
    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load a register from 1 to 8 bytes, right-aligned, zero-extended."""

    gpa: int
    length: int
    gpr: int


@dataclass(frozen=True, slots=True)
class SetCpu:
    gprs: tuple[tuple[int, int], ...] = ()
    timer: int | None = None
    problem_state: bool | None = None


@dataclass(frozen=True, slots=True)
class Uvc:
    r2: int
    r1: int = 0
    m3: int = 0
    m4: int = 0


@dataclass(frozen=True, slots=True)
class Diag:
    """Diagnose; `r1` and `r3` are register numbers."""

    code: int
    r1: int = 0
    r3: int = 0


@dataclass(frozen=True, slots=True)
class Spx:
    prefix: int


@dataclass(frozen=True, slots=True)
class Sigp:
    order: int
    address: int
    parameter: int = 0


@dataclass(frozen=True, slots=True)
class Sclp:
    command: int
    gpa: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Load an enabled wait PSW."""


@dataclass(frozen=True, slots=True)
class Lctl:
    """Load control register `cr` so that interruptions which it masks become enabled, if it masks any."""

    cr: int


@dataclass(frozen=True, slots=True)
class Loop:
    """Load a PSW that is no PSW, and so on for ever: each specification exception leads to the next."""


GuestStep = Touch | Read | Load | SetCpu | Uvc | Diag | Spx | Sigp | Sclp | Wait | Lctl | Loop


@dataclass(slots=True)
class Program:
    """Steps still to do, results not yet collected, and the registers of a guest that is not secure.

    `vmm_reasons` are the exits that the host's VMM answers; the kernel answers all others. It changes counts
    only.
    """

    steps: deque[GuestStep] = field(default_factory=deque)
    results: list[dict[str, Any]] = field(default_factory=list)
    gprs: list[int] = field(default_factory=lambda: [0] * 16)
    prefix: int = 0
    problem_state: bool = False
    vmm_reasons: frozenset[str] = frozenset()
    awaiting: bool = False  # the step at the head left SIE and is finished by the next entry

    @classmethod
    def from_fields(
        cls,
        steps: tuple[GuestStep, ...],
        results: tuple[dict[str, Any], ...],
        gprs: tuple[int, ...],
        prefix: int,
        problem_state: bool,
        vmm_reasons: tuple[str, ...],
        awaiting: bool,
    ) -> Program:
        """A program that crossed a link: what was a queue or a list there arrives as a tuple."""
        return cls(
            deque(steps), list(results), list(gprs), prefix, problem_state, frozenset(vmm_reasons), awaiting
        )

    def become(self, other: Program) -> None:
        """Stand where `other` stands: it was run elsewhere."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def replace(self) -> None:
        """Forget the steps still to do."""
        self.steps.clear()
        self.awaiting = False

    def collect(self) -> list[dict[str, Any]]:
        """Take the results of all steps finished since the last time."""
        done, self.results = self.results, []
        return done

    def finish(self, result: dict[str, Any]) -> None:
        """The step at the head is done."""
        self.awaiting = False
        self.steps.popleft()
        self.results.append(result)
