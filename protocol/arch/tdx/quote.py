"""A quote: a TD's report, signed so that anyone can verify it who has never seen the machine.

Layout: Intel TDX DCAP Quoting Library API, appendix A.3 (version 4, ECDSA on P-256). A quoting enclave on
the machine checks the MAC of a TDREPORT, puts its fields into a quote and signs it with an attestation key;
its own report vouches for that key and is signed by the machine's certification key (PCK), which a chain of
certificates leads back to a root. Everything here is this emulator's own: nobody takes its root for
Intel's.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from datetime import datetime
from struct import Struct
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import NameOID

from protocol.arch.tdx.structs import (
    MAC_COVERS,
    REPORT_MAC,
    REPORT_MAC_SIZE,
    REPORT_SIZE,
    TD_INFO,
    TEE_TCB_INFO,
    TEE_TYPE_TDX,
)
from protocol.keys import readable

QUOTE_VERSION, ECDSA_P256 = 4, 2
VENDOR = hashlib.sha256(b"nestbed quoting enclave").digest()[:16]
HEADER = Struct("<HHIHH16s20s")
BODY = Struct("<16s48s48sQQQ48s48s48s48s192s64s")
ENCLAVE_REPORT = Struct("<16sI28s16s32s32s32s96sHH60s64s")
LENGTH, CERTIFICATION = Struct("<I"), Struct("<HI")
AUTH_LENGTH = Struct("<H")
SIGNED = HEADER.size + BODY.size
QE_REPORT, PCK_CHAIN = 6, 5  # types of certification data
QE_NAME = hashlib.sha256(b"nestbed TDX quoting enclave").digest()  # its MRENCLAVE
QE_SIGNER = hashlib.sha256(b"nestbed").digest()
QE_AUTH = b"nestbed".ljust(32, b"\0")
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_FROM = datetime(2020, 1, 1)  # noqa: DTZ001 - X.509 takes it as UTC
_TO = datetime(2099, 12, 31)  # noqa: DTZ001
_SIGN = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


class Evidence(NamedTuple):
    """What a quote says of the TD, its signatures being right."""

    attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    mrseam: bytes
    tee_tcb_svn: bytes


class QuotingEnclave:
    """The one of the machine of `seed`. `report_key` is the machine's, for the MAC of reports."""

    def __init__(self, seed: int, report_key: bytes) -> None:
        self._report_key = report_key
        self._attestation = _key(f"{seed}:attestation")
        self._pck = _key(f"{seed}:pck")
        self._chain = _chain(self._pck)

    def quote(self, report: bytes) -> bytes:
        """Raises ValueError for bytes that are no report of this machine."""
        if len(report) != REPORT_SIZE or report[0] != TEE_TYPE_TDX:
            raise ValueError("no TDREPORT")
        mac = hmac.digest(self._report_key, report[:MAC_COVERS], "sha256")
        if not hmac.compare_digest(report[MAC_COVERS:REPORT_MAC_SIZE], mac):
            raise ValueError("the report was not made on this machine")
        _check_digests(report)
        signed = HEADER.pack(QUOTE_VERSION, ECDSA_P256, TEE_TYPE_TDX, 0, 0, VENDOR, bytes(20)) + _body(report)
        public = _raw(self._attestation.public_key())
        about_key = hashlib.sha256(public + QE_AUTH).digest().ljust(64, b"\0")
        enclave = ENCLAVE_REPORT.pack(
            bytes(16), 0, bytes(28), bytes(16), QE_NAME, bytes(32), QE_SIGNER, bytes(96), 1, 1, bytes(60),
            about_key,
        )  # fmt: skip
        auth = AUTH_LENGTH.pack(len(QE_AUTH)) + QE_AUTH
        inner = CERTIFICATION.pack(PCK_CHAIN, len(self._chain)) + self._chain
        vouched = enclave + _sign(self._pck, enclave) + auth + inner
        data = (
            _sign(self._attestation, signed) + public + CERTIFICATION.pack(QE_REPORT, len(vouched)) + vouched
        )
        return signed + LENGTH.pack(len(data)) + data


def _check_digests(report: bytes) -> None:
    """The MAC covers digests of the two other parts: they have to be those."""
    fields = REPORT_MAC.unpack_from(report)
    tcb = report[REPORT_MAC_SIZE : REPORT_MAC_SIZE + TEE_TCB_INFO.size]
    about_td = report[REPORT_SIZE - TD_INFO.size :]
    if (hashlib.sha384(tcb).digest(), hashlib.sha384(about_td).digest()) != (fields[5], fields[6]):
        raise ValueError("the report's parts are not those that its MAC covers")


