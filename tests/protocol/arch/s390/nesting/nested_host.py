"""A small secure host for tests: boots its Ultravisor, makes guests, runs them. Everything it does is a step.

It knows nothing of the depth at which it runs: it meets a level, and its own memory through that level. The
frames that it gives its guests are scattered, so that every level has another table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.arch.s390.compose import Rig
from protocol.arch.s390.guest import GuestStep, Program
from protocol.arch.s390.image import Component, build, host_key
from protocol.arch.s390.issue import Issuer
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_GADDR,
    HANDLE_OUT,
    INIT,
    NODATA,
    PADDR,
    SECURE,
    SET_PARAMS,
    SET_STATE,
    SIE_CONFIG_HANDLE,
    SIE_CPU_HANDLE,
    SIE_LENGTH,
    SIE_SDF,
    SIE_SIDA,
    U64,
    UNPACK,
    CreateConfig,
    CreateCpu,
    Outcome,
    SieExit,
    block,
)
from protocol.arch.s390.tables import GuestTable
from protocol.effects import Fault, Step
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE, PAGE_SHIFT

MIB = 1 << 20
FIRST_FREE = 256
IMAGE_AT = 0x10000
IMAGE = b"this is a guest of a guest"
LOAD = 5
HEADER_ROOM = 2  # frames


class Refused(AssertionError):
    """A call that had to succeed did not: another CPU was in the way, or the test is wrong."""


@dataclass
class Vcpu:
    """A secure CPU as its host has it."""

    handle: int
    storage: int
    block: int
    sida: int
    program: Program = field(default_factory=Program)


@dataclass
class Guest:
    """A secure guest as its host has it. `pages` maps guest pages to the host's frames."""

    handle: int
    length: int
    base: int
    variable: int
    table: GuestTable
    sca: int
    vcpus: list[Vcpu] = field(default_factory=list)
    pages: dict[int, int] = field(default_factory=dict)


