"""What a host does in a comparison, as values: the same on every path and for every architecture.

An operation is one logical act of a host for one of its guests, drawn before the run; how many calls, exits
and pages that takes is for the host and what lies below it to find out. An event comes from outside, at a
place "before operation n". Both are plain values: they cross a link, and they are counted by their name.

Guests are numbered through all hosts, so that one host may carry the guests of several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MIX = ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB), (31, 1))  # SplitMix64
_GOLDEN = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True)
class Pages:
    """`count` pages of the `span` from `first` on: in an order drawn by `seed`, or ascending where it is
    None.

    The order is spelled out here, in integers, and not left to a library: it must never change.
    """

    first: int
    span: int
    count: int
    seed: int | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.count <= self.span, f"{self.count} of {self.span} pages"

    def __len__(self) -> int:
        return self.count

    def numbers(self) -> np.ndarray:
        """The page numbers, in order."""
        if self.seed is None:
            return np.arange(self.first, self.first + self.count, dtype=np.int64)
        keys = (np.arange(1, self.span + 1, dtype=np.uint64) * np.uint64(_GOLDEN)) + np.uint64(self.seed)
        for shift, factor in _MIX:
            keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
        order: np.ndarray = np.argsort(keys)[: self.count]  # no two keys are equal: the mix is one to one
        return order.astype(np.int64) + self.first


@dataclass(frozen=True, slots=True)
class Operation:
    """One act of a host. Its name, in lower case, is the name under which it is counted."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, slots=True)
class BootHost(Operation):
    """The host comes up: it finds out what the Trusted Entity can do and initialises it."""


@dataclass(frozen=True, slots=True)
class Shutdown(Operation):
    """The host goes down in order, with no guest left."""


@dataclass(frozen=True, slots=True)
class ForGuest(Operation):
    """An act for one guest."""

    guest: int


@dataclass(frozen=True, slots=True)
class Create(ForGuest):
    """Make the secure guest and its CPUs."""

    memory_mib: int
    vcpus: int


@dataclass(frozen=True, slots=True)
class Load(ForGuest):
    """Put the image into the guest's memory and have it made secure and verified."""


@dataclass(frozen=True, slots=True)
class Start(ForGuest):
    """Start the guest's first CPU; the guest starts the others."""


@dataclass(frozen=True, slots=True)
class OnVcpu(ForGuest):
    """Something that the guest does on one of its CPUs."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class Touch(OnVcpu):
    """The guest stores to pages, one after the other."""

    pages: Pages


@dataclass(frozen=True, slots=True)
class Write(OnVcpu):
    """The guest stores `data` into a private page of its own, at offset `at`."""

    page: int
    data: bytes
    at: int = 0


@dataclass(frozen=True, slots=True)
class Read(OnVcpu):
    """The guest loads `length` bytes from a private page, from offset `at` on; `perform` returns them."""

    page: int
    length: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Share(OnVcpu):
    """The guest lets its host into pages, one after the other, for its I/O."""

    pages: Pages


@dataclass(frozen=True, slots=True)
class Exits(OnVcpu):
    """The guest does `count` times what `reason` says, each time its host has to answer."""

    reason: str
    answered_by: str
    count: int


@dataclass(frozen=True, slots=True)
class Change(OnVcpu):
    """The guest shares one page, or takes it back; `busy`: the host has an I/O on it that must end first."""

    page: int
    shared: bool
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Attest(OnVcpu):
    """The guest has the Trusted Entity prove what it is, as its owner asked: for the `number`-th time."""

    number: int


@dataclass(frozen=True, slots=True)
class AddSecret(OnVcpu):
    """The guest hands over a secret that its owner sealed for the Trusted Entity: the `number`-th one."""

    number: int


@dataclass(frozen=True, slots=True)
class Swap(OnVcpu):
    """The host writes private pages of the guest out; then the guest uses them again."""

    pages: Pages


@dataclass(frozen=True, slots=True)
class Reset(ForGuest):
    """The guest asks to be reset, its memory kept. `clear`: its registers are cleared, too."""

    clear: bool


@dataclass(frozen=True, slots=True)
class Dump(ForGuest):
    """The host dumps the guest, CPUs and memory, sealed for its owner; then the guest may go on.

    `keep`: the answer is the dump, in bytes that the architecture's owner can open. A plan needs none of them
    where the host that dumps is the owner.
    """

    keep: bool = False


@dataclass(frozen=True, slots=True)
class Destroy(ForGuest):
    """The guest ends in order. `behind`: most of its pages are released later, behind its back."""

    behind: bool = False


# -- a guest goes to another machine (`protocol.fleet.moving`) -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Certify(Operation):
    """Say what a peer has to know of this platform. Answered with bytes."""


@dataclass(frozen=True, slots=True)
class Leave(ForGuest):
    """Pack the guest for the platform that `peer` certifies. Answered with a map: what `Arrive` wants, and
    how many `packets` there are."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Unload(ForGuest):
    """Give packets of a guest that is packed, `count` of them from `first` on: (page, header, data) each."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Carry(ForGuest):
    """Keep packets of a guest that is to arrive."""

    packets: tuple[tuple[int, bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Arrive(ForGuest):
    """Unpack a guest whose packets are all here."""

    policy: int
    certificate: bytes
    session: bytes
    pages: int
    vcpus: int


@dataclass(frozen=True, slots=True)
class Kill(ForGuest):
    """The guest's VMM is killed; its kernel cleans up."""


# -- what comes from outside -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to a host."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True, slots=True)
class LevelSwap(Event):
    """The level below puts other frames under `count` secure pages of the host, chosen by `seed`."""

    count: int
    seed: int

    def picks(self, held: int) -> np.ndarray:
        """Which of the `held` pages, numbered in the order of the host's frames."""
        return Pages(0, held, min(self.count, held), self.seed).numbers()


@dataclass(frozen=True, slots=True)
class Reboot(Event):
    """The host reboots without a word, its guests running."""


@dataclass(frozen=True, slots=True)
class Death(Event):
    """The host ends without a word, its guests running, and does not come back."""
