"""The console of POWER hosts with the Protected Execution Facility: `console/pef.md` of the contract.

host          `sc 2`, vcpus, programs of guests
system_calls  the VMM's system calls and its boot
spaces        host real memory, and the VMM's mapping of a VM
steps         guest steps as they are typed
"""

from __future__ import annotations

from functools import partial
from typing import Any

from protocol.arch.pef.audit import audit
from protocol.arch.pef.compose import Rig
from protocol.arch.pef.keyboard import system_calls
from protocol.arch.pef.keyboard.host import PefHost
from protocol.arch.pef.kvm.vmm import capabilities
from protocol.arch.pef.profiles import MIB
from protocol.arch.pef.tables import LPIDS, MEM_SLOTS, PAGE, UNIT
from protocol.keyboard import Answer, Fields, Keyboard
from protocol.keyboard.console import Op


class PefKeyboard(Keyboard[PefHost]):
    """All hosts of one rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        hosts = [
            PefHost(seat, rig.depth, rig.seed, partial(rig.reset, which), partial(rig.kill, which))
            for which, seat in enumerate(rig.seats)
        ]
        about = {
            "arch": "pef",
            "depth": rig.depth,
            "hosts": len(hosts),
            "page_size": PAGE,
            "profile": rig.profile.name,
        }
        super().__init__(hosts, about)

    def more_ops(self) -> dict[str, Op[PefHost]]:
        return {"kvm": self._kvm, "load": self._load, "hcall": self._hcall}

    def _kvm(self, host: PefHost, fields: Fields) -> Answer:
        return system_calls.call(host, fields, host.cpu_at(self._some_cpu(host, fields)))

    def _load(self, host: PefHost, fields: Fields) -> Answer:
        return system_calls.load(host, fields, host.cpu_at(self._some_cpu(host, fields)))

    def _some_cpu(self, host: PefHost, fields: Fields) -> int:
        """A CPU for what is no CPU's in particular: the one that is named, or one that is in no guest."""
        named = self._cpu_number(host, fields)
        return next((cpu for cpu in (named, *range(host.cpus)) if cpu not in host.busy), named)

    def _hcall(self, host: PefHost, fields: Fields) -> Answer:
        return host.hcall(fields, self._some_cpu(host, fields))

    def te(self, host: PefHost) -> dict[str, Any]:
        profile = self._rig.profile
        return {
            "ultravisor": profile.ultravisor,
            "secure_memory": profile.secure_mib * MIB,
            "unit": hex(UNIT),
            "lpids": LPIDS - 1,
            "mem_slots": MEM_SLOTS,
            "device_frames": profile.devices,
            "nested": "v1",
            "caps": list(capabilities(host.kvm)),
        }

    def audit(self) -> dict[str, Any]:
        return audit(self._rig, [host.kvm for host in self.hosts])

    def machine_counts(self) -> dict[str, Any]:
        return dict(self._rig.ledger.flat())
