"""A logical processor of a host, as far as the TDX module looks at it, and the exceptions it can take."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.effects import Fault

UD = 0x6
DF = 0x8
GP = 0xD
PF = 0xE
MC = 0x12
VE = 0x14

NAMES = {UD: "#UD", DF: "#DF", GP: "#GP", PF: "#PF", MC: "#MC", VE: "#VE"}

Registers = list[int]  # sixteen, numbered as in `status`


def exception(code: int, address: int = 0, write: bool = False) -> Fault:
    """The exception `code`; `address` is the address of the access that caused it, if one did."""
    return Fault(code, NAMES[code], address, write)


def not_present(address: int, size: int, write: bool) -> Fault:
    """A host's access that leaves its `size` bytes: its linear map maps memory and nothing else (guess)."""
    return exception(PF, max(address, size), write)


def registers(**named: int) -> Registers:
    """Sixteen registers, zero but for the named ones."""
    return [named.get(name, 0) for name in REGISTER_NAMES]


REGISTER_NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


@dataclass(slots=True)
class Lp:
    """One logical processor. `origin` is the level it works for just now: its own, or a guest host's."""

    number: int
    package: int = 0
    vmx: bool = True
    cpl: int = 0
    interrupt: bool = False  # one is pending
    origin: int = 0
    above: Lp | None = None  # the guest host's that runs on this one: what waits for it waits here, too

    def reset(self) -> None:
        """As after a reset: in VMX operation, at the most privileged level, nothing pending."""
        self.vmx = True
        self.cpl = 0
        self.interrupt = False
