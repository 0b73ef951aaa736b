"""What a guest does:

a program of steps, done in order from where it stopped. Contract of the console, `guest`.

A program stands for the code that the guest runs. It belongs to a VMCB of its host, at any depth, and is
handed down with each entry. Results gather here until the host at the keyboard collects them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Touch:
    """Store `value` (or one zero byte), or load one byte without showing it.

    The C-bit of `gpa` means private.
    """

    gpa: int
    write: bool = False
    value: bytes = b"\0"


@dataclass(frozen=True, slots=True)
class Read:
    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Pvalidate:
    rax: int
    ecx: int = 0
    edx: int = 0


@dataclass(frozen=True, slots=True)
class Rmpadjust:
    rax: int
    ecx: int = 0
    rdx: int = 0


@dataclass(frozen=True, slots=True)
class Wrmsr:
    ecx: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Rdmsr:
    ecx: int


@dataclass(frozen=True, slots=True)
class Leave:
    """`vmgexit`, `hlt` or `shutdown`."""

    what: str


GuestStep = Touch | Read | Pvalidate | Rmpadjust | Wrmsr | Rdmsr | Leave


@dataclass(slots=True)
class Program:
    """Steps still to do, and results not yet collected.

    `vmm_reasons` are the exits that the host's VMM answers; the kernel answers all others. It changes
    counts only.
    """

    steps: deque[GuestStep] = field(default_factory=deque)
    results: list[dict[str, Any]] = field(default_factory=list)
    vmm_reasons: frozenset[str] = frozenset()

    @classmethod
    def from_fields(
        cls, steps: tuple[GuestStep, ...], results: tuple[dict[str, Any], ...], vmm_reasons: tuple[str, ...]
    ) -> Program:
        """A program that crossed a link: what was a queue or a list there arrives as a tuple."""
        return cls(deque(steps), list(results), frozenset(vmm_reasons))

    def become(self, other: Program) -> None:
        """Stand where `other` stands."""
        self.steps, self.results = other.steps, other.results

    def replace(self) -> None:
        """Forget the steps still to do."""
        self.steps.clear()

    def collect(self) -> list[dict[str, Any]]:
        """Take the results of all steps finished since the last time."""
        done, self.results = self.results, []
        return done

    def finish(self, result: dict[str, Any]) -> None:
        """The step at the head is done."""
        self.steps.popleft()
        self.results.append(result)
