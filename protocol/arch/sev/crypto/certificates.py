"""The chip's certificate chain: ARK, ASK, VCEK as X.509, so that anyone can verify a report.

The chain of the emulated platform is its own: nobody confuses it with AMD's. All three keys are on P-384,
where the real ARK and ASK are RSA; the VCEK depends on chip and TCB, as it does there.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from protocol.arch.sev.crypto.keys import derive, p384_key

# AMD's arc for the components of a TCB and for the chip's id (VCEK certificate specification).
_ARC = "1.3.6.1.4.1.3704.1"
_TCB_PARTS = ((0, f"{_ARC}.3.1"), (1, f"{_ARC}.3.2"), (6, f"{_ARC}.3.3"), (7, f"{_ARC}.3.8"))
_HWID = f"{_ARC}.4"
_FROM = datetime(2020, 1, 1)  # noqa: DTZ001 - X.509 takes it as UTC
_TO = datetime(2099, 12, 31)  # noqa: DTZ001


def chip_id(seed: int) -> bytes:
    return derive(seed, "chip id", 64)


@lru_cache(maxsize=64)
def vcek(seed: int, tcb: bytes) -> ec.EllipticCurvePrivateKey:
    """The key that signs reports with this reported TCB."""
    return p384_key(derive(seed, "vcek", 64, tcb))


def vlek(seeds: bytes, tcb: bytes) -> ec.EllipticCurvePrivateKey:
    """The key that a cloud loaded."""
    return p384_key(derive(0, "vlek", 64, seeds + tcb))


def chain(seed: int, tcb: bytes) -> tuple[bytes, bytes, bytes]:
    """(VCEK, ASK, ARK), DER."""
    ark, ask = p384_key(derive(0, "ark", 64)), p384_key(derive(0, "ask", 64))
    root = _certificate("ARK-nestbed", ark, "ARK-nestbed", ark, 1)
    middle = _certificate("SEV-nestbed", ask, "ARK-nestbed", ark, 2)
    extensions = [(_HWID, chip_id(seed))] + [(oid, bytes((2, 1, tcb[at]))) for at, oid in _TCB_PARTS]
    leaf = _certificate("SEV-VCEK", vcek(seed, tcb), "SEV-nestbed", ask, 3, extensions)
    return leaf, middle, root


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    serial: int,
    extensions: list[tuple[str, bytes]] | None = None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.BasicConstraints(ca=extensions is None, path_length=None), critical=True)
    )
    for oid, value in extensions or ():
        builder = builder.add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier(oid), value), critical=False
        )
    made = builder.sign(signer, hashes.SHA384(), ecdsa_deterministic=True)
    return made.public_bytes(serialization.Encoding.DER)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nestbed"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
