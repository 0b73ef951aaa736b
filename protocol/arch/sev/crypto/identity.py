"""Keys and certificates of the legacy platform: PDH, PEK, OCA, CEK in AMD's own format of 2084 bytes.

The layout is that of the SEV API's certificates (public key at 0x10, two signatures at 0x41C and 0x624);
keys are on P-384. A platform whose owner is not from outside has an OCA of its own. Sections 2.3, 2.7 and
3.3 of the fact sheet.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from struct import Struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.arch.sev.crypto.keys import derive, p384_key
from protocol.arch.sev.crypto.report import der_signature, signature
from protocol.arch.sev.profiles import API_MAJOR, API_MINOR
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import CERT_LEN, NV_LEN

OCA, PEK, PDH, CEK, ASK, NOBODY = 0x1001, 0x1002, 0x1003, 0x1004, 0x13, 0x1000
ECDSA_SHA384, ECDH_SHA384 = 0x102, 0x103
_HEAD = Struct("<IBBHII")  # version, API, reserved, usage, algorithm
_CURVE_P384 = 2
_SIGNED = 0x414
_SIGNATURES = (0x414, 0x61C)  # usage, algorithm, then 512 bytes
_NV = Struct("<8sIII?3x")
_NV_MAGIC = b"NBSEVNV1"
_MAC = 32


def public_area(key: ec.EllipticCurvePublicKey, length: int) -> bytes:
    """Curve, then both coordinates little-endian in 72 bytes each."""
    numbers = key.public_numbers()
    raw = (
        _CURVE_P384.to_bytes(4, "little")
        + numbers.x.to_bytes(72, "little")
        + numbers.y.to_bytes(72, "little")
    )
    return raw.ljust(length, b"\0")


def public_key(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key in such an area, or None if there is none."""
    x, y = (int.from_bytes(raw[at : at + 72], "little") for at in (4, 76))
    if int.from_bytes(raw[:4], "little") != _CURVE_P384:
        return None
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
    except ValueError:
        return None


