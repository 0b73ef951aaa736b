"""Secrets of a guest: the owner's add-secret request, and the list that a guest gets.

Layout: ibm-s390-linux/s390-tools `rust/pv/src/uvsecret/{asrcb,guest_secret}.rs`,
`rust/pv_core/src/uvsecret.rs`, `rust/pv_core/src/uvdevice/secret_list.rs`; extension secrets:
`rust/pvsecret/man/pvsecret-create.1`. A request is bound to an image by the three digests and the tag of
its header, and to one configuration if it names its identifier. Left out: signed user data, which the
Ultravisor does not look into, and keys that are retrieved as protected keys, for which this emulator has no
wrapping key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from protocol.arch.s390.evidence import request as form
from protocol.arch.s390.evidence.attestation import TAGS_BYTES, UID_BYTES, ImageTags
from protocol.arch.s390.image.header import KEY_BYTES, PUBLIC_BYTES, SLOT_BYTES, TAG_BYTES
from protocol.arch.s390.image.keys import HostKey

MAGIC = b"asrcbM"  # and two bytes that say what the user data are
FLAG_DISABLE_DUMP = 1 << 63
USER_BYTES = 512
ID_BYTES = 32
EXTENSION_BYTES = 32
EXTENSION_LABEL = b"IBM Z Ultravisor Add-Secret"
PLAINTEXT_MAX = 8190
BLOCK_BYTES = 16  # a plaintext secret is padded to these

_AUTHENTICATED = Struct(f">Q{TAGS_BYTES}s{UID_BYTES}s256x{USER_BYTES}s")
_SECRET = Struct(">2xHI8x")  # kind, length; an identifier follows unless the kind is NULL
KEYS_AT = form.HEAD_BYTES + _AUTHENTICATED.size
SLOTS_AT = KEYS_AT + PUBLIC_BYTES


class Kind(IntEnum):
    """Kinds of secrets that this emulator knows."""

    NULL = 0x01
    ASSOCIATION = 0x02
    PLAINTEXT = 0x03
    UPDATE_CCK = 0x16


LONGEST = SLOTS_AT + form.SLOTS_MAX * SLOT_BYTES + _SECRET.size + ID_BYTES
REQUEST_MAX = LONGEST + BLOCK_BYTES + PLAINTEXT_MAX + EXTENSION_BYTES + TAG_BYTES


def header_bytes(kind: int) -> int:
    """The length of what describes a secret of this kind."""
    return _SECRET.size + (0 if kind == Kind.NULL else ID_BYTES)


# -- the owner's side ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GuestSecret:
    """What is to be added. `value` has the form in which the Ultravisor keeps it."""

    kind: int
    value: bytes = b""
    id: bytes = bytes(ID_BYTES)


def meta() -> GuestSecret:
    """No secret: a request for its flags alone."""
    return GuestSecret(Kind.NULL)


def association(name: str, value: bytes) -> GuestSecret:
    """A secret of 32 bytes that ties a crypto card to a guest; it cannot be retrieved."""
    return GuestSecret(Kind.ASSOCIATION, value, name_to_id(name))


def plaintext(name: str, value: bytes) -> GuestSecret:
    """Bytes that the guest may retrieve; raises RequestError for more than 8190."""
    if len(value) > PLAINTEXT_MAX:
        raise form.RequestError(f"{len(value)} bytes of plaintext; at most {PLAINTEXT_MAX} are allowed")
    body = len(value).to_bytes(2, "big") + value
    return GuestSecret(Kind.PLAINTEXT, body.ljust(_padded(len(body)), b"\0"), name_to_id(name))


def update_cck(key: bytes) -> GuestSecret:
    """A new customer communication key, 32 bytes, where the image allows that."""
    return GuestSecret(Kind.UPDATE_CCK, key)


def name_to_id(name: str) -> bytes:
    """The identifier of a secret is the SHA-256 of its name."""
    return hashlib.sha256(name.encode()).digest()


def plaintext_of(value: bytes) -> bytes:
    """What was put into a plaintext secret, from what the guest retrieved."""
    return value[2:][: int.from_bytes(value[:2], "big")]


def build(
    secret: GuestSecret,
    header: bytes,
    hosts: Sequence[HostKey],
    *,
    seed: int,
    digest: bytes,
    flags: int = 0,
    uid: bytes = bytes(UID_BYTES),
    extension: bytes = bytes(EXTENSION_BYTES),
    user_data: bytes = b"",
    version: int = form.VERSION_1,
) -> bytes:
    """Build an add-secret request for guests of the image with `header`, on the machines of `hosts`.

    Kind, length, flags and version are taken as they are: an owner may ask for what a machine refuses. Raises
    RequestError.
    """
    if len(user_data) > USER_BYTES:
        raise form.RequestError(f"{len(user_data)} bytes of user data; at most {USER_BYTES} are allowed")
    if len(uid) != UID_BYTES or len(extension) != EXTENSION_BYTES or len(secret.id) != ID_BYTES:
        raise form.RequestError("an identifier has 16 bytes, an extension secret 32, a secret's name 32")
    described = _SECRET.pack(secret.kind, len(secret.value))
    if secret.kind != Kind.NULL:
        described += secret.id
    return form.seal(
        form.owner("secret", seed, digest),
        magic=MAGIC + (b"\0\1" if user_data else b"\0\0"),
        version=version,
        before=_AUTHENTICATED.pack(flags, ImageTags.of_header(header).pack(), uid, user_data),
        hosts=hosts,
        behind=described,
        secret=secret.value + extension,
    )


def derived_extension(cck: bytes, header_tag: bytes) -> bytes:
    """The extension secret that an image with secret control flag 1 demands of every request."""
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA512(), EXTENSION_BYTES, salt=header_tag, info=EXTENSION_LABEL).derive(cck)


# -- the Ultravisor's side -----------------------------------------------------------------------------


class Described(NamedTuple):
    """What a request says in the clear. `described` is the length that it names for its secret."""

    flags: int
    tags: bytes
    uid: bytes
    kind: int
    described: int
    id: bytes


def kind_at(head: form.Head) -> int:
    """Where the description of the secret stands in a request."""
    return SLOTS_AT + head.slots * SLOT_BYTES


def right_length(head: form.Head, kind: int) -> bool:
    """Whether slots, description, encrypted part and tag are exactly what the request's length counts."""
    if head.area < EXTENSION_BYTES:
        return False
    return head.length == kind_at(head) + header_bytes(kind) + head.area + TAG_BYTES


