"""Attestation: the owner's request, the measurement, and its verification far from the machine.

Layouts: section 8.5 of the fact sheet (kvm-unit-tests `s390x/pv-attest.c`), and for the measurement
s390-tools `rust/pv/src/uvattest/{arcb,attest,additional}.rs`. A request gives the Ultravisor a key that
only the owner and the machine know. The measurement is HMAC-SHA512 under it, over what names the guest: the
digests and the tag of its image's header, the configuration's unique identifier, the guest's own words and
what the owner asked for.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple, Self

from protocol.arch.s390.evidence import request as form
from protocol.arch.s390.image.header import (
    DIGEST_BYTES,
    HASH_BYTES,
    PUBLIC_BYTES,
    SLOT_BYTES,
    TAG_BYTES,
    Fixed,
)
from protocol.arch.s390.image.keys import HostKey, derive

MAGIC = bytes(8)
HMAC_SHA512 = 1
MEASUREMENT_BYTES = 64
MEASUREMENT_KEY_BYTES = 64
NONCE_BYTES = 16
UID_BYTES = 16
USER_BYTES = 256

FLAG_NONCE = 1 << 62  # named by s390-tools; a request here carries a nonce or not, whatever this flag says
FLAG_IMAGE_KEY = 1 << 61
FLAG_REQUEST_KEY = 1 << 60
FLAG_SECRET_STORE = 1 << 59
FLAG_FIRMWARE = 1 << 58
ADDITIONAL_BYTES = {FLAG_IMAGE_KEY: 32, FLAG_REQUEST_KEY: 32, FLAG_SECRET_STORE: 64, FLAG_FIRMWARE: 320}

_AUTHENTICATED = Struct(">QI4x")  # flags, algorithm
KEYS_AT = form.HEAD_BYTES + _AUTHENTICATED.size
FIXED_BYTES = KEYS_AT + PUBLIC_BYTES  # what precedes the slots
LENGTHS = (MEASUREMENT_KEY_BYTES, MEASUREMENT_KEY_BYTES + NONCE_BYTES)  # of the encrypted part
REQUEST_MAX = FIXED_BYTES + form.SLOTS_MAX * SLOT_BYTES + LENGTHS[1] + TAG_BYTES
_LENGTHS = Struct(">HHI")


@dataclass(frozen=True, slots=True)
class Request:
    """What the owner sends (`raw`) and keeps."""

    raw: bytes
    measurement_key: bytes
    nonce: bytes | None
    flags: int


def build(
    hosts: Sequence[HostKey],
    *,
    seed: int,
    digest: bytes,
    flags: int = FLAG_IMAGE_KEY,
    nonce: bool = True,
    version: int = form.VERSION_1,
    algorithm: int = HMAC_SHA512,
) -> Request:
    """Build a request for the machines of `hosts`.

    Flags, version and algorithm are taken as they are: an owner may ask for what a machine refuses. Raises
    RequestError.
    """
    key = derive("attest/key", seed, digest, MEASUREMENT_KEY_BYTES)
    drawn = derive("attest/nonce", seed, digest, NONCE_BYTES) if nonce else None
    raw = form.seal(
        form.owner("attest", seed, digest),
        magic=MAGIC,
        version=version,
        before=_AUTHENTICATED.pack(flags, algorithm),
        hosts=hosts,
        behind=b"",
        secret=key + (drawn or b""),
    )
    return Request(raw, key, drawn, flags)


def authenticated(raw: bytes) -> tuple[int, int]:
    """Flags and algorithm of a request of at least the fixed length."""
    flags, algorithm = _AUTHENTICATED.unpack_from(raw, form.HEAD_BYTES)
    return flags, algorithm


def area_bytes(head: form.Head) -> int:
    """How much of the request's length is left for the encrypted part."""
    return head.length - FIXED_BYTES - head.slots * SLOT_BYTES - TAG_BYTES


def additional_bytes(flags: int) -> int:
    """How much additional data these flags ask for."""
    return sum(size for flag, size in ADDITIONAL_BYTES.items() if flags & flag)


# -- the measurement ---------------------------------------------------------------------------------


class ImageTags(NamedTuple):
    """What names an image: the three digests and the tag of its header."""

    pld: bytes
    ald: bytes
    tld: bytes
    tag: bytes

    @classmethod
    def of_header(cls, header: bytes) -> Self:
        """Read them from an SE header; raises struct.error for one that is too short."""
        fixed = Fixed.unpack(header)
        return cls(fixed.pld, fixed.ald, fixed.tld, header[-TAG_BYTES:])

    def pack(self) -> bytes:
        """Return the 208 bytes."""
        return b"".join(self)


TAGS_BYTES = 3 * DIGEST_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a guest brings back: the call's output, and the words that it added."""

    uid: bytes
    measurement: bytes
    additional: bytes = b""
    user_data: bytes = b""


def measure(
    key: bytes, tags: ImageTags, uid: bytes, user_data: bytes, nonce: bytes | None, additional: bytes
) -> bytes:
    """The measurement of 64 bytes."""
    items = (
        tags.pack(),
        uid,
        _LENGTHS.pack(len(user_data), 0, len(additional)),
        user_data,
        nonce or b"",
        additional,
    )
    return hmac.new(key, b"".join(items), hashlib.sha512).digest()


def verify(request: Request, header: bytes, evidence: Evidence) -> bool:
    """Whether `evidence` answers this request and comes from a guest of the image with this header."""
    if len(evidence.additional) != additional_bytes(request.flags) or len(evidence.uid) != UID_BYTES:
        return False
    expected = measure(
        request.measurement_key,
        ImageTags.of_header(header),
        evidence.uid,
        evidence.user_data,
        request.nonce,
        evidence.additional,
    )
    return hmac.compare_digest(expected, evidence.measurement)


def image_key_hash(request: Request, evidence: Evidence) -> bytes | None:
    """The hash of the machine's key that opened the image, if the owner asked for it; it comes first."""
    return evidence.additional[:HASH_BYTES] if request.flags & FLAG_IMAGE_KEY else None
