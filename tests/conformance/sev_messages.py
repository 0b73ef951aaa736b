"""Guest messages as a guest builds and opens them: AES-256-GCM, header of 0x60 bytes."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sev_field import PAGE, Sev


def seal(key: bytes, sequence: int, payload: bytes, kind: int = 5, vmpck: int = 0, **header: int) -> bytes:
    """A request; fields of the header can be overridden."""
    fields = {"algorithm": 1, "header_version": 1, "header_size": 0x60, "version": 1} | header
    aad = struct.pack(
        "<BBHBBHIB35x",
        fields["algorithm"],
        fields["header_version"],
        fields["header_size"],
        kind,
        fields["version"],
        fields.get("size", len(payload)),
        fields.get("reserved", 0),
        vmpck,
    )
    sealed = AESGCM(key).encrypt(sequence.to_bytes(8, "little") + bytes(4), payload, aad)
    return sealed[-16:] + bytes(16) + struct.pack("<QQ", sequence, 0) + aad + sealed[:-16]


def opened(key: bytes, page: bytes) -> tuple[int, int, bytes]:
    """(sequence number, type, payload) of a response."""
    sequence, size, kind = (
        struct.unpack_from("<Q", page, 0x20)[0],
        struct.unpack_from("<H", page, 0x36)[0],
        page[0x34],
    )
    sealed = page[0x60 : 0x60 + size] + page[:16]
    plain = AESGCM(key).decrypt(sequence.to_bytes(8, "little") + bytes(4), sealed, page[0x30:0x60])
    return sequence, kind, plain


def report(host: Sev, gctx: int, key: bytes, sequence: int = 1, data: bytes = b"") -> bytes:
    """An attestation report through the whole path; the report alone."""
    request, response = host.pages(2)
    host.write(request, seal(key, sequence, data.ljust(64, b"\0") + bytes(32)))
    host.firmware(response)
    host.did("SNP_GUEST_REQUEST", gctx=gctx, req=request, resp=response)
    answered, kind, plain = opened(key, host.read(response, PAGE))
    assert (answered, kind) == (sequence + 1, 6)
    status, size = struct.unpack_from("<II", plain)
    assert (status, size) == (0, 0x4A0)
    return plain[0x20:]
