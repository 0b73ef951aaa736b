"""Guests with their secrets, as only the real secure processor has them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from protocol.arch.sev.books import Context, Guest
from protocol.arch.sev.crypto.digest import ZERO_DIGEST
from protocol.arch.sev.crypto.keys import MemoryKey
from protocol.arch.sev.crypto.session import Keys
from protocol.arch.sev.profiles import TCB


@dataclass(slots=True)
class LegacyGuest(Guest):
    """`measured` gathers the plaintext of the launch, `vmsas` what proves a VMSA at every entry."""

    key: MemoryKey = field(kw_only=True)
    oek: bytes = field(kw_only=True)
    keys: Keys = field(kw_only=True)
    measured: hashlib._Hash = field(default_factory=hashlib.sha256)
    digest: bytes = bytes(32)
    measurement: bytes = bytes(32)
    vmsas: dict[int, bytes] = field(default_factory=dict)  # frame -> digest of its ciphertext
    swap_iv: int = 0


@dataclass(slots=True)
class SnpGuest(Context):
    """What a context page holds. `counts` are the sequence numbers of the four message keys."""

    key: MemoryKey = field(kw_only=True)
    oek: bytes = field(kw_only=True)
    vmpcks: tuple[bytes, ...] = field(kw_only=True)
    report_id: bytes = field(kw_only=True)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    digest: bytes = ZERO_DIGEST
    imi_digest: bytes = ZERO_DIGEST
    gosvw: bytes = bytes(16)
    agent: int = 0  # frame of the migration agent's context, 0 if none
    family: bytes = bytes(16)
    image: bytes = bytes(16)
    svn: int = 0
    has_id_block: bool = False
    id_digest: bytes = bytes(48)
    author_digest: bytes = bytes(48)
    author_key: bool = False
    host_data: bytes = bytes(32)
    launch_tcb: bytes = TCB
    swap_iv: int = 0
    root_mdata: bytes = bytes(64)