def described(raw: bytes, head: form.Head) -> Described:
    """Read a request of the right length."""
    flags, tags, uid, _ = _AUTHENTICATED.unpack_from(raw, form.HEAD_BYTES)
    at = kind_at(head)
    kind, length = _SECRET.unpack_from(raw, at)
    named = raw[at + _SECRET.size :][:ID_BYTES] if kind != Kind.NULL else b""
    return Described(flags, tags, uid, kind, length, named)


def fits(kind: int, length: int) -> bool:
    """Whether a secret of a known kind may have so many bytes."""
    match kind:
        case Kind.NULL:
            return length == 0
        case Kind.ASSOCIATION | Kind.UPDATE_CCK:
            return length == KEY_BYTES
        case _:
            return length % BLOCK_BYTES == 0 and 0 < length <= _padded(PLAINTEXT_MAX + 2)


def _padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


# -- the list ------------------------------------------------------------------------------------------

LIST_BYTES = 0x1000
_LIST_HEAD = Struct(">HHH10x")  # entries here, entries in the store, number of the next
_ENTRY = Struct(f">HHI8x{ID_BYTES}s")
ENTRIES = (LIST_BYTES - _LIST_HEAD.size) // _ENTRY.size


class Entry(NamedTuple):
    """One secret as a list shows it; `number` is its index in the store."""

    number: int
    kind: int
    length: int
    id: bytes


class SecretList(NamedTuple):
    """One page of a list; `next` is 0 if there are no more."""

    total: int
    next: int
    entries: tuple[Entry, ...]

    def pack(self) -> bytes:
        """Return the page."""
        head = _LIST_HEAD.pack(len(self.entries), self.total, self.next)
        return (head + b"".join(_ENTRY.pack(*entry) for entry in self.entries)).ljust(LIST_BYTES, b"\0")

    @classmethod
    def unpack(cls, page: bytes) -> SecretList:
        """Read a page. Raises ValueError for what is none."""
        if len(page) != LIST_BYTES:
            raise ValueError(f"a list of secrets has {LIST_BYTES} bytes, not {len(page)}")
        count, total, following = _LIST_HEAD.unpack_from(page)
        if count > ENTRIES:
            raise ValueError(f"{count} entries on a page, which holds {ENTRIES}")
        places = range(_LIST_HEAD.size, _LIST_HEAD.size + count * _ENTRY.size, _ENTRY.size)
        return cls(total, following, tuple(Entry(*_ENTRY.unpack_from(page, at)) for at in places))
