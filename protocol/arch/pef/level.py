"""What a hypervisor needs of the level that it stands on.

The machine itself, or an emulation for a guest host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from protocol.arch.pef.cpu import Cpu, Entry, Exit, Stopped
from protocol.arch.pef.guest import Program
from protocol.arch.pef.profiles import Profile
from protocol.effects import Fault, Step


class Level(Protocol):
    """The ultravisor, the processor and memory as one host meets them."""

    size: int
    profile: Profile
    cpus: list[Cpu]

    def call(
        self,
        cpu: Cpu,
        gpr: Sequence[int],
        hsrr0: int = 0,
        stay: bool = False,
        program: Program | None = None,
    ) -> Step[list[int] | Exit | Stopped]:
        """`sc 2`. The registers after it; an exit if it was a UV_RETURN that did its work.

        `program` is what the vcpu has to do to which that returns.
        """
        ...

    def enter(self, cpu: Cpu, entry: Entry) -> Step[Exit | Stopped]:
        """Run a vcpu with MSR[S] off until it leaves."""
        ...

    def tlbie(self, cpu: Cpu, lpid: int, gpa: int) -> Step[None]:
        """The host's table of `lpid` has another entry for `gpa`."""
        ...

    def own_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        """The host writes its own partition table: without an ultravisor it is in its memory."""
        ...

    def new_lpid(self, cpu: Cpu) -> Step[int | None]:
        """An LPID for a new VM, where the level below picks them (H_GUEST_CREATE), 0 if it has none left.

        None: the host picks.
        """
        ...

    def give_lpid(self, cpu: Cpu, lpid: int) -> Step[None]:
        """A VM is gone (H_GUEST_DELETE); of no effect where the host picks LPIDs."""
        ...

    def tpm_public(self) -> bytes:
        """The public key of the machine's TPM, as its owner knows it."""
        ...

    def tpm_execute(self, cpu: Cpu, command: bytes) -> Step[bytes]:
        """The host's TPM device."""
        ...

    def tpm_close(self, cpu: Cpu) -> Step[None]: ...

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None: ...

    def peek(self, address: int, length: int) -> bytes | Fault: ...

    def poke(self, address: int, data: bytes) -> Fault | None: ...

    def clear(self, frames: Sequence[int] | np.ndarray) -> None: ...
