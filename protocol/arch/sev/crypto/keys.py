"""Secrets of a chip, and memory encryption with a guest's key.

How this emulator comes by a secret (`derive`) is its own: all depend on the machine's seed alone. Memory
encryption is AES-128 in xor-encrypt-xor form with a tweak made from the system physical address, in blocks
of 16 bytes, as the sheet has it in outline; the exact tweak function of the hardware is not public, ours is
AES of the address under a second key.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK = 16
# The order of P-384, FIPS 186-4 D.1.2.4: private keys are 1 .. order - 1.
_ORDER = (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D


def derive(seed: int, label: str, length: int, extra: bytes = b"") -> bytes:
    """Bytes that depend on all arguments; different labels give unrelated ones."""
    return hashlib.shake_256(f"nestbed/sev/{seed}/{label}/".encode() + extra).digest(length)


def p384_key(material: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key from at least 56 bytes; the bias of the reduction is below 2**-64."""
    return ec.derive_private_key(int.from_bytes(material, "big") % (_ORDER - 1) + 1, ec.SECP384R1())


class MemoryKey:
    """A key in a slot of the memory controller."""

    __slots__ = ("_decrypt", "_encrypt", "_tweak")

    def __init__(self, material: bytes) -> None:
        """`material` is 32 bytes: the key and the tweak's."""
        self._encrypt: CipherContext = _ecb(material[:16]).encryptor()
        self._decrypt: CipherContext = _ecb(material[:16]).decryptor()
        self._tweak: CipherContext = _ecb(material[16:32]).encryptor()

    def encrypt(self, address: int, data: bytes) -> bytes:
        """`address` and the length are multiples of 16."""
        tweaks = self._tweaks(address, len(data))
        return _xor(self._encrypt.update(_xor(data, tweaks)), tweaks)

    def decrypt(self, address: int, data: bytes) -> bytes:
        tweaks = self._tweaks(address, len(data))
        return _xor(self._decrypt.update(_xor(data, tweaks)), tweaks)

    def _tweaks(self, address: int, length: int) -> bytes:
        blocks = np.zeros((length // BLOCK, 2), "<u8")
        blocks[:, 0] = np.arange(address, address + length, BLOCK, dtype=np.uint64)
        return self._tweak.update(blocks.tobytes())


def _ecb(key: bytes) -> Cipher[ECB]:
    """ECB of single blocks is what a tweaked mode is made of."""
    return Cipher(AES(key), ECB())  # noqa: S305


def _xor(a: bytes, b: bytes) -> bytes:
    return (np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).tobytes()
