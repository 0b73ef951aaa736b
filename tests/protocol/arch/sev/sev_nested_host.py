"""A guest host at some depth and its software: what the emulation of its processor is held to."""

from __future__ import annotations

from typing import Any

from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.host.guests import Guests
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.structs import PAGE
from protocol.effects import run

RMP_LEN = 3 * MIB


class Host:
    """The software of one host of a rig."""

    def __init__(self, rig: Rig, seat: int = 0) -> None:
        self.rig, self.seat = rig, rig.seats[seat]
        self.next = 8 * MIB
        self.hands = Hands(self.seat, rig.depth + 1)
        for cpu in self.seat.cpus:
            for msr, value in (
                (0xC0010132, 4 * MIB),
                (0xC0010133, 4 * MIB + RMP_LEN - 1),
                (0xC0010010, 0x3880000),
            ):
                run(self.seat.level.wrmsr(cpu, msr, value))
        self.driver = Driver(self.hands, self.allocate)
        run(self.driver.probe())
        self.guests = Guests(self.driver, lambda context: rig.guest_key(seat, context))

    def allocate(self, length: int, align: int) -> int:
        at = -(-self.next // align) * align
        self.next = at + -(-length // PAGE) * PAGE
        return at

    def launch(self, kind: str = "snp", pages: int = 4) -> Any:
        return run(self.guests.launch(kind, pages, 1, 1, 0))


def rig_of(depth: int, hosts: int = 1, profile: str = "small") -> Rig:
    return compose(PROFILES[profile], depth, hosts)
