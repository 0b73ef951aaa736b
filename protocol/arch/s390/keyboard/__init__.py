"""The console of s390 secure hosts: `console/s390.md` of the contract.

  host        UVC, SIE, CPUs, programs of guests
  spaces      absolute, real and home addresses
  steps       guest steps as they are typed
  workbench   the op `image`
  port        what is needed of a level

The TOD clock is virtual: one microsecond for each request, for all hosts and at every depth.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from protocol.arch.s390.audit import audit
from protocol.arch.s390.compose import Rig
from protocol.arch.s390.keyboard.host import FACILITIES, S390Host
from protocol.arch.s390.keyboard.workbench import image
from protocol.keyboard import Answer, Fields, Keyboard
from protocol.keyboard.console import Op
from protocol.memory.store import PAGE

TOD_OF_A_REQUEST = 4096  # units: one microsecond; the contract allows 1 unit to 20 microseconds


class S390Keyboard(Keyboard[S390Host]):
    """All hosts of one rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        hosts = [
            S390Host(seat, rig.depth + 1, self.clock, partial(rig.reset, which), partial(rig.kill, which))
            for which, seat in enumerate(rig.seats)
        ]
        about = {
            "arch": "s390",
            "depth": rig.depth,
            "hosts": len(hosts),
            "page_size": PAGE,
            "profile": rig.profile.name,
        }
        super().__init__(hosts, about)

    def more_ops(self) -> dict[str, Op[S390Host]]:
        return {"image": self._image}

    def _image(self, host: S390Host, fields: Fields) -> Answer:
        return image(fields, self._rig.seed)

    def clock(self) -> int:
        tod: int = self._rig.machines[0].tod
        return tod

    def tick(self) -> None:
        for machine in self._rig.machines:
            machine.tod += TOD_OF_A_REQUEST

    def te(self, host: S390Host) -> dict[str, Any]:
        return {"ram_end": hex(host.memory), "facilities": list(FACILITIES), "uv": True}

    def audit(self) -> dict[str, Any]:
        return audit(self._rig)

    def machine_counts(self) -> dict[str, Any]:
        return dict(self._rig.ledger.flat())
