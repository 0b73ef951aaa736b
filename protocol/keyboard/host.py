"""What an architecture says about a secure host at the keyboard, and what the keyboard keeps for each one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.effects import Fault, Step
from protocol.keyboard.book import AllocationBook
from protocol.keyboard.fields import Fields


@dataclass(frozen=True, slots=True)
class Raised:
    """The architecture raised an exception instead of completing: the body of the answer's `fault`."""

    body: dict[str, Any]


Answer = dict[str, Any] | Raised


@dataclass(frozen=True, slots=True)
class Begun:
    """An instruction on its way: the step, and the VCPU whose guest may run in it."""

    step: Step[Answer]
    vcpu: Hashable = None


@dataclass(slots=True)
class Activity:
    """What keeps a CPU: a call that the TE stopped inside (`parked`), or a guest that it stays in."""

    step: Step[Answer]
    vcpu: Hashable
    id: str  # of the request, as JSON
    parked: bool = False


class Space(Protocol):
    """An address space of a host, as one of its CPUs reaches it."""

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes) -> Fault | None:
        """Store all of `data`, or nothing and the fault."""
        ...

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        """The same for `length` bytes of one value."""
        ...


class SecureHost(ABC):
    """One secure host. `cpus` is how many CPUs it has, `memory` its size in bytes."""

    memory: int
    cpus: int

    def __init__(self, book: AllocationBook) -> None:
        self.book = book
        self.busy: dict[int, Activity] = {}  # CPU -> what keeps it
        self.dead = ""  # why the machine stands still; it is reset or killed, and asked nothing else

    # -- memory ----------------------------------------------------------------------------------------------

    @abstractmethod
    def space(self, name: str, cpu: int) -> Space | None:
        """The address space `name`, None if there is no such; "phys" is one everywhere."""

    @property
    @abstractmethod
    def spaces(self) -> str:
        """The names of all spaces, for a message."""

    @abstractmethod
    def in_use(self, address: int, length: int) -> int | None:
        """An address in the range that the TE keeps from the host, or None: plain memory is given out."""

    @abstractmethod
    def zero(self, address: int, length: int) -> None:
        """Zero whole pages of plain memory. Not an act of the host: nothing is counted."""

    # -- instructions ----------------------------------------------------------------------------------------

    @abstractmethod
    def may_issue(self, cpu: int) -> None:
        """Raise Complaint if this CPU cannot issue anything just now."""

    @abstractmethod
    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        """The TE call. Whatever is wrong with the fields is said before the step begins."""

    @abstractmethod
    def insn(self, fields: Fields, cpu: int) -> Answer:
        """Another privileged instruction."""

    @abstractmethod
    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        """Run a guest's VCPU."""

    @abstractmethod
    def queue(self, fields: Fields, replace: bool) -> tuple[Hashable, int]:
        """Append to a VCPU's program: which VCPU that is, and how many steps it has to do now."""

    @abstractmethod
    def collect(self, vcpu: Hashable) -> list[dict[str, Any]]:
        """Take the results of all steps that this VCPU finished since the last time."""

    def staying(self, vcpu: Hashable) -> dict[str, Any]:
        """What `enter` with `stay` answers beside `running`."""
        return {}

    @abstractmethod
    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        """Change the settings of a CPU that are named and answer all of them."""

    @abstractmethod
    def fault(self, fault: Fault) -> Raised:
        """How an exception looks in an answer."""

    # -- the end ---------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def reset_kinds(self) -> tuple[str, ...]:
        """The architecture's resets of this host."""

    @abstractmethod
    def reset(self, kind: str) -> Step[None]:
        """The reset; at depth 1 and more the reboot of the VM. No CPU is in a call or in a guest any more."""

    def forgets(self, kind: str) -> bool:
        """Whether a reset of this kind empties the book of memory."""
        return False

    @abstractmethod
    def kill(self) -> Step[None]:
        """Sudden death of the host's VM, then a fresh one takes its place."""

    # -- what is counted -------------------------------------------------------------------------------------

    @abstractmethod
    def issued(self) -> dict[str, Any]:
        """What this host issued and received since it was made: numbers, or objects of numbers. A copy."""
