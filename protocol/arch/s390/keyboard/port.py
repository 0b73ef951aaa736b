"""What the keyboard needs of a level: the machine itself, or an emulation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.structs import SieExit
from protocol.calls import CallSpec
from protocol.effects import Fault, Step


class Level(Protocol):
    """The Ultravisor, SIE and storage as one host meets them."""

    size: int
    calls: Mapping[int, CallSpec]

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]: ...

    def enter(
        self, cpu: Cpu, block: int, program: Program, stay: bool, level: int
    ) -> Step[SieExit | Fault]: ...

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None: ...

    def refusal(self, address: int, length: int) -> Fault | None: ...

    def clear(self, frames: Sequence[int] | np.ndarray) -> None: ...

    def home_read(self, cpu: Cpu, address: int, length: int, write: bool = False) -> bytes | Fault: ...

    def home_space(self, cpu: Cpu, address: int, write: bool) -> int | Fault: ...
