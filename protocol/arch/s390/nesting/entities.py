"""What L0 (or any level with a guest host) tracks of the secure guests of one guest host: section 7.4."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from protocol.arch.s390.nesting.shadow import Space


@dataclass(frozen=True, slots=True)
class Block:
    """A contiguous run of the level's own frames that it donated for a guest host."""

    first: int
    count: int


@dataclass(slots=True)
class TrackedConfig:
    """`handle` is what the guest host knows, `real` what the level below answers to."""

    handle: int
    real: int
    space: Space
    base: np.ndarray  # frames of the guest host
    variable: np.ndarray
    donated: tuple[Block, ...]
    sca: Block
    has_params: bool = False
    cpus: dict[int, TrackedCpu] = field(default_factory=dict)


@dataclass(slots=True)
class TrackedCpu:
    """`block` and `sida` are the shadow control block and its data page, for as long as the CPU exists."""

    handle: int
    real: int
    config: TrackedConfig
    number: int
    storage: np.ndarray
    donated: Block
    block: int
    sida: int
    prefix: int = 0
