"""What a guest does: a program of steps, done in order from where it stopped.

A program stands for the code that a VCPU's RIP leads to. It belongs to a VCPU of the host at the keyboard,
at any depth, and is handed down with each entry. Results gather here until that host collects them.
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
class Tdcall:
    """TDCALL with these registers."""

    registers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """What makes the VCPU leave by itself."""

    reason: str


GuestStep = Touch | Read | Tdcall | Leave


@dataclass(slots=True)
class Program:
    """Steps still to do, and results not yet collected. `done` counts finished steps: where the guest's
    RIP is.

    `vmm_reasons` are the exits that the host's VMM answers; its kernel answers all others. It changes
    counts only.
    """

    steps: deque[GuestStep] = field(default_factory=deque)
    results: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    vmm_reasons: frozenset[str] = frozenset()

    @classmethod
    def from_fields(
        cls,
        steps: tuple[GuestStep, ...],
        results: tuple[dict[str, Any], ...],
        done: int,
        vmm_reasons: tuple[str, ...],
    ) -> Program:
        """A program that crossed a link: what was a queue or a list there arrives as a tuple."""
        return cls(deque(steps), list(results), done, frozenset(vmm_reasons))

    def become(self, other: Program) -> None:
        """Stand where `other` stands: it was run elsewhere."""
        self.steps, self.results, self.done = other.steps, other.results, other.done

    def replace(self) -> None:
        """Forget the steps still to do."""
        self.steps.clear()
        self.done += 1  # the guest is somewhere else now

    def collect(self) -> list[dict[str, Any]]:
        """Take the results of all steps finished since the last time."""
        gone, self.results = self.results, []
        return gone

    def finish(self, result: dict[str, Any] | None) -> None:
        """The step at the head is done; None: it has no result of its own."""
        self.steps.popleft()
        self.done += 1
        if result is not None:
            self.results.append(result)
