"""Launch measurements: section 4.5 of the fact sheet.

The SNP digest is what a verifier computes beforehand (`sev-snp-measure` is one program that does), so every
byte counts.
"""

from __future__ import annotations

import hashlib
import hmac
from struct import Struct

from protocol.arch.sev.profiles import API_MAJOR, API_MINOR, BUILD
from protocol.arch.sev.status import PageType
from protocol.arch.sev.structs import VMSA_TSC_SCALE

_PAGE_INFO = Struct("<48s48sHBBBBBBQ")
_HASHED = (PageType.NORMAL, PageType.VMSA)
ZERO_DIGEST = bytes(48)


def extend(
    digest: bytes,
    kind: int,
    contents: bytes,
    gpa: int,
    imi: bool = False,
    vmpls: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """The launch digest with one more chunk of 4 KiB. `contents` counts for NORMAL and VMSA pages only."""
    if kind == PageType.VMSA:
        contents = contents[:VMSA_TSC_SCALE] + bytes(16) + contents[VMSA_TSC_SCALE + 16 :]
    hashed = hashlib.sha384(contents).digest() if kind in _HASHED else ZERO_DIGEST
    info = _PAGE_INFO.pack(digest, hashed, _PAGE_INFO.size, kind, imi, 0, *vmpls, gpa)
    return hashlib.sha384(info).digest()


def legacy_measurement(tik: bytes, policy: int, digest: bytes, nonce: bytes) -> bytes:
    """What LAUNCH_MEASURE returns: the MAC and the nonce."""
    head = bytes((0x04, API_MAJOR, API_MINOR, BUILD)) + policy.to_bytes(4, "little")
    return hmac.digest(tik, head + digest + nonce, "sha256") + nonce
