"""Evidence of a TD, verified from the documented layouts: nothing but offsets and a crypto library."""

from __future__ import annotations

import hashlib
import hmac
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.arch.tdx import quote as quoting
from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.firmware import mrtd
from protocol.arch.tdx.host.attest import nonce
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.effects import run
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

IMAGE = bytes(range(256)) * 48
SEED = 7


def a_quote(depth: int = 0, number: int = 0) -> bytes:
    """Of a TD that was loaded with IMAGE by a host at `depth`."""
    rig = compose(PROFILES["small"], depth, memory_bytes=128 * MIB, seed=SEED)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, depth=depth, image=IMAGE, machine_seed=SEED)
    for operation in (op.BootHost(), op.Create(0, memory_mib=1, vcpus=1), op.Load(0), op.Start(0)):
        run(host.perform(operation))
    evidence: bytes = run(host.perform(op.Attest(0, 0, number)))
    run(host.perform(op.Destroy(0)))
    return evidence


@pytest.fixture(scope="module")
def made() -> bytes:
    return a_quote()


def point(raw: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)


def checked(key: ec.EllipticCurvePublicKey, raw: bytes, data: bytes) -> None:
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def test_a_quote_is_verified_from_its_layout(made: bytes) -> None:
    version, key_type, tee = struct.unpack_from("<HHI", made)
    assert (version, key_type, tee) == (4, 2, 0x81)
    body, (length,) = made[48 : 48 + 584], struct.unpack_from("<I", made, 632)
    assert len(made) == 636 + length
    assert body[520:584] == nonce(0, 0)
    assert body[136:184] == mrtd(IMAGE, FIRST_PAGES << 12)
    assert struct.unpack_from("<QQ", body, 120) == (0, 3)  # ATTRIBUTES, XFAM
    assert body[328:520] == bytes(192)  # RTMRs

    signature, key = made[636:700], made[700:764]
    checked(point(key), signature, made[:632])
    kind, size = struct.unpack_from("<HI", made, 764)
    assert (kind, 770 + size) == (6, len(made))
    enclave, by_pck = made[770:1154], made[1154:1218]
    (auth,) = struct.unpack_from("<H", made, 1218)
    assert enclave[320:352] == hashlib.sha256(key + made[1220 : 1220 + auth]).digest()
    kind, size = struct.unpack_from("<HI", made, 1220 + auth)
    assert (kind, 1226 + auth + size) == (5, len(made))
    pck, issuer, root = x509.load_pem_x509_certificates(made[1226 + auth :])
    pck.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert root == x509.load_pem_x509_certificate(quoting.root_certificate())
    certified = pck.public_key()
    assert isinstance(certified, ec.EllipticCurvePublicKey)
    checked(certified, by_pck, enclave)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_nested_td_has_the_same_evidence(made: bytes, depth: int) -> None:
    """Page for page: neither addresses nor KeyIDs nor levels are in it."""
    assert a_quote(depth) == made


def test_the_library_verifies_it_for_its_owner(made: bytes) -> None:
    found = quoting.verify(made, quoting.root_certificate())
    assert found.mrtd == mrtd(IMAGE, FIRST_PAGES << 12)
    assert (found.report_data, found.rtmr) == (nonce(0, 0), (bytes(48),) * 4)
    assert quoting.verify(a_quote(number=3), quoting.root_certificate()).report_data == nonce(0, 3)


@pytest.mark.parametrize("at", [0, 4, 100, 136 + 48, 600, 640, 701, 800, 1090, 1160, 1225, 1400, 2400])
def test_no_bit_can_be_changed(made: bytes, at: int) -> None:
    changed = bytearray(made)
    changed[at] ^= 1
    with pytest.raises(ValueError, match="proves nothing"):
        quoting.verify(bytes(changed), quoting.root_certificate())


@pytest.mark.parametrize("length", [0, 10, 640, 770, 1300, 2000])
def test_a_quote_that_is_cut_short_proves_nothing(made: bytes, length: int) -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        quoting.verify(made[:length], quoting.root_certificate())


def test_a_report_of_another_machine_is_not_quoted(made: bytes) -> None:
    from protocol.arch.tdx.machine.report import report_key

    enclave = quoting.QuotingEnclave(SEED, report_key(SEED))
    with pytest.raises(ValueError, match="not made on this machine"):
        enclave.quote(b"\x81".ljust(1024, b"\0"))
    with pytest.raises(ValueError, match="no TDREPORT"):
        enclave.quote(bytes(1023))


def test_a_report_whose_parts_were_exchanged_is_not_quoted() -> None:
    """The MAC covers digests of the other parts, so they have to be those."""
    from protocol.arch.tdx.machine.report import report_key

    head = b"\x81".ljust(224, b"\0")
    report = head + hmac.digest(report_key(SEED), head, "sha256") + bytes(768)
    with pytest.raises(ValueError, match="parts"):
        quoting.QuotingEnclave(SEED, report_key(SEED)).quote(report)


def with_chain(made: bytes, kind: int, chain: bytes) -> bytes:
    """The same quote, certified by something else."""
    (auth,) = struct.unpack_from("<H", made, 1218)
    inner = struct.pack("<HI", kind, len(chain)) + chain
    vouched = made[770 : 1220 + auth] + inner
    data = made[636:764] + struct.pack("<HI", 6, len(vouched)) + vouched
    return made[:632] + struct.pack("<I", len(data)) + data


def test_a_quote_without_a_chain_proves_nothing(made: bytes) -> None:
    with pytest.raises(ValueError, match="no chain"):
        quoting.verify(with_chain(made, 1, b""), quoting.root_certificate())


def test_a_chain_that_ends_in_a_key_of_another_kind_proves_nothing(made: bytes) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    day = datetime(2024, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + timedelta(days=9000))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="on no curve"):
        quoting.verify(with_chain(made, 5, pem), pem)


def test_a_signature_is_what_holds_it(made: bytes) -> None:
    with pytest.raises(InvalidSignature):
        checked(point(made[700:764]), made[636:700], made[:631] + b"\xff")
