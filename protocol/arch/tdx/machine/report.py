"""TDREPORT: what a guest shows to prove what it is. Section 2.7 of the fact sheet.

The MAC is HMAC-SHA256 with a key fused into the machine; on real hardware its algorithm is the CPU's own
affair. TEE_TCB_INFO describes a module of ours: MRSEAM is the digest of its name.
"""

from __future__ import annotations

import hashlib
import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING

from protocol.arch.tdx.machine.entities import Td
from protocol.arch.tdx.status import Status
from protocol.arch.tdx.structs import MAC_COVERS, REPORT_MAC, TD_INFO, TEE_TCB_INFO, TEE_TYPE_TDX

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

CPUSVN = bytes([1]) + bytes(15)
TEE_TCB_SVN = bytes([5, 1]) + bytes(14)  # update and minor version; a guess
TCB_VALID = 0x1FF  # which fields of TEE_TCB_INFO are filled; a guess
MRSEAM = hashlib.sha384(b"nestbed TDX module 1.5.01").digest()


def td_info(td: Td) -> bytes:
    """TDINFO_STRUCT. No service TD is ever bound, so its hash is zero."""
    return TD_INFO.pack(
        td.attributes,
        td.xfam,
        td.mrtd,
        td.mrconfigid,
        td.mrowner,
        td.mrownerconfig,
        b"".join(td.rtmr),
        bytes(48),
    )


def tcb_info() -> bytes:
    return TEE_TCB_INFO.pack(TCB_VALID, TEE_TCB_SVN, MRSEAM, bytes(48), 0)


def make(m: Machine, td: Td, data: bytes) -> bytes:
    """TDREPORT_STRUCT with `data` of the guest's own."""
    about_td, about_module = td_info(td), tcb_info()
    fields = (TEE_TYPE_TDX, 0, 0, 0, CPUSVN, _digest(about_module), _digest(about_td), data)
    unsigned = REPORT_MAC.pack(*fields, bytes(32))
    return unsigned[:MAC_COVERS] + _mac(m, unsigned) + about_module + about_td


def verify(m: Machine, structure: bytes) -> int:
    """The status of a check of a REPORTMACSTRUCT."""
    if structure[16:32] != CPUSVN:
        return Status.INVALID_CPUSVN
    if not hmac.compare_digest(structure[MAC_COVERS:], _mac(m, structure)):
        return Status.INVALID_REPORTMACSTRUCT
    return Status.SUCCESS


def _digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def _mac(m: Machine, structure: bytes) -> bytes:
    return hmac.digest(report_key(m.seed), structure[:MAC_COVERS], "sha256")


def report_key(seed: int) -> bytes:
    """The key fused into the machine of `seed`, which its quoting enclave reaches, too."""
    return blake2b(f"{seed}:report".encode(), digest_size=32).digest()
