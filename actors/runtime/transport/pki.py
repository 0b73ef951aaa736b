"""A small certificate authority of one's own: a key for each process, its role and name in the certificate.

The role is a URI among the certificate's names, `nestbed:ROLE:NAME`. Keys are ECDSA on P-256, files with
keys are their owner's alone. Whoever has the authority's key can be anybody: keep it off the machines.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.keys import readable

DAYS = 365
SCHEME = "nestbed"
_WORD = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of one process: its certificate, its key, and the authority that it believes."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def beside(cls, certificate: Path) -> Credentials:
        """Those of a certificate as `Authority.issue` lays them: the key and `ca.pem` are beside it."""
        return cls(certificate, certificate.with_suffix(".key"), certificate.with_name("ca.pem"))

    def says(self) -> tuple[str, str]:
        """Role and name in the certificate. Raises OSError, and ValueError for one that names none."""
        with readable(str(self.certificate)):
            extensions = x509.load_pem_x509_certificate(self.certificate.read_bytes()).extensions
        try:
            names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            names = []
        for uri in names:
            if isinstance(uri, x509.UniformResourceIdentifier):
                match uri.value.split(":"):
                    case [str(scheme), str(role), str(name)] if scheme == SCHEME and role and name:
                        return role, name
        raise ValueError(f"{self.certificate}: no certificate of `nestbed pki`: it names no role")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a directory: `ca.pem`, and `ca.key` where certificates are made."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, folder: Path, days: int = DAYS) -> Authority:
        """A new one. Raises FileExistsError if there is one already."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named("nestbed")
        certificate = (
            _begun(name, name, key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(folder / "ca.key", _private(key), 0o600, fresh=True)
        _write(folder / "ca.pem", certificate.public_bytes(_PEM), 0o644)
        return cls(folder, certificate, key)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The one that was made there. Raises OSError, ValueError."""
        with readable(str(folder / "ca.key")):
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{folder / 'ca.key'}: not a key of an authority of nestbed")  # noqa: TRY004
        with readable(str(folder / "ca.pem")):
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        return cls(folder, certificate, key)

    def issue(self, role: str, name: str, hosts: Sequence[str] = (), days: int = DAYS) -> Credentials:
        """Certificate and key of a process: `ROLE-NAME.pem` and `.key`. Raises ValueError for odd words."""
        for what, word in (("role", role), ("name", name)):
            if not _WORD.fullmatch(word):
                raise ValueError(f"no {what}: {word[:80]!r}; allowed: 1 to 64 of a-z, 0-9, - and .")
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"{SCHEME}:{role}:{name}")]
        names += [_general(host) for host in hosts]
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _begun(_named(f"{role} {name}"), self.certificate.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        path = self.folder / f"{role}-{name}.pem"
        _write(path, certificate.public_bytes(_PEM), 0o644)
        _write(path.with_suffix(".key"), _private(key), 0o600)
        return Credentials(path, path.with_suffix(".key"), self.folder / "ca.pem")


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign, key_cert_sign=sign, crl_sign=sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain)


def _write(path: Path, content: bytes, mode: int, *, fresh: bool = False) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if fresh else os.O_TRUNC)
    with open(os.open(path, flags, mode), "wb") as file:
        file.write(content)
