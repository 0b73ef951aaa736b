"""Sessions of legacy guests:

keys that an owner, or another platform, wraps for this one. Section 2.7 of the fact sheet.

Key agreement and derivation follow the SEV API from general knowledge: ECDH on P-384, a counter-mode KDF
over HMAC-SHA256, AES-128 in counter mode, HMAC-SHA256. Blob: nonce 16, wrapped keys 32, IV 16, MAC 32, MAC
of the policy 32.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

SECRET, SEND_DATA, SEND_VMSA = 0x01, 0x02, 0x03  # first byte of what a packet's MAC covers


class Keys(NamedTuple):
    """What the transport of a guest is encrypted and authenticated with."""

    tek: bytes
    tik: bytes


def kdf(key: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """NIST SP 800-108, counter mode; one block is enough for 16 bytes."""
    bits = (8 * length).to_bytes(4, "little")
    return hmac.digest(key, (1).to_bytes(4, "little") + label + b"\0" + context + bits, "sha256")[:length]


def master(private: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey, nonce: bytes) -> bytes:
    return kdf(private.exchange(ec.ECDH(), peer), b"sev-master-secret", nonce, 16)


def wrap(secret: bytes, keys: Keys, nonce: bytes, iv: bytes, policy: int) -> bytes:
    """The session blob."""
    kek, kik = kdf(secret, b"sev-kek", b"", 16), kdf(secret, b"sev-kik", b"", 16)
    wrapped = ctr(kek, iv, keys.tek + keys.tik)
    mac = hmac.digest(kik, wrapped, "sha256")
    return nonce + wrapped + iv + mac + hmac.digest(keys.tik, policy.to_bytes(4, "little"), "sha256")


def unwrap(secret: bytes, blob: bytes, policy: int) -> Keys | None:
    """The keys, or None if one of the MACs does not fit."""
    kek, kik = kdf(secret, b"sev-kek", b"", 16), kdf(secret, b"sev-kik", b"", 16)
    wrapped, iv, mac, policy_mac = blob[16:48], blob[48:64], blob[64:96], blob[96:128]
    if not hmac.compare_digest(mac, hmac.digest(kik, wrapped, "sha256")):
        return None
    raw = ctr(kek, iv, wrapped)
    keys = Keys(raw[:16], raw[16:])
    wanted = hmac.digest(keys.tik, policy.to_bytes(4, "little"), "sha256")
    return keys if hmac.compare_digest(policy_mac, wanted) else None


def packet_mac(keys: Keys, what: int, flags: int, iv: bytes, data: bytes, measurement: bytes = b"") -> bytes:
    length = len(data).to_bytes(4, "little")
    covered = bytes((what,)) + flags.to_bytes(4, "little") + iv + length + length + data + measurement
    return hmac.digest(keys.tik, covered, "sha256")


def ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), CTR(iv)).encryptor().update(data)
