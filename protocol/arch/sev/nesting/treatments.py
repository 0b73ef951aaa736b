"""Which code treats which command of a guest host: one entry for each row of the call table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from protocol.arch.sev.nesting import legacy, pages, platform, snp, transport
from protocol.arch.sev.reply import Reply
from protocol.arch.sev.structs import LAYOUTS
from protocol.effects import Step

Treatment = Callable[..., Reply | Step[Reply]]

_REISSUED: dict[str, Any] = {
    "LAUNCH_START": legacy.launch_start,
    "RECEIVE_START": legacy.receive_start,
    "ACTIVATE": legacy.activate,
    "GUEST_STATUS": legacy.guest_status,
    "DECOMMISSION": legacy.passed,
    "DEACTIVATE": legacy.passed,
    "LAUNCH_FINISH": legacy.passed,
    "SEND_FINISH": legacy.passed,
    "SEND_CANCEL": legacy.passed,
    "RECEIVE_FINISH": legacy.passed,
    "LAUNCH_UPDATE_DATA": legacy.launch_update,
    "LAUNCH_UPDATE_VMSA": legacy.launch_update,
    "LAUNCH_MEASURE": legacy.launch_measure,
    "LAUNCH_SECRET": legacy.launch_secret,
    "ATTESTATION": legacy.attestation,
    "DBG_DECRYPT": legacy.debug,
    "DBG_ENCRYPT": legacy.debug,
    "COPY": legacy.copy,
    "SEND_START": transport.send_start,
    "SEND_UPDATE_DATA": transport.send_update,
    "SEND_UPDATE_VMSA": transport.send_update,
    "RECEIVE_UPDATE_DATA": transport.receive_update,
    "RECEIVE_UPDATE_VMSA": transport.receive_update,
    "SWAP_OUT": transport.swap,
    "SWAP_IN": transport.swap,
    "SNP_GCTX_CREATE": snp.gctx_create,
    "SNP_DECOMMISSION": snp.decommission,
    "SNP_LAUNCH_START": snp.launch_start,
    "SNP_ACTIVATE": snp.activate,
    "SNP_GUEST_STATUS": snp.guest_status,
    "SNP_LAUNCH_FINISH": snp.launch_finish,
    "SNP_GUEST_REQUEST": snp.guest_request,
    "SNP_LAUNCH_UPDATE": pages.launch_update,
    "SNP_DBG_DECRYPT": pages.dbg_decrypt,
    "SNP_DBG_ENCRYPT": pages.dbg_encrypt,
    "SNP_PAGE_RECLAIM": pages.reclaim,
    "SNP_PAGE_UNSMASH": pages.unsmash,
    "SNP_PAGE_MD_INIT": pages.md_init,
    "SNP_PAGE_MOVE": pages.move,
    "SNP_PAGE_SWAP_OUT": pages.swap_out,
    "SNP_PAGE_SWAP_IN": pages.swap_in,
}
_KEPT: dict[str, Any] = {
    "SNP_COMMIT": platform.commit,
    "ACTIVATE_EX": platform.activate_ex,
    "SNP_ACTIVATE_EX": platform.snp_activate_ex,
    "SNP_PAGE_SET_STATE": platform.set_state,
}
TREATMENTS: Mapping[str, Treatment] = dict.fromkeys(LAYOUTS, platform.emulated) | _REISSUED | _KEPT
