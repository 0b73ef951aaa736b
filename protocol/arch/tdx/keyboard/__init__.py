"""The console of TDX secure hosts: `console/tdx.md` of the contract.

host      SEAMCALL, VP.ENTER, LPs, programs of guests
space     physical addresses, with a KeyID in them
steps     guest steps as they are typed
port      what is needed of a level
"""

from __future__ import annotations

from functools import partial
from typing import Any

from protocol.arch.tdx.audit import audit
from protocol.arch.tdx.compose import Rig
from protocol.arch.tdx.keyboard.host import TdxHost
from protocol.arch.tdx.machine.init import HANDOFF_VERSION
from protocol.arch.tdx.profiles import Range
from protocol.keyboard import Answer, Complaint, Fields, Keyboard
from protocol.keyboard.console import Op
from protocol.memory.store import PAGE

MODULE = "1.5.01"


class TdxKeyboard(Keyboard[TdxHost]):
    """All hosts of one rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        hosts = [
            TdxHost(seat, partial(rig.reset, which), partial(rig.kill, which))
            for which, seat in enumerate(rig.seats)
        ]
        about = {
            "arch": "tdx",
            "depth": rig.depth,
            "hosts": len(hosts),
            "page_size": PAGE,
            "profile": rig.profile.name,
        }
        super().__init__(hosts, about)

    def more_ops(self) -> dict[str, Op[TdxHost]]:
        return {"stage": self._stage}

    def _stage(self, host: TdxHost, fields: Fields) -> Answer:
        if not self._rig.profile.migration:
            raise Complaint("bad_request", "stage: only in profile migration")
        return host.stage(fields)

    def te(self, host: TdxHost) -> dict[str, Any]:
        level, profile = host.level, self._rig.profile
        return {
            "module": MODULE,
            "handoff_version": HANDOFF_VERSION,
            "mktme_keyids": profile.mktme_keyids,
            "tdx_keyids": profile.tdx_keyids,
            "maxphyaddr": profile.maxphyaddr,
            "hkid_shift": profile.hkid_shift,
            "hkid_bits": profile.hkid_bits,
            "packages": profile.packages,
            "cpus": [{"cpu": lp.number, "package": lp.package} for lp in level.lps],
            "cmrs": [_range(cmr) for cmr in level.platform.cmrs],
            "seamrr": _range(level.platform.seamrr),
        }

    def audit(self) -> dict[str, Any]:
        return audit(self._rig)

    def machine_counts(self) -> dict[str, Any]:
        return dict(self._rig.ledger.flat())


def _range(area: Range) -> dict[str, str]:
    return {"base": hex(area.base), "size": hex(area.size)}