def verifies(key: ec.EllipticCurvePublicKey, raw_signature: bytes, data: bytes) -> bool:
    try:
        key.verify(der_signature(raw_signature), data, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def certificate(
    usage: int, key: ec.EllipticCurvePublicKey, signers: tuple[tuple[int, ec.EllipticCurvePrivateKey], ...]
) -> bytes:
    algorithm = ECDH_SHA384 if usage == PDH else ECDSA_SHA384
    raw = bytearray(CERT_LEN)
    _HEAD.pack_into(raw, 0, 1, API_MAJOR, API_MINOR, 0, usage, algorithm)
    raw[0x10:_SIGNED] = public_area(key, _SIGNED - 0x10)
    for place, (who, signer) in zip(_SIGNATURES, signers, strict=False):
        raw[place : place + 8] = who.to_bytes(4, "little") + ECDSA_SHA384.to_bytes(4, "little")
        raw[place + 8 : place + 520] = signature(signer, bytes(raw[:_SIGNED]))
    for place in _SIGNATURES[len(signers) :]:
        raw[place : place + 4] = NOBODY.to_bytes(4, "little")
    return bytes(raw)


def usage_of(cert: bytes) -> int:
    return int.from_bytes(cert[8:12], "little")


def key_in(cert: bytes, usage: int) -> ec.EllipticCurvePublicKey | None:
    """The key of a well-formed certificate for that usage."""
    if int.from_bytes(cert[:4], "little") != 1 or usage_of(cert) != usage:
        return None
    return public_key(cert[0x10:_SIGNED])


def signed_by(cert: bytes, who: int, key: ec.EllipticCurvePublicKey) -> bool:
    """Does one of the two signatures name `who` and verify under `key`?"""
    return any(
        int.from_bytes(cert[at : at + 4], "little") == who
        and verifies(key, cert[at + 8 : at + 520], cert[:_SIGNED])
        for at in _SIGNATURES
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a platform is.

    Each key has a generation; `imported` is the PEK's and the OCA's certificate of an owner.
    """

    seed: int
    owned: bool = False
    generations: tuple[int, int, int] = (1, 1, 1)  # of OCA, PEK and PDH
    imported: tuple[bytes, bytes] | None = field(default=None)

    def key(self, usage: int) -> ec.EllipticCurvePrivateKey:
        if usage == ASK:
            return p384_key(derive(0, "legacy ask", 64))
        if usage == CEK:
            return p384_key(derive(self.seed, "cek", 64))
        generation = self.generations[usage - OCA]
        return p384_key(derive(self.seed, f"platform key {usage:x} {generation} {self.owned}", 64))

    # -- certificates -----------------------------------------------------------------------------------

    def pdh(self) -> bytes:
        return certificate(PDH, self.key(PDH).public_key(), ((PEK, self.key(PEK)),))

    def pek(self) -> bytes:
        cek = self.key(CEK)
        if self.imported is None:
            return certificate(PEK, self.key(PEK).public_key(), ((OCA, self.key(OCA)), (CEK, cek)))
        return self.imported[0]

    def oca(self) -> bytes:
        if self.imported is not None:
            return self.imported[1]
        key = self.key(OCA)
        return certificate(OCA, key.public_key(), ((OCA, key),))

    def cek(self) -> bytes:
        return certificate(CEK, self.key(CEK).public_key(), ((ASK, self.key(ASK)),))

    def chain(self) -> bytes:
        """PEK, OCA and CEK, as PDH_CERT_EXPORT returns them."""
        return self.pek() + self.oca() + self.cek()

    def csr(self) -> bytes:
        """The PEK's certificate without a signature."""
        return certificate(PEK, self.key(PEK).public_key(), ())

    # -- changes ----------------------------------------------------------------------------------------

    def with_new(self, usage: int) -> Identity:
        """A new PEK has a new PDH with it, and no owner from outside."""
        oca, pek, pdh = self.generations
        if usage == PDH:
            return replace(self, generations=(oca, pek, pdh + 1))
        return replace(self, owned=False, imported=None, generations=(oca, pek + 1, pdh + 1))

    def factory_reset(self) -> Identity:
        oca, pek, pdh = self.generations
        return replace(self, owned=False, imported=None, generations=(oca + 1, pek + 1, pdh + 1))

    def with_owner(self, pek: bytes, oca: bytes) -> Identity | Status:
        """Take an owner's certificates:

        the OCA's signs itself, the PEK's is of our key and signed by the OCA.
        """
        oca_key, pek_key = key_in(oca, OCA), key_in(pek, PEK)
        if oca_key is None or pek_key is None:
            return Status.INVALID_CERTIFICATE
        if pek_key.public_numbers() != self.key(PEK).public_key().public_numbers():
            return Status.INVALID_CERTIFICATE
        if not signed_by(oca, OCA, oca_key) or not signed_by(pek, OCA, oca_key):
            return Status.BAD_SIGNATURE
        cek = signature(self.key(CEK), pek[:_SIGNED])
        head = CEK.to_bytes(4, "little") + ECDSA_SHA384.to_bytes(4, "little")
        taken = pek[:0x61C] + head + cek
        oca_generation, pek_generation, pdh = self.generations
        # The private key stays that of the certificate that was signed.
        return replace(self, imported=(taken, oca), generations=(oca_generation, pek_generation, pdh + 1))

    # -- persistent form --------------------------------------------------------------------------------

    def save(self) -> bytes:
        """The NV area."""
        body = _NV.pack(_NV_MAGIC, *self.generations, self.owned)
        body += b"".join(self.imported) if self.imported else bytes(2 * CERT_LEN)
        mac = hmac.digest(derive(self.seed, "nv", 32), body, "sha256")
        return (body + mac).ljust(NV_LEN, b"\0")

    @classmethod
    def load(cls, seed: int, raw: bytes) -> Identity | None:
        """What `save` wrote, by this chip; None if it is something else."""
        end = _NV.size + 2 * CERT_LEN
        mac = hmac.digest(derive(seed, "nv", 32), raw[:end], "sha256")
        if not hmac.compare_digest(mac, raw[end : end + _MAC]):
            return None
        _, oca, pek, pdh, owned = _NV.unpack_from(raw)
        pek_cert, oca_cert = raw[_NV.size : _NV.size + CERT_LEN], raw[_NV.size + CERT_LEN : end]
        imported = (pek_cert, oca_cert) if any(pek_cert) else None
        return cls(seed, owned, (oca, pek, pdh), imported)
