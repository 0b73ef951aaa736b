"""Secure pages on their way out and back: section 5.5 of the fact sheet.

AES-128-GCM with a key of the SVM's own. The tag stays in the ultravisor, so that what lies in normal memory
is exactly one page. The IV is a random field of 32 bits and a counter of 64; the field is drawn again when
the counter wraps.
"""

from __future__ import annotations

from random import Random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_BYTES = 16
IV_BYTES = 12
_COUNTER_END = 1 << 64


class PageKey:
    """The key of one SVM."""

    __slots__ = ("_counter", "_field", "_gcm", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._gcm = AESGCM(random.randbytes(16))
        self._field = random.randbytes(4)
        self._counter = 0

    def seal(self, page: bytes) -> tuple[bytes, bytes, bytes]:
        """The ciphertext, which is as long as the page, the IV and the tag."""
        iv = self._field + self._counter.to_bytes(8, "big")
        self._counter += 1
        if self._counter == _COUNTER_END:
            self._counter, self._field = 0, self._random.randbytes(4)
        sealed = self._gcm.encrypt(iv, page, None)
        return sealed[:-TAG_BYTES], iv, sealed[-TAG_BYTES:]

    def open(self, ciphertext: bytes, iv: bytes, tag: bytes) -> bytes | None:
        """The page; None if it is not what went out."""
        try:
            return self._gcm.decrypt(iv, ciphertext + tag, None)
        except InvalidTag:
            return None
