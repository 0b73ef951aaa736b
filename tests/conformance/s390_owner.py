"""The owner of a secure guest, far from the machine: what it seals for the Ultravisor and opens from it.

Written from the documented layouts with a cryptography library and nothing of the implementation in it. A
real owner has the machine's public key out of a certificate; here it follows from the seed, as
docs/arch/s390-attestation.md says.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from s390_blocks import PAGE

CURVE = ec.SECP521R1()
ORDER = (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7  # FIPS 186-4
ZERO, SHARED, MAPPED = 0x01, 0x02, 0x04

IMAGE_KEY = 1 << 61  # the flag that asks for the hash of the key that opened the image
DISABLE_DUMP = 1 << 63


def coordinates(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(80, "big") + numbers.y.to_bytes(80, "big")


def machine_key(seed: int = 0, which: str = "host") -> ec.EllipticCurvePublicKey:
    """The public key of this machine, or of the `other` one."""
    material = hashlib.shake_256(f"nestbed/s390/key/{which}/{seed}/".encode()).digest(82)
    return ec.derive_private_key(int.from_bytes(material, "big") % (ORDER - 1) + 1, CURVE).public_key()


def key_hash(seed: int = 0) -> bytes:
    return hashlib.sha256(coordinates(machine_key(seed))).digest()


def slot(own: ec.EllipticCurvePrivateKey, machine: ec.EllipticCurvePublicKey, key: bytes) -> bytes:
    wrapping = hashlib.sha256(own.exchange(ec.ECDH(), machine) + b"\0\0\0\1").digest()
    return hashlib.sha256(coordinates(machine)).digest() + AESGCM(wrapping).encrypt(bytes(12), key, b"")


def seal(
    magic: bytes,
    before: bytes,
    behind: bytes,
    secret: bytes,
    machines: list[ec.EllipticCurvePublicKey],
) -> bytes:
    """A request: head, `before`, public key, slots, `behind`, encrypted part, tag."""
    own, key, iv = ec.derive_private_key(0xC0FFEE, CURVE), b"\x17" * 32, b"\x55" * 12
    slots = b"".join(slot(own, machine, key) for machine in machines)
    rest = before + coordinates(own.public_key()) + slots + behind
    length = 48 + len(rest) + len(secret) + 16
    head = magic + struct.pack(">II", 0x100, length) + iv + bytes(11)
    head += bytes((len(machines),)) + bytes(4) + struct.pack(">I", len(secret))
    return head + rest + AESGCM(key).encrypt(iv, secret, head + rest)


# -- attestation ----------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """An attestation request, and what its owner keeps."""

    raw: bytes
    key: bytes = b"\x77" * 64
    nonce: bytes = b""

    def is_answered_by(
        self, header: bytes, uid: bytes, user: bytes, additional: bytes, measurement: bytes
    ) -> bool:
        """Whether the measurement is the one of a guest of the image with `header`."""
        items = header[0xE0:0x1A0] + header[-16:] + uid
        items += struct.pack(">HHI", len(user), 0, len(additional)) + user + self.nonce + additional
        return hmac.compare_digest(hmac.new(self.key, items, hashlib.sha512).digest(), measurement)


def attestation(
    seed: int = 0, flags: int = IMAGE_KEY, nonce: bytes = b"", algorithm: int = 1, which: str = "host"
) -> Asked:
    key = b"\x77" * 64
    before = struct.pack(">QII", flags, algorithm, 0)
    raw = seal(bytes(8), before, b"", key + nonce, [machine_key(seed, which)])
    return Asked(raw, key, nonce)


# -- secrets ----------------------------------------


def add_secret(
    header: bytes,
    kind: int,
    value: bytes = b"",
    name: str = "",
    seed: int = 0,
    flags: int = 0,
    uid: bytes = bytes(16),
    extension: bytes = bytes(32),
    which: str = "host",
) -> bytes:
    """An add-secret request for guests of the image with `header`."""
    before = flags.to_bytes(8, "big") + header[0xE0:0x1A0] + header[-16:] + uid + bytes(256 + 512)
    behind = struct.pack(">HHIQ", 0, kind, len(value), 0)
    if kind != 1:
        behind += hashlib.sha256(name.encode()).digest()
    return seal(b"asrcbM\0\0", before, behind, value + extension, [machine_key(seed, which)])


def plaintext(value: bytes) -> bytes:
    """How a plaintext secret is stored: its length, itself, zeroes up to 16 bytes."""
    body = len(value).to_bytes(2, "big") + value
    return body.ljust(-(-len(body) // 16) * 16, b"\0")


# -- dumps ----------------------------------------


class Dump:
    """A completion, opened with the owner's CCK; it opens the rest. Raises InvalidTag for another key."""

    def __init__(self, cck: bytes, completion: bytes) -> None:
        version, length, _, seed, iv, _ = struct.unpack_from(">IIQ64s12sI", completion)
        assert (version, length) == (1, 288)
        self.key = HKDF(SHA512(), 32, salt=seed, info=b"IBM Z Ultravisor Dump").derive(cck)
        area = AESGCM(self.key).decrypt(iv, completion[96:288], completion[:96])
        self.nonce, self.xts_key = area[:16], area[16:80]

    def registers(self, dump: bytes) -> list[int]:
        """General registers of a CPU dump."""
        version, length, iv = struct.unpack_from(">II12s", dump)
        assert (version, length) == (1, 1568)
        area = AESGCM(self.key).decrypt(iv, dump[32:1568], dump[:32])
        return list(struct.unpack_from(">16Q", area))

    def page(self, component: bytes, data: bytes) -> bytes:
        """The contents of a page, from its component and from what the host read."""
        if component[:4] == b"\xff" * 4:
            assert component[4:15] == bytes(11)
            return bytes(PAGE) if component[15] & ZERO else data
        tweak = bytes(one | other for one, other in zip(component, self.nonce, strict=True))
        return Cipher(algorithms.AES(self.xts_key), modes.XTS(tweak)).decryptor().update(data)


__all__ = [
    "DISABLE_DUMP",
    "IMAGE_KEY",
    "MAPPED",
    "SHARED",
    "ZERO",
    "Asked",
    "Dump",
    "InvalidTag",
    "add_secret",
    "attestation",
    "key_hash",
    "plaintext",
]
