"""What the keyboard needs of a level: the machine itself, or an emulation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.platform import Platform
from protocol.arch.tdx.profiles import Profile
from protocol.arch.tdx.tables import OpState
from protocol.calls import CallSpec
from protocol.effects import Fault, Step


class Level(Protocol):
    """The TDX module and memory as one host meets them."""

    size: int
    profile: Profile
    platform: Platform
    lps: list[Lp]
    calls: Mapping[int, CallSpec]

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]: ...

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]: ...

    def stage(self, tdr: int, state: OpState) -> str:
        """Put a TD into an op state behind the module's back: what was wrong, "" if nothing."""
        ...

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None: ...

    def direct_store(self, address: int, data: bytes) -> Fault | None: ...

    def plain(self, frames: np.ndarray) -> bool:
        """Is there no line of somebody else in these frames?"""
        ...

    def clear(self, frames: Sequence[int] | np.ndarray) -> None: ...
