"""A VM as KVM keeps it: slots with one word for each GFN, flags, vcpus. Section 5.2 of the fact sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from protocol.arch.pef.cpu import GPRS, Exit
from protocol.arch.pef.guest import Program
from protocol.arch.pef.kvm.frames import Arena
from protocol.arch.pef.radix import Tree
from protocol.arch.pef.tables import MSR_SF, PAGE, PAGE_SHIFT

UVMEM, MEM, SHARED = 1 << 63, 1 << 62, 1 << 61  # of a GFN's word; none: normal
DEVICE = (1 << 61) - 1  # the device frame's number
NO_FRAME = -1
INIT_START, INIT_DONE = 1, 2
RESET_VECTOR = 0x100  # where a vcpu begins


@dataclass(slots=True)
class Memslot:
    """Guest memory [first, first + words.size) in GFNs, and the host's page behind each."""

    number: int
    first: int
    words: np.ndarray
    frames: np.ndarray

    @classmethod
    def make(cls, number: int, gpa: int, size: int) -> Memslot:
        count = size >> PAGE_SHIFT
        words, frames = np.zeros(count, np.uint64), np.full(count, NO_FRAME, np.int64)
        return cls(number, gpa >> PAGE_SHIFT, words, frames)

    @property
    def end(self) -> int:
        return self.first + int(self.words.size)

    @property
    def gpa(self) -> int:
        return self.first << PAGE_SHIFT

    @property
    def size(self) -> int:
        return int(self.words.size) * PAGE

    def word(self, gfn: int) -> int:
        return int(self.words[gfn - self.first])

    def frame(self, gfn: int) -> int:
        """The host's page behind a GFN, NO_FRAME if there is none."""
        return int(self.frames[gfn - self.first])

    def put(self, gfn: int, word: int, frame: int) -> None:
        self.words[gfn - self.first] = word
        self.frames[gfn - self.first] = frame


@dataclass(slots=True)
class KvmVcpu:
    """A vcpu. `exit` is the last one, until the vcpu goes on; `reply` what its hypercall is answered with."""

    number: int
    program: Program = field(default_factory=Program)
    gpr: list[int] = field(default_factory=lambda: [0] * GPRS)
    nip: int = RESET_VECTOR
    msr: int = MSR_SF
    exit: Exit | None = None
    reply: dict[int, int] = field(default_factory=dict)
    stop: frozenset[str] = frozenset()
    running: bool = False

    def restart(self) -> None:
        """As its VMM makes it for a boot. A step that was under way never completes."""
        self.program.drop()
        self.gpr = [0] * GPRS
        self.nip, self.msr = RESET_VECTOR, MSR_SF
        self.exit = None
        self.reply.clear()


@dataclass(slots=True)
class NestedVm:
    """One guest of a guest: its shadow LPID, its shadow table, its vcpus by token."""

    shadow: int
    arena: Arena
    tree: Tree
    mapped: set[int] = field(default_factory=set)  # GFNs in the shadow table
    vcpus: dict[int, Program] = field(default_factory=dict)
    cookies: dict[int, int] = field(default_factory=dict)  # open reflections: cookie -> HSRR0
    svm: bool = False
    written: bool = False  # it is in the partition table
    users: int = 0  # vcpus that run it, or drop it
    dropped: bool = False  # it goes with the last of them


@dataclass(slots=True)
class Nesting:
    """What KVM keeps of a VM that is a hypervisor."""

    ptcr: int = 0
    vms: dict[int, NestedVm] = field(default_factory=dict)


@dataclass(slots=True)
class Vm:
    """One VM. `flags` are those of the transition."""

    lpid: int
    tree: Tree
    arena: Arena
    tpm_proxy: bool = True
    radix: bool = True
    flags: int = 0
    svm_enabled: bool = False
    nested_enabled: bool = False
    nesting: Nesting = field(default_factory=Nesting)
    slots: dict[int, Memslot] = field(default_factory=dict)
    vcpus: dict[int, KvmVcpu] = field(default_factory=dict)

    def slot_of(self, gfn: int) -> Memslot | None:
        for slot in self.slots.values():
            if slot.first <= gfn < slot.end:
                return slot
        return None

    def overlaps(self, first: int, end: int) -> bool:
        return any(slot.first < end and first < slot.end for slot in self.slots.values())

    def in_order(self) -> Iterator[Memslot]:
        return iter(sorted(self.slots.values(), key=lambda slot: slot.first))

    def count(self, flag: int) -> int:
        """GFNs whose word has this flag."""
        return sum(int(np.count_nonzero(slot.words & np.uint64(flag))) for slot in self.slots.values())

    @property
    def secure(self) -> bool:
        return bool(self.flags & INIT_DONE)
