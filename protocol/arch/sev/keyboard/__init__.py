"""The console of AMD secure hosts: `console/sev.md` of the contract.

host        the mailbox, instructions, VMRUN, CPUs, programs of guests
sequence    the op of that name: what Linux and QEMU do
steps       guest steps as they are typed
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

from protocol.arch.sev.audit import audit
from protocol.arch.sev.books import HIGH_DRAM, LOW_DRAM
from protocol.arch.sev.compose import Rig
from protocol.arch.sev.keyboard.host import SevHost
from protocol.arch.sev.profiles import API_MAJOR, API_MINOR, BUILD
from protocol.arch.sev.structs import C_BIT
from protocol.keyboard import Answer, Fields, Keyboard
from protocol.keyboard.console import Op
from protocol.memory.store import PAGE


class SevKeyboard(Keyboard[SevHost]):
    """All hosts of one rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        hosts = [
            SevHost(
                seat,
                rig.depth + 1,
                self._parked,
                partial(rig.reset, which),
                partial(rig.kill, which),
                partial(rig.guest_key, which),
            )
            for which, seat in enumerate(rig.seats)
        ]
        about = {
            "arch": "sev",
            "depth": rig.depth,
            "hosts": len(hosts),
            "page_size": PAGE,
            "profile": rig.profile.name,
        }
        if rig.profile.realism and rig.depth:
            about["realism"] = rig.profile.realism
        super().__init__(hosts, about)

    def more_ops(self) -> dict[str, Op[SevHost]]:
        return {"sequence": self._sequence}

    def _sequence(self, host: SevHost, fields: Fields) -> Answer:
        return host.sequence(fields)

    def _parked(self) -> bool:
        return any(activity.parked for host in self.hosts for activity in host.busy.values())

    def te(self, host: SevHost) -> dict[str, Any]:
        profile, level = self._rig.profile, host.hands.seat.level
        return {
            "api_major": API_MAJOR,
            "api_minor": API_MINOR,
            "build": BUILD,
            "asids": profile.asids,
            "min_sev_asid": profile.min_sev_asid,
            "c_bit": C_BIT,
            "smt": True,
            "sockets": 1,
            "nested_msr": level.nested_msr,
            "cpus": [{"cpu": cpu.number, "core": cpu.core, "ccx": cpu.core} for cpu in host.hands.seat.cpus],
            "dram": [
                {"base": "0x0", "len": hex(LOW_DRAM)},
                {"base": hex(HIGH_DRAM), "len": hex(host.memory - HIGH_DRAM)},
            ],
        }

    def audit(self) -> dict[str, Any]:
        return audit(self._rig)

    def machine_counts(self) -> dict[str, Any]:
        """What the machine itself was given, whoever caused it."""
        psp: defaultdict[str, int] = defaultdict(int)
        rest: defaultdict[str, int] = defaultdict(int)
        for (family, *labels), n in self._rig.ledger.counts().items():
            if family == "te_issued":
                instruction = labels[0] in ("RMPUPDATE", "PSMASH")
                (rest if instruction else psp)[labels[0].lower() if instruction else labels[0]] += n
        return {"psp": dict(psp), **rest}
