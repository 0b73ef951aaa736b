"""The SNP attestation report: section 4.5 of the fact sheet. Signed with ECDSA P-384 over SHA-384."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from protocol.arch.sev.profiles import API_MAJOR, API_MINOR, BUILD
from protocol.arch.sev.structs import SNP_REPORT_LEN

VERSION = 2
SIGNED = 0x2A0
_NUMBER = 72  # bytes of r and of s in a signature
VCEK, VLEK, NO_KEY = 0, 1, 7
SMT_PLATFORM = 1


@dataclass(frozen=True, slots=True)
class Body:
    """What a report says. Fields by their offsets in `pack`."""

    svn: int
    policy: int
    family: bytes
    image: bytes
    vmpl: int
    tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    key_flags: int
    data: bytes
    measurement: bytes
    host_data: bytes
    id_digest: bytes
    author_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    chip_id: bytes

    def pack(self) -> bytearray:
        version = bytes((BUILD, API_MINOR, API_MAJOR, 0))
        raw = bytearray(SNP_REPORT_LEN)
        for offset, value in (
            (0x00, VERSION.to_bytes(4, "little")),
            (0x04, self.svn.to_bytes(4, "little")),
            (0x08, self.policy.to_bytes(8, "little")),
            (0x10, self.family),
            (0x20, self.image),
            (0x30, self.vmpl.to_bytes(4, "little")),
            (0x34, (1).to_bytes(4, "little")),
            (0x38, self.tcb),
            (0x40, SMT_PLATFORM.to_bytes(8, "little")),
            (0x48, self.key_flags.to_bytes(4, "little")),
            (0x50, self.data),
            (0x90, self.measurement),
            (0xC0, self.host_data),
            (0xE0, self.id_digest),
            (0x110, self.author_digest),
            (0x140, self.report_id),
            (0x160, self.report_id_ma),
            (0x180, self.reported_tcb),
            (0x1A0, self.chip_id),
            (0x1E0, self.committed_tcb),
            (0x1E8, version + version),
            (0x1F0, self.launch_tcb),
        ):
            raw[offset : offset + len(value)] = value
        return raw


def sign(body: Body, key: ec.EllipticCurvePrivateKey | None) -> bytes:
    """The report; without a key (it is masked) its signature is zero."""
    raw = body.pack()
    if key is not None:
        raw[SIGNED:] = signature(key, bytes(raw[:SIGNED]))
    return bytes(raw)


def signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """512 bytes: r and s, little-endian, 72 bytes each."""
    der = key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return (r.to_bytes(_NUMBER, "little") + s.to_bytes(_NUMBER, "little")).ljust(512, b"\0")


def der_signature(raw: bytes) -> bytes:
    """The usual form of a signature in a report or an ID block."""
    r, s = (int.from_bytes(raw[at : at + _NUMBER], "little") for at in (0, _NUMBER))
    return encode_dss_signature(r, s)
