"""Address spaces of a host: real memory as its kernel reaches it, and its VMM's mapping of a VM's memory."""

from __future__ import annotations

import numpy as np

from protocol.arch.pef.cpu import Cpu, machine_check
from protocol.arch.pef.kvm import Kvm, pages
from protocol.arch.pef.kvm.vm import Vm
from protocol.arch.pef.level import Level
from protocol.effects import Fault, run
from protocol.memory.store import PAGE, PAGE_SHIFT

FILL_BYTES = 1 << 16
STORE_BYTES = 8  # what one store writes


class Real:
    """Host real memory. Secure real addresses and what lies outside take a machine check."""

    __slots__ = ("_level",)

    def __init__(self, level: Level) -> None:
        self._level = level

    def read(self, address: int, length: int) -> bytes | Fault:
        if address + length > self._level.size:
            return machine_check(address)
        return self._level.read(address, length)

    def write(self, address: int, data: bytes) -> Fault | None:
        if address + len(data) > self._level.size:
            return machine_check(address, write=True)
        return self._level.write(address, data, max(1, -(-len(data) // STORE_BYTES)))

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        if address + length > self._level.size:
            return machine_check(address, write=True)
        first, end = -(-address // PAGE), (address + length) // PAGE
        if byte == 0 and first < end:
            self._level.clear(np.arange(first, end))
            self._fill(address, (first << PAGE_SHIFT) - address, byte)
            self._fill(end << PAGE_SHIFT, address + length - (end << PAGE_SHIFT), byte)
        else:
            self._fill(address, length, byte)
        return None

    def _fill(self, address: int, length: int, byte: int) -> None:
        for at in range(address, address + length, FILL_BYTES):
            n = min(FILL_BYTES, address + length - at)
            self._level.write(at, bytes((byte,)) * n, max(1, n // STORE_BYTES))


class Mapped:
    """The VMM's mapping of a VM's memory: every access may make KVM act.."""

    __slots__ = ("_cpu", "_kvm", "_vm")

    def __init__(self, kvm: Kvm, cpu: Cpu, vm: Vm) -> None:
        self._kvm = kvm
        self._cpu = cpu
        self._vm = vm

    def read(self, address: int, length: int) -> bytes | Fault:
        return run(pages.load(self._kvm, self._cpu, self._vm, address, length))

    def write(self, address: int, data: bytes) -> Fault | None:
        return run(pages.store(self._kvm, self._cpu, self._vm, address, data))

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        places = run(pages.touch(self._kvm, self._cpu, self._vm, address, length, write=True))
        if isinstance(places, Fault):
            return places
        for real, (_, n) in zip(places, pages.pieces(address, length), strict=True):
            refused = self._kvm.level.write(real, bytes((byte,)) * n)
            assert refused is None, "a frame of the host's own cannot be written"
        return None
