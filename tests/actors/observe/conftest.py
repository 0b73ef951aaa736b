"""A real machine with a little done on it, so that what is read is what a machine counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.profiles import MIB, PROFILES
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_GADDR,
    INIT,
    NODATA,
    PADDR,
    CreateConfig,
    CreateCpu,
    block,
)
from protocol.arch.s390.tables import GuestTable
from protocol.effects import run
from protocol.memory.pool import Pool

HANDLE = slice(0x18 - 8, 0x20 - 8)  # in what an Issuer hands out: from offset 8 on
SCRATCH, SCA = 0x10000, 0x20000
PROFILE = PROFILES["small"]


class Host:
    """A secure host that makes a guest, brings in some pages and takes all of it down again."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.level: Any = rig.seats[0].level
        self.issuer = Issuer(self.level, self.level.cpus[0], SCRATCH)
        self.pool = Pool(512, 16_384)

    def uvc(self, uvcb: bytes | bytearray, out: int = 8) -> bytes:
        outcome = run(self.issuer.uvc(uvcb, out))
        assert outcome.rc == EXECUTED, f"{uvcb.hex()}: {outcome}"
        return outcome.out[0][1] if outcome.out else b""

    def frames(self, length: int) -> int:
        return self.pool.take_run(length >> 12) << 12

    def live(self, pages: int = 3) -> None:
        base = (self.level.size - PROFILE.base_len) // MIB * MIB
        self.uvc(block(0x48, 0x000F, INIT, base, PROFILE.base_len))
        table = GuestTable(self.level, self.pool)
        areas = [self.frames(PROFILE.conf_base_len), self.frames(PROFILE.variable_len(MIB))]
        config = CreateConfig(*areas, 0, 0, MIB, SCA, table.asce)
        handle = int.from_bytes(self.uvc(config.pack(), 0x20)[HANDLE], "big")
        cpu = CreateCpu(handle, self.frames(PROFILE.cpu_len), 0, SCRATCH)
        cpu_handle = int.from_bytes(self.uvc(cpu.pack(), 0x20)[HANDLE], "big")
        for page in range(pages):
            frame = self.pool.take()
            table.map(page, frame)
            self.uvc(block(0x28, 0x0200, HANDLE_GADDR, handle, page << 12))
            self.uvc(block(0x20, 0x0202, PADDR, frame << 12))
        self.uvc(block(0x40, 0x0121, NODATA, cpu_handle))
        self.uvc(block(0x40, 0x0101, NODATA, handle))


@pytest.fixture
def lived() -> Callable[[int], Rig]:
    """Give a machine whose host at a depth has lived a guest's life of three pages."""

    def rig_at(depth: int) -> Rig:
        rig = compose(PROFILE, depth)
        Host(rig).live()
        return rig

    return rig_at
