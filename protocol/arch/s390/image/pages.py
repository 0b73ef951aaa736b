"""Pages of a secure guest as they look outside: image pages, their digests, exported pages.

Image pages are AES-256-XTS with a 16-byte tweak: the component's prefix (8 bytes) and the byte offset
inside the component (8 bytes), the pair that Unpack carries. Three SHA-512 digests run along: PLD over the
page as the host sees it, ALD over its address as a doubleword, TLD over the tweak. Source:
ibm-s390-linux/s390-tools `rust/pvimg/src/pv_utils/secured_comp.rs`, `rust/pvimg/boot/stage3a.c`.

A page that the Ultravisor exports is AES-256-XTS, too, under keys of its own that the owner gets at the end
of a dump: final tweak = component OR nonce, a component for each page out of Dump Configuration Storage
State. Source: s390-tools `zdump/pv_utils.c`; that an export is encrypted once, dump or no dump, is said by
Linux `Documentation/virt/kvm/s390/s390-pv-dump.rst`. Guesses: what a component consists of, and how a
changed page is found (here: a keyed digest that stays with the Ultravisor).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from protocol.arch.s390.image.header import XTS_KEY_BYTES
from protocol.arch.s390.image.keys import derive

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import XTS

PAGE_BYTES = 0x1000
GENERATIONS_MAX = 1 << 44  # exports of one page under one key; the component has no more room
TWEAK_BYTES = 16
_NONCE_BYTES = 4  # the part of a tweak that components leave to the nonce; their own is the rest
_PROOF_BYTES = 16

RRC_ALD = 0x001A
RRC_PLD = 0x001B
RRC_TLD = 0x001C
RRC_PAGES = 0x001D

Tweak = tuple[int, int]  # component prefix, byte offset inside the component

_TWEAK = struct.Struct(">QQ")
_ADDRESS = struct.Struct(">Q")


class Expected(Protocol):
    """What Verify holds the unpacked pages against; an unsealed header is one."""

    @property
    def pages(self) -> int:
        """How many pages were to be unpacked."""

    @property
    def pld(self) -> bytes:
        """The owner's page list digest."""

    @property
    def ald(self) -> bytes:
        """The owner's address list digest."""

    @property
    def tld(self) -> bytes:
        """The owner's tweak list digest."""


class Digests:
    """The three running digests over pages in load order; the builder and the Ultravisor each keep one."""

    __slots__ = ("_ald", "_pld", "_tld", "pages")

    def __init__(self) -> None:
        """Start with no page."""
        self.pages = 0
        self._pld, self._ald, self._tld = hashlib.sha512(), hashlib.sha512(), hashlib.sha512()

    def add(self, gaddr: int, tweak: Tweak, encrypted: bytes) -> None:
        """Take in the next page: guest absolute address, tweak, bytes as the host sees them."""
        self.pages += 1
        self._pld.update(encrypted)
        self._ald.update(_ADDRESS.pack(gaddr))
        self._tld.update(_TWEAK.pack(*tweak))

    @property
    def pld(self) -> bytes:
        """The page list digest so far."""
        return self._pld.digest()

    @property
    def ald(self) -> bytes:
        """The address list digest so far."""
        return self._ald.digest()

    @property
    def tld(self) -> bytes:
        """The tweak list digest so far."""
        return self._tld.digest()

    def compare(self, expected: Expected) -> int | None:
        """Return the reason of Verify's rc 0x0102, or None if all agree; the order of the four is a guess."""
        if self.pages != expected.pages:
            return RRC_PAGES
        if self.ald != expected.ald:
            return RRC_ALD
        if self.pld != expected.pld:
            return RRC_PLD
        if self.tld != expected.tld:
            return RRC_TLD
        return None


def encrypt_page(xts_key: bytes, tweak: Tweak, plain: bytes) -> bytes:
    """Encrypt one page of an image; the key has 64 bytes and two unlike halves."""
    return _xts(xts_key, tweak).encryptor().update(plain)


def decrypt_page(xts_key: bytes, tweak: Tweak, encrypted: bytes) -> bytes:
    """Decrypt one page of an image. XTS has no tag: Verify finds out whether the page was changed."""
    return _xts(xts_key, tweak).decryptor().update(encrypted)


@dataclass(frozen=True, slots=True)
class ExportKey:
    """What encrypts exported pages of one configuration; owners get key and nonce at the end of a dump."""

    xts_key: bytes
    nonce: bytes  # 16 bytes, zero where components are not
    proof_key: bytes


@lru_cache(maxsize=256)
def export_key(seed: int, handle: int) -> ExportKey:
    """Return the key of the configuration `handle` of this machine."""
    made = derive("export", seed, handle.to_bytes(8, "big"), XTS_KEY_BYTES + _NONCE_BYTES + 32)
    nonce = made[XTS_KEY_BYTES:][:_NONCE_BYTES].ljust(TWEAK_BYTES, b"\0")
    return ExportKey(made[:XTS_KEY_BYTES], nonce, made[XTS_KEY_BYTES + _NONCE_BYTES :])


def tweak_component(gaddr: int, generation: int) -> bytes:
    """Name one export of one page in 16 bytes, at their end: number of page (52 bits), generation (44)."""
    assert 0 <= generation < GENERATIONS_MAX
    assert gaddr % PAGE_BYTES == 0
    return (gaddr // PAGE_BYTES * GENERATIONS_MAX + generation).to_bytes(TWEAK_BYTES, "big")


def final_tweak(component: bytes, nonce: bytes) -> Tweak:
    """Return component OR nonce, as the two doublewords of a tweak."""
    both = int.from_bytes(component, "big") | int.from_bytes(nonce, "big")
    return both >> 64, both & (1 << 64) - 1


def seal_page(key: ExportKey, gaddr: int, generation: int, page: bytes) -> tuple[bytes, bytes]:
    """Encrypt a page on its way out to the host: 4096 bytes for the host, 16 that the Ultravisor keeps.

    `generation`, below GENERATIONS_MAX, must differ between two exports of one page under one key.
    """
    assert len(page) == PAGE_BYTES
    component = tweak_component(gaddr, generation)
    sealed = encrypt_page(key.xts_key, final_tweak(component, key.nonce), page)
    return sealed, _proof(key, component, sealed)


def unseal_page(key: ExportKey, gaddr: int, generation: int, sealed: bytes, proof: bytes) -> bytes | None:
    """Open an exported page; None if it is not exactly the one that was exported last from this address."""
    component = tweak_component(gaddr, generation)
    if not hmac.compare_digest(proof, _proof(key, component, sealed)):
        return None
    return decrypt_page(key.xts_key, final_tweak(component, key.nonce), sealed)


def _proof(key: ExportKey, component: bytes, sealed: bytes) -> bytes:
    return hashlib.blake2b(component + sealed, key=key.proof_key, digest_size=_PROOF_BYTES).digest()


def _xts(xts_key: bytes, tweak: Tweak) -> Cipher[XTS]:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(xts_key), modes.XTS(_TWEAK.pack(*tweak)))
