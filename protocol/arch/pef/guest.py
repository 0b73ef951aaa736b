"""What a guest does: a program of steps, done in order from where it stopped.

A program stands for the code that a vcpu runs. It belongs to a vcpu of the host at the keyboard, at any
depth, and is handed down with each entry; results gather here until that host collects them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ultracall:
    """`sc 2`; `problem`: from problem state."""

    gpr: tuple[int, ...]
    problem: bool = False


@dataclass(frozen=True, slots=True)
class Hypercall:
    """`sc 1`. `nested`: what a nested guest does while this call runs it."""

    gpr: tuple[int, ...]
    nested: tuple[GuestStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Touch:
    """Store `value`, or load 8 bytes and show them."""

    gpa: int
    write: bool = False
    value: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class Read:
    gpa: int
    length: int


@dataclass(frozen=True, slots=True)
class Fetch:
    gpa: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """That interrupt comes now."""

    vector: int


GuestStep = Ultracall | Hypercall | Touch | Read | Fetch | Interrupt


@dataclass(slots=True)
class Program:
    """Steps still to do, and results not yet collected.

    `current` is the step that was begun. `issued`: its instruction is behind the guest, so that it goes on
    with the answer; otherwise the vcpu's next entry tries it again.
    """

    steps: deque[GuestStep] = field(default_factory=deque)
    results: list[dict[str, Any]] = field(default_factory=list)
    current: GuestStep | None = None
    issued: bool = False
    nested: list[dict[str, Any]] = field(default_factory=list)  # results of guests that its hypercall ran
    vmm: frozenset[int] = frozenset()  # hypercalls that its VMM answers, not KVM: it changes counts only

    @classmethod
    def from_fields(
        cls,
        steps: tuple[GuestStep, ...],
        results: tuple[dict[str, Any], ...],
        current: GuestStep | None,
        issued: bool,
        nested: tuple[dict[str, Any], ...],
        vmm: tuple[int, ...],
    ) -> Program:
        """A program that crossed a link: what was a queue or a list there arrives as a tuple."""
        return cls(deque(steps), list(results), current, issued, list(nested), frozenset(vmm))

    def become(self, other: Program) -> None:
        """Stand where `other` stands: it was run elsewhere."""
        self.steps, self.results, self.nested = other.steps, other.results, other.nested
        self.current, self.issued = other.current, other.issued

    def next(self) -> GuestStep | None:
        """The step to do now; None if there is none."""
        if self.current is None and self.steps:
            self.current = self.steps.popleft()
        return self.current

    def finish(self, result: dict[str, Any]) -> None:
        """The current step is done."""
        self.current, self.issued = None, False
        if self.nested:
            result = result | {"steps": self.nested}
            self.nested = []
        self.results.append(result)

    def drop(self) -> None:
        """The vcpu was reset in the middle of a step: it never completes."""
        if self.issued:
            self.current, self.issued = None, False

    def replace(self) -> None:
        """Forget the steps still to do. One whose instruction was executed cannot be undone."""
        self.steps.clear()
        if not self.issued:
            self.current = None

    def waiting(self) -> int:
        return len(self.steps) + (self.current is not None)

    def collect(self) -> list[dict[str, Any]]:
        """Take the results of all steps finished since the last time."""
        gone, self.results = self.results, []
        return gone


def registers(gpr: list[int], nip: int, msr: int) -> dict[str, str]:
    """The result of a call: what the guest has in its registers afterwards."""
    shown = {f"r{number}": hex(gpr[number]) for number in range(3, 13)}
    return shown | {"nip": hex(nip), "msr": hex(msr)}
