"""The Secure Execution header, version 1: bytes <-> values.

Layout: ibm-s390-linux/s390-tools `rust/pvimg/src/pv_utils/se_hdr/{brb,hdr_v1,keys,flags}.rs`. Big-endian
throughout: fixed part (0x1A0 bytes), key slots (80 bytes each), encrypted area (128 bytes), AES-256-GCM tag
(16 bytes). Nothing is judged here; `unseal` does that. Reserved fields are carried, so that a round trip
keeps every bit.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from typing import Self

MAGIC = b"IBMSecEx"
VERSION_1 = 0x100
HEADER_BYTES_MAX = 0x2000  # two pages, the limit of the image builder

IV_BYTES = 12
TAG_BYTES = 16
PUBLIC_BYTES = 160  # two coordinates of 80 bytes
HASH_BYTES = 32
KEY_BYTES = 32
XTS_KEY_BYTES = 64
DIGEST_BYTES = 64
PSW_BYTES = 16


def bit(number: int) -> int:
    """Return the mask of a bit of a doubleword; as in the architecture, bit 0 is the most significant."""
    return 1 << (63 - number)


PCF_ALLOW_DUMP = bit(34)
PCF_PLAIN_COMPONENTS = bit(35)  # pages are neither encrypted by the owner nor decrypted at Unpack
PCF_BACKUP_KEY = bit(62)
SCF_EXTENSION_SECRET = bit(1)  # every Add Secret must carry an extension secret
SCF_CCK_UPDATE = bit(2)
SCF_KNOWN = SCF_EXTENSION_SECRET | SCF_CCK_UPDATE  # the two that the builder names

_FIXED = struct.Struct(f">8sII{IV_BYTES}s4sQQQQ{PUBLIC_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}s")
_SLOT = struct.Struct(f">{HASH_BYTES}s{KEY_BYTES}s{TAG_BYTES}s")
_SECRETS = struct.Struct(f">{KEY_BYTES}s{XTS_KEY_BYTES}s{PSW_BYTES}sQI4s")
FIXED_BYTES = _FIXED.size
SLOT_BYTES = _SLOT.size
SECRETS_BYTES = _SECRETS.size


@dataclass(frozen=True, slots=True)
class Fixed:
    """What precedes the key slots, in the order of the bytes; `size` and `area_bytes` count bytes."""

    magic: bytes
    version: int
    size: int
    iv: bytes
    reserved: bytes
    slots: int
    area_bytes: int
    pages: int
    pcf: int
    customer_key: bytes
    pld: bytes
    ald: bytes
    tld: bytes

    def pack(self) -> bytes:
        """Return the 0x1A0 bytes."""
        return _FIXED.pack(*astuple(self))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read the first 0x1A0 bytes of `raw`; raises struct.error if there are fewer."""
        return cls(*_FIXED.unpack_from(raw))


@dataclass(frozen=True, slots=True)
class Slot:
    """The header's key, wrapped for one host."""

    key_hash: bytes
    wrapped: bytes
    tag: bytes

    def pack(self) -> bytes:
        """Return the 80 bytes."""
        return _SLOT.pack(self.key_hash, self.wrapped, self.tag)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read the 80 bytes; raises struct.error for another length."""
        return cls(*_SLOT.unpack(raw))


def unpack_slots(raw: bytes) -> tuple[Slot, ...]:
    """Split a run of key slots; attestation requests have them, too. Raises struct.error for a torn slot."""
    return tuple(Slot.unpack(raw[at : at + SLOT_BYTES]) for at in range(0, len(raw), SLOT_BYTES))


@dataclass(frozen=True, slots=True)
class Secrets:
    """The encrypted area without optional items: the owner's keys, the start PSW and the secret flags."""

    cck: bytes
    xts_key: bytes
    psw: bytes
    scf: int
    items: int = 0
    reserved: bytes = bytes(4)

    def pack(self) -> bytes:
        """Return the 128 bytes in the clear."""
        return _SECRETS.pack(self.cck, self.xts_key, self.psw, self.scf, self.items, self.reserved)

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read the 128 bytes; raises struct.error for another length."""
        return cls(*_SECRETS.unpack(raw))


def header_bytes(slots: int) -> int:
    """Return the length in bytes of a header with so many key slots and no optional items."""
    return FIXED_BYTES + slots * SLOT_BYTES + SECRETS_BYTES + TAG_BYTES


SLOTS_MAX = (HEADER_BYTES_MAX - header_bytes(0)) // SLOT_BYTES
