"""Keys of Secure Execution: host keys, key slots, authenticated encryption.

A host key is an EC key on P-521. Its public form is both coordinates, each padded on the left to 80 bytes;
a key slot names a host by the SHA-256 of that form. The slot's wrapping key is SHA-256 over the raw ECDH
secret (66 bytes) followed by the counter 00000001; the key is wrapped with AES-256-GCM under a zero IV and
no associated data. Source: ibm-s390-linux/s390-tools `rust/pv/src/crypto.rs`,
`rust/pv/src/req/{keyslot,ec_coord}.rs`.

How this emulator comes by a private key (`derive`) is its own; a machine has its host key from the factory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from protocol.arch.s390.image.header import IV_BYTES, KEY_BYTES, PUBLIC_BYTES, TAG_BYTES, Slot
from protocol.keys import readable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

Which = Literal["host", "other", "backup"]

_COORDINATE_BYTES = PUBLIC_BYTES // 2
# The order of P-521, FIPS 186-4 D.1.2.5: private keys are 1 .. order - 1.
_ORDER = (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7
_WRAP_IV = bytes(IV_BYTES)


class SlotFailure(Enum):
    """Why no key came out of the slots of a header or a request."""

    CUSTOMER_KEY = "the customer's public key is no point of the curve"
    NO_SLOT = "no slot names this host key"
    TAG = "the slot of this host key is damaged"


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key pair of a machine: `scalar` is the private key, `public` the 160-byte form."""

    scalar: int
    public: bytes

    @property
    def public_hash(self) -> bytes:
        """The 32 bytes that key slots and Query Keys show."""
        return hashlib.sha256(self.public).digest()


def derive(label: str, seed: int, extra: bytes, length: int) -> bytes:
    """Return `length` bytes that depend on all arguments; different labels give unrelated bytes."""
    head = f"nestbed/s390/{label}/{seed}/".encode()
    return hashlib.shake_256(head + extra).digest(length)


def scalar_from(material: bytes) -> int:
    """Map at least 82 bytes onto a private key of P-521; the bias of the reduction is below 2**-128."""
    return int.from_bytes(material, "big") % (_ORDER - 1) + 1


@lru_cache(maxsize=64)
def host_key(seed: int, which: Which) -> HostKey:
    """Return a key: `host` is this machine's, `backup` its second one, `other` another machine's."""
    return key_pair(scalar_from(derive(f"key/{which}", seed, b"", 82)))


def key_pair(scalar: int) -> HostKey:
    """Compute the public form of a private key."""
    return HostKey(scalar, _coordinates(_private(scalar).public_key().public_numbers()))


def _coordinates(numbers: ec.EllipticCurvePublicNumbers) -> bytes:
    x, y = (value.to_bytes(_COORDINATE_BYTES, "big") for value in (numbers.x, numbers.y))
    return x + y


def public_key(pem: bytes) -> HostKey:
    """A host key of which only the public half is known, from PEM: a public key or a certificate.

    Its `scalar` is 0: it can be wrapped for, and opens nothing. A certificate is not verified: this emulator
    has no chain of trust. Raises ValueError.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    found: object
    with readable("no public key and no certificate in PEM form"):
        if b"-----BEGIN CERTIFICATE-----" in pem:
            found = load_pem_x509_certificate(pem).public_key()
        else:
            found = load_pem_public_key(pem)
    if isinstance(found, ec.EllipticCurvePublicKey) and isinstance(found.curve, ec.SECP521R1):
        return HostKey(0, _coordinates(found.public_numbers()))
    raise ValueError("a host key is an EC key on P-521 (secp521r1)")


def agree(scalar: int, public: bytes) -> bytes | None:
    """Return the 32-byte wrapping key of two parties, or None if `public` is no point of the curve."""
    from cryptography.hazmat.primitives.asymmetric import ec

    x, y = (int.from_bytes(half, "big") for half in (public[:_COORDINATE_BYTES], public[_COORDINATE_BYTES:]))
    try:
        peer = ec.EllipticCurvePublicNumbers(x, y, ec.SECP521R1()).public_key()
    except ValueError:
        return None
    secret = _private(scalar).exchange(ec.ECDH(), peer)
    return hashlib.sha256(secret + (1).to_bytes(4, "big")).digest()


def wrap(key: bytes, customer_scalar: int, host: HostKey) -> Slot:
    """Make the slot that gives `key` (32 bytes) to one host."""
    wrapping = agree(customer_scalar, host.public)
    if wrapping is None:
        raise ValueError("the host key is no point of the curve")
    wrapped, tag = gcm_seal(wrapping, _WRAP_IV, b"", key)
    return Slot(host.public_hash, wrapped, tag)


def unwrap(slots: Iterable[Slot], customer_key: bytes, host: HostKey) -> bytes | SlotFailure:
    """Find this host's slot and open it. The customer's key is judged first: a guess."""
    wrapping = agree(host.scalar, customer_key)
    if wrapping is None:
        return SlotFailure.CUSTOMER_KEY
    slot = next((slot for slot in slots if slot.key_hash == host.public_hash), None)
    if slot is None:
        return SlotFailure.NO_SLOT
    key = gcm_open(wrapping, _WRAP_IV, b"", slot.wrapped, slot.tag)
    return SlotFailure.TAG if key is None else key


def gcm_seal(key: bytes, iv: bytes, aad: bytes, plain: bytes) -> tuple[bytes, bytes]:
    """Encrypt with AES-256-GCM; return the ciphertext, as long as `plain`, and the 16-byte tag."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    assert len(key) == KEY_BYTES
    sealed = AESGCM(key).encrypt(iv, plain, aad)
    return sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]


def gcm_open(key: bytes, iv: bytes, aad: bytes, sealed: bytes, tag: bytes) -> bytes | None:
    """Decrypt with AES-256-GCM; None if anything was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(iv, sealed + tag, aad)
    except InvalidTag:
        return None


def _private(scalar: int) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.derive_private_key(scalar, ec.SECP521R1())