def _body(report: bytes) -> bytes:
    """The fields of a report as a quote has them."""
    data = REPORT_MAC.unpack_from(report)[7]
    _, svn, mrseam, mrsigner, seam_attributes = TEE_TCB_INFO.unpack_from(report, REPORT_MAC_SIZE)
    attributes, xfam, mrtd, config, owner, owner_config, rtmr, _ = TD_INFO.unpack_from(
        report, REPORT_SIZE - TD_INFO.size
    )
    return BODY.pack(
        svn, mrseam, mrsigner, seam_attributes, attributes, xfam, mrtd, config, owner, owner_config, rtmr,
        data,
    )  # fmt: skip


# -- the owner's part ------------------------------------------------------------------------------


def verify(quote: bytes, root: bytes) -> Evidence:
    """What a quote proves to whoever trusts `root`, a certificate in PEM. Raises ValueError if nothing."""
    try:
        with readable("the quote proves nothing"):
            return _verify(quote, x509.load_pem_x509_certificate(root))
    except InvalidSignature:
        raise ValueError("the quote proves nothing: a signature is wrong") from None
    except struct.error as error:
        raise ValueError(f"the quote proves nothing: {error}") from None


def _verify(quote: bytes, root: x509.Certificate) -> Evidence:
    signed, (length,) = quote[:SIGNED], LENGTH.unpack_from(quote, SIGNED)
    version, key_type, tee, *_ = HEADER.unpack_from(signed)
    if (version, key_type, tee) != (QUOTE_VERSION, ECDSA_P256, TEE_TYPE_TDX):
        raise ValueError(f"version {version}, key type {key_type}, TEE {tee:#x}")
    data = quote[SIGNED + LENGTH.size :][:length]
    signature, public, rest = data[:64], data[64:128], data[128:]
    kind, size = CERTIFICATION.unpack_from(rest)
    if kind != QE_REPORT or size != len(rest) - CERTIFICATION.size:
        raise ValueError("no report of a quoting enclave")
    vouched = rest[CERTIFICATION.size :]
    enclave, by_pck, rest = vouched[:384], vouched[384:448], vouched[448:]
    (auth_length,) = AUTH_LENGTH.unpack_from(rest)
    auth, rest = rest[2 : 2 + auth_length], rest[2 + auth_length :]
    kind, size = CERTIFICATION.unpack_from(rest)
    chain = x509.load_pem_x509_certificates(rest[CERTIFICATION.size :][:size]) if kind == PCK_CHAIN else []
    pck = _trusted(chain, root)
    _check(pck, by_pck, enclave)
    if ENCLAVE_REPORT.unpack(enclave)[-1][:32] != hashlib.sha256(public + auth).digest():
        raise ValueError("the enclave vouches for another key")
    _check(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + public), signature, signed)
    return _evidence(signed[HEADER.size :])


def _evidence(body: bytes) -> Evidence:
    svn, mrseam, _, _, attributes, xfam, mrtd, config, owner, owner_config, rtmr, data = BODY.unpack(body)
    first, second, third, fourth = (rtmr[at : at + 48] for at in range(0, 192, 48))
    of_run = (first, second, third, fourth)
    return Evidence(attributes, xfam, mrtd, config, owner, owner_config, of_run, data, mrseam, svn)


def _trusted(chain: list[x509.Certificate], root: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The key of the first certificate, each being issued by the next and the last by `root`."""
    if not chain:
        raise ValueError("no chain of certificates")
    for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
        certificate.verify_directly_issued_by(issuer)
    key = chain[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the certified key is on no curve")  # noqa: TRY004 - of the certificate, not of a type
    return key


def root_certificate() -> bytes:
    """The root of every emulated machine, in PEM."""
    return _pem(_certificate("nestbed TDX root", _key("root"), "nestbed TDX root", _key("root"), 1, ca=True))


# -- keys and signatures -----------------------------------------------------------------------------


def _key(purpose: str) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(hashlib.sha512(f"quote:{purpose}".encode()).digest(), "big")
    return ec.derive_private_key(scalar % (_ORDER - 1) + 1, ec.SECP256R1())


def _raw(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, _SIGN))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _check(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def _chain(pck: ec.EllipticCurvePrivateKey) -> bytes:
    """The certificate of a machine's key, that of its issuer, the root."""
    root, issuer = _key("root"), _key("issuer")
    leaf = _certificate("nestbed TDX machine", pck, "nestbed TDX machines", issuer, 3, ca=False)
    middle = _certificate("nestbed TDX machines", issuer, "nestbed TDX root", root, 2, ca=True)
    return _pem(leaf) + _pem(middle) + root_certificate()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    serial: int,
    ca: bool,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "nestbed"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
