"""The address spaces of a host: absolute, real, home. Every access is one of its CPUs'."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.keyboard.port import Level
from protocol.effects import Fault
from protocol.memory.physical import chunks
from protocol.memory.store import OFFSET, PAGE_SHIFT

STORE_BYTES = 8  # what one store of a host writes: a table is edited entry by entry
FILL_BYTES = 1 << 16
SPARSE_BYTES = 1 << 16  # zeroes from this length on are not written but leave holes

Translate = Callable[[int, bool], int | Fault]


def stores(length: int) -> int:
    """By how many stores a host writes `length` bytes."""
    return max(1, -(-length // STORE_BYTES))


class Absolute:
    """Storage as it is: no prefix, no translation."""

    __slots__ = ("_level",)

    def __init__(self, level: Level) -> None:
        self._level = level

    def read(self, address: int, length: int) -> bytes | Fault:
        return self._level.read(address, length)

    def write(self, address: int, data: bytes) -> Fault | None:
        return self._level.write(address, data, stores(len(data)))

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        level = self._level
        refusal = level.refusal(address, length)
        if refusal is not None:  # the store that is refused is an event of its own
            return level.write(refusal.address, bytes((byte,)))
        if byte == 0 and length >= SPARSE_BYTES:
            first, end = -(-address >> PAGE_SHIFT), (address + length) >> PAGE_SHIFT
            level.clear(np.arange(first, end))
            self._fill(address, (first << PAGE_SHIFT) - address, byte)
            self._fill(end << PAGE_SHIFT, address + length & OFFSET, byte)
        else:
            self._fill(address, length, byte)
        return None

    def _fill(self, address: int, length: int, byte: int) -> None:
        for at in range(address, address + length, FILL_BYTES):
            n = min(FILL_BYTES, address + length - at)
            self._level.write(at, bytes((byte,)) * n, stores(n))


class Translated:
    """A space whose addresses are translated page by page; its faults name its own addresses."""

    __slots__ = ("_level", "_translate")

    def __init__(self, level: Level, translate: Translate) -> None:
        self._level = level
        self._translate = translate

    def read(self, address: int, length: int) -> bytes | Fault:
        parts = []
        for at, n in chunks(address, length):
            absolute = self._translate(at, False)
            data = absolute if isinstance(absolute, Fault) else self._level.read(absolute, n)
            if isinstance(data, Fault):
                return Fault(data.code, data.name, at, False)
            parts.append(data)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> Fault | None:
        places = self._places(address, len(data))
        if isinstance(places, Fault):
            return places
        done = 0
        for absolute, n in places:
            self._level.write(absolute, data[done : done + n], stores(n))
            done += n
        return None

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        places = self._places(address, length)
        if isinstance(places, Fault):
            return places
        for absolute, n in places:
            self._level.write(absolute, bytes((byte,)) * n, stores(n))
        return None

    def _places(self, address: int, length: int) -> list[tuple[int, int]] | Fault:
        """Where a store goes, page by page; every page is looked at before anything is stored."""
        places = []
        for at, n in chunks(address, length):
            absolute = self._translate(at, True)
            if isinstance(absolute, Fault):
                return Fault(absolute.code, absolute.name, at, True)
            if self._level.refusal(absolute, n) is not None:
                refused = self._level.write(absolute, bytes(n))
                assert refused is not None, "a store that was refused came about"
                return Fault(refused.code, refused.name, at, True)
            places.append((absolute, n))
        return places


def real(level: Level, cpu: Cpu) -> Translated:
    """The prefix of `cpu` applied."""
    return Translated(level, lambda address, write: cpu.real(address))


def home(level: Level, cpu: Cpu) -> Translated:
    """Virtual through CR13 of `cpu`, whether DAT is on or not."""
    return Translated(level, lambda address, write: level.home_space(cpu, address, write))
