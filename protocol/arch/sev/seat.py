"""Where a host sits: the level that it meets, its CPUs, its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.arch.sev.cpu import Cpu


@dataclass(slots=True)
class Seat:
    """`level` is the machine or an emulation: see `level.Level`."""

    number: int
    level: Any
    cpus: list[Cpu]
    memory_bytes: int
