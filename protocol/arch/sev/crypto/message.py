"""Guest messages: what a guest and the secure processor say to each other through the host. Section 4.5.

AES-256-GCM under one of four keys; the sequence number is the nonce, so no message may be sent twice.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.arch.sev.structs import MESSAGE_HEADER, PAGE

_HEADER = Struct("<32sQ8xBBHBBH4xB35x")
AES_256_GCM = 1
HEADER_VERSION = 1
MESSAGE_VERSION = 1
TAG = 16
_AAD = slice(0x30, 0x60)

REPORT_REQ, KEY_REQ = 5, 3


class Message(NamedTuple):
    """One message. `sealed` is its payload encrypted, `header` its raw header."""

    tag: bytes
    sequence: int
    algorithm: int
    header_version: int
    header_size: int
    kind: int
    version: int
    size: int
    vmpck: int
    header: bytes
    sealed: bytes

    @classmethod
    def unpack(cls, page: bytes) -> Message | None:
        """Read a page; None if the header is malformed or the message does not fit into the page."""
        fields = _HEADER.unpack_from(page)
        size, vmpck = fields[7], fields[8]
        reserved = any(page[0x28:0x30]) or any(page[0x38:0x3C]) or any(page[0x3D:0x60])
        header, sealed = page[:MESSAGE_HEADER], page[MESSAGE_HEADER : MESSAGE_HEADER + size]
        message = cls(*(*fields, header, sealed))
        wrong = (
            fields[2] != AES_256_GCM
            or fields[3] != HEADER_VERSION
            or fields[4] != MESSAGE_HEADER
            or MESSAGE_HEADER + size > PAGE
            or vmpck > 3
            or reserved
        )
        return None if wrong else message

    def open(self, key: bytes) -> bytes | None:
        """The payload, or None if the tag does not fit."""
        nonce = _nonce(self.sequence)
        try:
            return AESGCM(key).decrypt(nonce, self.sealed + self.tag[:TAG], self.header[_AAD])
        except InvalidTag:
            return None


def seal(key: bytes, kind: int, sequence: int, vmpck: int, payload: bytes) -> bytes:
    """A whole message: header and encrypted payload."""
    header = _HEADER.pack(
        b"", sequence, AES_256_GCM, HEADER_VERSION, MESSAGE_HEADER, kind, MESSAGE_VERSION, len(payload), vmpck
    )
    sealed = AESGCM(key).encrypt(_nonce(sequence), payload, header[_AAD])
    body, tag = sealed[:-TAG], sealed[-TAG:]
    return tag + header[TAG:] + body


def _nonce(sequence: int) -> bytes:
    return sequence.to_bytes(8, "little") + bytes(4)
