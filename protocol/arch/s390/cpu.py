"""A host CPU, as far as the Ultravisor and SIE look at it, and the program interruptions it can take."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.effects import Fault

PRIVILEGED = 0x02
PROTECTION = 0x04
ADDRESSING = 0x05
SPECIFICATION = 0x06
SEGMENT_TRANSLATION = 0x10
PAGE_TRANSLATION = 0x11
TRANSLATION_SPECIFICATION = 0x12
OPERAND = 0x15
ASCE_TYPE = 0x38
REGION_FIRST = 0x39
REGION_SECOND = 0x3A
REGION_THIRD = 0x3B
SECURE_ACCESS = 0x3D
NON_SECURE_ACCESS = 0x3E
SECURE_VIOLATION = 0x3F

NAMES = {
    PRIVILEGED: "privileged-operation",
    PROTECTION: "protection",
    ADDRESSING: "addressing",
    SPECIFICATION: "specification",
    SEGMENT_TRANSLATION: "segment-translation",
    PAGE_TRANSLATION: "page-translation",
    TRANSLATION_SPECIFICATION: "translation-specification",
    OPERAND: "operand",
    ASCE_TYPE: "asce-type",
    REGION_FIRST: "region-first-translation",
    REGION_SECOND: "region-second-translation",
    REGION_THIRD: "region-third-translation",
    SECURE_ACCESS: "secure-storage-access",
    NON_SECURE_ACCESS: "non-secure-storage-access",
    SECURE_VIOLATION: "secure-storage-violation",
}
# "Not there": what a hypervisor answers by mapping something.
NOT_MAPPED = frozenset({SEGMENT_TRANSLATION, PAGE_TRANSLATION, REGION_FIRST, REGION_SECOND, REGION_THIRD})

LOWCORE = 0x2000  # bytes at a CPU's prefix
PREFIX_MASK = 0x7FFF_E000


def program(code: int, address: int, write: bool = False) -> Fault:
    """The program interruption `code` at `address`."""
    return Fault(code, NAMES[code], address, write)


@dataclass(slots=True)
class Cpu:
    """One CPU of a host.

    `origin` is the level for which it works just now: its own, or that of a guest host.
    """

    number: int
    running: bool = True
    problem_state: bool = False
    dat: bool = False
    prefix: int = 0
    cr: list[int] = field(default_factory=lambda: [0] * 16)
    origin: int = 0

    @property
    def home_is_real(self) -> bool:
        """DAT is on and the R bit of the home ASCE is one: parameters that are virtual are refused."""
        return self.dat and bool(self.cr[13] & 0x20)

    def real(self, address: int) -> int:
        """The absolute address of a real one."""
        if self.prefix:
            if address & ~0x1FFF == 0:
                return self.prefix + address
            if address & ~0x1FFF == self.prefix:
                return address - self.prefix
        return address

    def reset(self) -> None:
        """As after a reset of the host: DAT off, supervisor state, prefix and control registers zero."""
        self.running = self.number == 0
        self.problem_state = self.dat = False
        self.prefix = 0
        self.cr[:] = [0] * 16
