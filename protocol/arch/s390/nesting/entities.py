"""What any level with a guest host tracks of the secure guests of one: section 7.4 of the fact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protocol.arch.s390.nesting.shadow import Space


class Block(NamedTuple):
    """A contiguous run of the level's own frames that it took for a guest host."""

    first: int
    pages: int


class Unfinished(NamedTuple):
    """A creation that the level below did in part. What was lent waits for the same call of the same CPU."""

    uvcb: bytes
    space: Space
    lent: tuple[Block, ...]  # base, variable, SCA


@dataclass(slots=True)
class TrackedConfig:
    """`handle` is what the guest host knows, `real` what the level below answers to.

    While it is `closed` a call about all of its pages is under way below: none about one of them is issued.
    """

    handle: int
    real: int
    space: Space
    base: range  # frames of the guest host
    variable: np.ndarray | range
    donated: tuple[Block, ...]
    sca: Block
    has_params: bool = False
    closed: bool = False
    flights: int = 0  # calls about single pages of it that are under way
    cpus: tuple[TrackedCpu, ...] = ()

    def close(self) -> bool:
        """Keep calls about single pages away; False if one is under way."""
        if self.closed or self.flights:
            return False
        self.closed = True
        return True


@dataclass(slots=True)
class TrackedCpu:
    """`block` and `sida` are the shadow control block and its data page.

    They live as long as the CPU, and until the guest host's CPU that is `inside` has left.
    """

    handle: int
    real: int
    config: TrackedConfig
    number: int
    storage: range
    donated: Block
    block: int
    sida: int
    prefix: int = 0
    inside: bool = False
    ended: bool = False
