"""A secure host for the benchmarks: its calls are real blocks in its own memory, at any depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.image import Component, Image, build, host_key
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.profiles import MIB, PROFILES
from protocol.arch.s390.structs import (
    EXECUTED,
    INIT,
    NODATA,
    PADDR,
    SET_PARAMS,
    UNPACK,
    CreateConfig,
    CreateCpu,
    block,
)
from protocol.arch.s390.tables import GuestTable
from protocol.effects import run
from protocol.memory.pool import Pool

PROFILE = replace(PROFILES["small"], max_configs=1 << 17)
FIRST_FREE = 512  # frames; what lies below is scratch
SCRATCH, SCA, HEADER_AT = 0x10000, 0x20000, 0x30000
HANDLE = slice(0x18 - 8, 0x20 - 8)  # in what an Issuer hands out: from offset 8 on
IMAGE_AT = 0x10000


class Host:
    """The first host of a rig, its Ultravisor initialised."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.level: Any = rig.seats[0].level
        self.issuer = Issuer(self.level, self.level.cpus[0], SCRATCH)
        base = (self.level.size - PROFILE.base_len) // MIB * MIB
        self.pool = Pool(FIRST_FREE, (base >> 12) - FIRST_FREE)
        self.uvc(block(0x48, 0x000F, INIT, base, PROFILE.base_len))

    def uvc(self, uvcb: bytes | bytearray, out: int = 8) -> bytes:
        """Issue a call that has to succeed; returns the block from 8 to `out`."""
        outcome = run(self.issuer.uvc(uvcb, out))
        assert outcome.rc == EXECUTED, f"{uvcb.hex()}: {outcome}"
        return outcome.out[0][1] if outcome.out else b""

    def frames(self, length: int) -> int:
        """The address of a contiguous area of its own."""
        return self.pool.take_run(length >> 12) << 12

    def image(self, pages: int) -> Image:
        """A guest's image for this machine."""
        component = Component(IMAGE_AT, bytes(range(256)) * (16 * pages), 1)
        return build([component], seed=1, digest=b"bench", slots=[host_key(self.rig.seed, "host")])

    def guest(self, memory_bytes: int = MIB) -> Guest:
        """Make a configuration with one CPU."""
        return Guest(self, memory_bytes)

    def life(self, image: Image) -> int:
        """Make a guest, load and verify its image, take it all down; returns how many calls that took."""
        guest = self.guest()
        guest.load(image)
        guest.end()
        return self.calls_of_a_life(len(image.pages))

    @staticmethod
    def calls_of_a_life(pages: int) -> int:
        """Two creations, parameters, a page each unpacked and destroyed, verification, two destructions."""
        return 6 + 2 * pages


class Guest:
    """A configuration with one CPU, and what the host gave for it."""

    def __init__(self, host: Host, memory_bytes: int) -> None:
        self.host = host
        self.table = GuestTable(host.level, host.pool)
        lengths = (PROFILE.conf_base_len, PROFILE.variable_len(memory_bytes), PROFILE.cpu_len)
        self.donated = [(host.frames(length), length) for length in lengths]
        base, variable, cpu = (address for address, _ in self.donated)
        made = host.uvc(CreateConfig(base, variable, 0, 0, memory_bytes, SCA, self.table.asce).pack(), 0x20)
        self.handle = int.from_bytes(made[HANDLE], "big")
        made = host.uvc(CreateCpu(self.handle, cpu, 0, SCRATCH).pack(), 0x20)
        self.cpu = int.from_bytes(made[HANDLE], "big")
        self.pages: list[int] = []

    def load(self, image: Image) -> None:
        """Set the parameters, unpack every page, verify."""
        host = self.host
        host.level.write(HEADER_AT, image.header)
        host.uvc(block(0x50, 0x0300, SET_PARAMS, self.handle, HEADER_AT, len(image.header)))
        for page in image.pages:
            frame = host.pool.take()
            self.pages.append(frame)
            host.level.write(frame << 12, page.data)
            self.table.map(page.gaddr >> 12, frame)
            host.uvc(block(0x50, 0x0301, UNPACK, self.handle, page.gaddr, *page.tweak))
        host.uvc(block(0x40, 0x0302, NODATA, self.handle))

    def end(self) -> None:
        """Destroy it, and take back what was given."""
        host = self.host
        for frame in self.pages:
            host.uvc(block(0x20, 0x0202, PADDR, frame << 12))
        host.uvc(block(0x40, 0x0121, NODATA, self.cpu))
        host.uvc(block(0x40, 0x0101, NODATA, self.handle))
        host.pool.give(self.pages)
        for address, length in self.donated:
            host.pool.give_run(address >> 12, length >> 12)
        self.table.drop()


def at_depth(depth: int, apart: bool = False) -> Host:
    """A host at `depth`, on a machine as large as it has to be. `apart`: levels speak by messages."""
    return Host(compose(PROFILE, depth, apart=apart))
