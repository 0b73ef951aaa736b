"""A guest host at some depth, driven by registers: what the counts and books of emulations are held to."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.compose import Rig, compose
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import GuestStep, Program
from protocol.arch.tdx.profiles import GIB, PROFILES, Range
from protocol.arch.tdx.status import RAX
from protocol.arch.tdx.structs import U64, TdmrInfo, TdParams
from protocol.effects import Fault, run
from protocol.memory.store import PAGE

FIRST_PAGE = GIB
BUFFER = 0x10_0000
FIELD_SHARED_EPTP = 0x002400030000203C
FIELD_PI_DESCRIPTOR = 0x0024000300002016
ALL = (1 << 64) - 1


class NestedHost:
    def __init__(
        self, depth: int, profile: str = "small", hosts: int = 1, seat: int = 0, rig: Rig | None = None
    ) -> None:
        self.rig: Rig = compose(PROFILES[profile], depth, hosts) if rig is None else rig
        self.seat = self.rig.seats[seat]
        self._next = FIRST_PAGE

    @property
    def level(self) -> Any:
        return self.seat.level

    def page(self) -> int:
        self._next += PAGE
        return self._next - PAGE

    def call(self, leaf: int, cpu: int = 0, **named: int) -> list[int]:
        out = run(self.level.call(self.seat.cpus[cpu], registers(rax=leaf, **named)))
        assert not isinstance(out, Fault)
        return list(out)

    def good(self, leaf: int, cpu: int = 0, **named: int) -> list[int]:
        out = self.call(leaf, cpu, **named)
        assert not out[RAX], f"{leaf}: {out[RAX]:#x}"
        return out

    def enter(self, tdvpr: int, *steps: GuestStep) -> tuple[list[int], Program]:
        program = Program()
        program.steps.extend(steps)
        out = run(self.level.enter(self.seat.cpus[0], registers(rcx=tdvpr), program))
        assert not isinstance(out, Fault)
        return list(out), program

    def write(self, address: int, data: bytes) -> None:
        assert self.level.write(address, data) is None

    # -- sequences ---------------------------------------------------------------------------------

    def boot(self) -> NestedHost:
        """Section 6.1, with one GiB of a TDMR."""
        areas = (Range(0x20_0000, PAGE), Range(0x30_0000, 2 * PAGE), Range(0x40_0000, 4 << 20))
        self.write(BUFFER, U64.pack(BUFFER + PAGE))
        self.write(BUFFER + PAGE, TdmrInfo(GIB, GIB, areas, ()).pack())
        self.good(33)
        for lp in self.seat.cpus:
            self.good(35, lp.number)
        self.good(45, rcx=BUFFER, rdx=1, r8=16)
        for lp in {lp.package: lp for lp in self.seat.cpus}.values():
            self.good(31, lp.number)
        self.good(36, rcx=GIB)
        return self

    def td(self, hkid: int = 17) -> int:
        tdr = self.page()
        self.good(9, rcx=tdr, rdx=hkid)
        for lp in {lp.package: lp for lp in self.seat.cpus}.values():
            self.good(8, lp.number, rcx=tdr)
        for _ in range(6):
            self.good(1, rcx=self.page(), rdx=tdr)
        nothing = ((0, 0, 0, 0),) * 0
        params = TdParams(
            0, 3, 4, 0, 0, 6 | 3 << 3, 0, 40, bytes(48), bytes(48), bytes(48), 0, nothing,
            (bytes(4), bytes(38), bytes(24), bytes(768)),
        )  # fmt: skip
        self.write(BUFFER, params.pack())
        self.good(21, rcx=tdr, rdx=BUFFER)
        return tdr

    def vcpu(self, tdr: int) -> int:
        tdvpr = self.page()
        self.good(10, rcx=tdvpr, rdx=tdr)
        for _ in range(5):
            self.good(4, rcx=self.page(), rdx=tdvpr)
        self.good(22, rcx=tdvpr)
        return tdvpr

    def counted(self) -> dict[str, int]:
        """What was counted since the last time."""
        counts = self.rig.ledger.flat()
        self.rig.ledger.reset()
        return counts
