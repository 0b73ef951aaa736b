"""The form that all requests of an owner to the Ultravisor share.

Layout: ibm-s390-linux/s390-tools `rust/pv/src/req/{header,request,context}.rs`. A request is authenticated
data (a head of 48 bytes, what the kind of request has before the keys, the owner's public key, key slots as
in an SE header, what the kind has behind them), an encrypted part, and the tag of AES-256-GCM. Keys:
`image.keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from protocol.arch.s390.image.header import (
    IV_BYTES,
    KEY_BYTES,
    PUBLIC_BYTES,
    SLOT_BYTES,
    TAG_BYTES,
    unpack_slots,
)
from protocol.arch.s390.image.keys import (
    HostKey,
    SlotFailure,
    derive,
    gcm_open,
    gcm_seal,
    key_pair,
    scalar_from,
    unwrap,
    wrap,
)

VERSION_1 = 0x100
SLOTS_MAX = 255  # the field has one byte
_HEAD = Struct(f">8sII{IV_BYTES}s4x7xB4xI")
HEAD_BYTES = _HEAD.size


class RequestError(ValueError):
    """A request that cannot be built; the message says what is allowed."""


class Head(NamedTuple):
    """The first 48 bytes. `length` counts the whole request, `area` its encrypted part."""

    magic: bytes
    version: int
    length: int
    iv: bytes
    slots: int
    area: int

    @classmethod
    def read(cls, raw: bytes) -> Head:
        """Read the 48 bytes; raises struct.error if there are fewer."""
        return cls(*_HEAD.unpack_from(raw))


@dataclass(frozen=True, slots=True)
class Owner:
    """What an owner draws for one request; here it is derived, and the same arguments give the same."""

    customer: HostKey
    protection_key: bytes
    iv: bytes


def owner(kind: str, seed: int, digest: bytes) -> Owner:
    """Derive the keys of one request; `digest` tells requests apart, as it does images."""
    return Owner(
        customer=key_pair(scalar_from(derive(f"{kind}/customer", seed, digest, 82))),
        protection_key=derive(f"{kind}/protection", seed, digest, KEY_BYTES),
        iv=derive(f"{kind}/iv", seed, digest, IV_BYTES),
    )


def seal(
    keys: Owner,
    *,
    magic: bytes,
    version: int,
    before: bytes,
    hosts: Sequence[HostKey],
    behind: bytes,
    secret: bytes,
) -> bytes:
    """Build a request that the machines of `hosts` can open. Raises RequestError."""
    if not 0 < len(hosts) <= SLOTS_MAX:
        raise RequestError(f"{len(hosts)} host keys; a request has 1 to {SLOTS_MAX}")
    slots = b"".join(wrap(keys.protection_key, keys.customer.scalar, host).pack() for host in hosts)
    rest = before + keys.customer.public + slots + behind
    length = HEAD_BYTES + len(rest) + len(secret) + TAG_BYTES
    aad = _HEAD.pack(magic, version, length, keys.iv, len(hosts), len(secret)) + rest
    area, tag = gcm_seal(keys.protection_key, keys.iv, aad, secret)
    return aad + area + tag


def unseal(raw: bytes, head: Head, keys_at: int, key: HostKey) -> bytes | None:
    """Open a request of the right length, with its public key at `keys_at`; None if that cannot be done."""
    slots_at = keys_at + PUBLIC_BYTES
    slots = unpack_slots(raw[slots_at : slots_at + head.slots * SLOT_BYTES])
    protection_key = unwrap(slots, raw[keys_at:slots_at], key)
    if isinstance(protection_key, SlotFailure):
        return None
    area_at = len(raw) - TAG_BYTES - head.area
    return gcm_open(protection_key, head.iv, raw[:area_at], raw[area_at:-TAG_BYTES], raw[-TAG_BYTES:])