class NestedHost:
    """The host on one seat of a rig. After its death or reset call `restart`."""

    def __init__(self, rig: Rig, seat: int = 0, seed: int = 0) -> None:
        self.rig = rig
        self.seat = rig.seats[seat]
        self.random = Random(seed)
        self.restart()

    def restart(self) -> None:
        """Come up: nothing of what was before is known."""
        profile = self.rig.profile
        self.level: Any = self.rig.seen(self.seat.level)
        self.cpus = self.seat.cpus
        self.base = (self.seat.memory_bytes - profile.base_len) // MIB * MIB
        self.pool = Pool(FIRST_FREE, (self.base >> PAGE_SHIFT) - FIRST_FREE)
        self.issuers = [Issuer(self.level, cpu, 0x10000 + PAGE * cpu.number) for cpu in self.cpus]
        self.guests: list[Guest] = []

    # -- calls ---------------------------------------------------------------------------------------

    def uvc(self, made: bytes | bytearray, cpu: int = 0, out: int = 8) -> Step[Outcome]:
        return self.issuers[cpu].uvc(made, out)

    def done(self, made: bytes | bytearray, cpu: int = 0, out: int = 8) -> Step[Outcome]:
        """Issue a call that has to succeed."""
        outcome = yield from self.uvc(made, cpu, out)
        if outcome.rc != EXECUTED:
            raise Refused(f"{bytes(made[:8]).hex()}: {outcome}")
        return outcome

    def init(self) -> Step[None]:
        for cpu in self.cpus[1:]:
            cpu.running = False
        yield from self.done(block(0x48, 0x000F, INIT, self.base, self.rig.profile.base_len))
        for cpu in self.cpus:
            cpu.running = True

    def page_call(self, code: int, paddr: int, cpu: int = 0) -> Step[Outcome]:
        return self.uvc(block(0x20, code, PADDR, paddr), cpu)

    def convert(self, guest: Guest, page: int, cpu: int = 0) -> Step[Outcome]:
        return self.uvc(block(0x28, 0x0200, HANDLE_GADDR, guest.handle, page << PAGE_SHIFT), cpu)

    def unpin(self, guest: Guest, page: int, cpu: int = 0) -> Step[Outcome]:
        return self.uvc(block(0x28, 0x0342, HANDLE_GADDR, guest.handle, page << PAGE_SHIFT), cpu)

    def handle_call(self, code: int, handle: int, cpu: int = 0) -> Step[Outcome]:
        return self.uvc(block(0x40, code, NODATA, handle), cpu)

    # -- guests --------------------------------------------------------------------------------------

    def create(self, mib: int = 1, vcpus: int = 1, cpu: int = 0) -> Step[Guest]:
        """A configuration with its CPUs. The guest's table is empty."""
        profile, length = self.rig.profile, mib * MIB
        base = self._run(profile.conf_base_len)
        variable = self._run(profile.variable_len(length))
        sca = self._run(0x4000)
        table = GuestTable(self.level, self.pool)
        fields = CreateConfig(base, variable, 0, 0, length, sca, table.asce)
        outcome = yield from self.done(fields.pack(), cpu, HANDLE_OUT + 8)
        handle = U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0]
        guest = Guest(handle, length, base, variable, table, sca)
        self.guests.append(guest)
        for number in range(vcpus):
            yield from self.create_cpu(guest, number, cpu)
        return guest

    def create_cpu(self, guest: Guest, number: int, cpu: int = 0) -> Step[Vcpu]:
        storage = self._run(self.rig.profile.cpu_len)
        state, sida = (frame << PAGE_SHIFT for frame in self.pool.take_singles(2))
        fields = CreateCpu(guest.handle, storage, number, state)
        outcome = yield from self.done(fields.pack(), cpu, HANDLE_OUT + 8)
        vcpu = Vcpu(U64.unpack_from(outcome.out[0][1], HANDLE_OUT - 8)[0], storage, state, sida)
        made = bytearray(SIE_LENGTH)
        U64.pack_into(made, SIE_CPU_HANDLE, vcpu.handle)
        U64.pack_into(made, SIE_CONFIG_HANDLE, guest.handle)
        U64.pack_into(made, SIE_SIDA, vcpu.sida)
        made[SIE_SDF] = SECURE
        self.write(vcpu.block, bytes(made))
        guest.vcpus.append(vcpu)
        return vcpu

    def map(self, guest: Guest, page: int, data: bytes = b"") -> int:
        """Give the guest a page of the host's memory; returns its address."""
        frame = self.some_frame()
        guest.pages[page] = frame
        if data:
            self.write(frame << PAGE_SHIFT, data.ljust(PAGE, b"\0"))
        guest.table.map(page, frame)
        return frame << PAGE_SHIFT

    def load(self, guest: Guest, cpu: int = 0) -> Step[None]:
        """Parameters, one page of an image, prefix pages, start."""
        seed = self.rig.seed
        made = build(
            [Component(IMAGE_AT, IMAGE, 1)], seed=seed, digest=bytes(32), slots=[host_key(seed, "host")]
        )
        at = self._run(HEADER_ROOM * PAGE)
        self.write(at, made.header)
        yield from self.done(block(0x50, 0x0300, SET_PARAMS, guest.handle, at, len(made.header)), cpu)
        for page in made.pages:
            self.map(guest, page.gaddr >> PAGE_SHIFT, page.data)
            yield from self.done(block(0x50, 0x0301, UNPACK, guest.handle, page.gaddr, *page.tweak), cpu)
        yield from self.done(block(0x40, 0x0302, NODATA, guest.handle), cpu)
        for page in (0, 1):
            self.map(guest, page)
            yield from self.done(block(0x28, 0x0200, HANDLE_GADDR, guest.handle, page << PAGE_SHIFT), cpu)
        yield from self.done(block(0x50, 0x0330, SET_STATE, guest.vcpus[0].handle, LOAD), cpu)

    def boot(self, mib: int = 1, vcpus: int = 1, cpu: int = 0) -> Step[Guest]:
        """A guest that runs."""
        guest = yield from self.create(mib, vcpus, cpu)
        yield from self.load(guest, cpu)
        return guest

    def enter(
        self, guest: Guest, *steps: GuestStep, cpu: int = 0, vcpu: int = 0, stay: bool = False
    ) -> Step[SieExit | Fault]:
        """SIE; the guest does `steps` after what it has still to do."""
        entered = guest.vcpus[vcpu]
        entered.program.steps.extend(steps)
        self.cpus[cpu].cr[1] = guest.table.asce
        return (
            yield from self.level.enter(
                self.cpus[cpu], entered.block, entered.program, stay, self.rig.depth + 1
            )
        )

    def results(self, guest: Guest, vcpu: int = 0) -> list[dict[str, Any]]:
        return guest.vcpus[vcpu].program.collect()

    def destroy(self, guest: Guest, cpu: int = 0) -> Step[None]:
        """CPUs, configuration, pages: row 12 of section 6."""
        for vcpu in guest.vcpus:
            yield from self.done(block(0x40, 0x0121, NODATA, vcpu.handle), cpu)
        yield from self.done(block(0x40, 0x0101, NODATA, guest.handle), cpu)
        for frame in guest.pages.values():
            yield from self.done(block(0x20, 0x0202, PADDR, frame << PAGE_SHIFT), cpu)
        self.guests.remove(guest)

    # -- memory --------------------------------------------------------------------------------------

    def some_frame(self) -> int:
        """A free frame from anywhere."""
        taken = self.pool.take_singles(5)
        chosen = taken.pop(self.random.randrange(5))
        self.pool.give(taken)
        return chosen

    def _run(self, length: int) -> int:
        return self.pool.take_run(-(-length // PAGE)) << PAGE_SHIFT

    def write(self, address: int, data: bytes) -> None:
        fault = self.level.write(address, data)
        assert fault is None, fault

    def read(self, address: int, length: int) -> bytes | Fault:
        data: bytes | Fault = self.level.read(address, length)
        return data

    def is_secure(self, address: int) -> bool:
        data = self.level.peek(address, 1)
        return isinstance(data, Fault) and data.code == 0x3D
