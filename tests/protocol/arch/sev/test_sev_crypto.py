"""What the secure processor computes: memory encryption, digests, reports that can be verified, sessions."""

from __future__ import annotations

import hashlib
import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.certificates import chain, chip_id, vcek
from protocol.arch.sev.crypto.digest import extend
from protocol.arch.sev.crypto.identity import ASK, CEK, OCA, PDH, PEK, Identity, key_in, signed_by
from protocol.arch.sev.crypto.keys import MemoryKey
from protocol.arch.sev.crypto.message import Message, seal
from protocol.arch.sev.crypto.report import SIGNED, Body, der_signature, sign
from protocol.arch.sev.profiles import TCB
from protocol.arch.sev.status import Status


@given(st.binary(min_size=16, max_size=64).map(lambda b: b[: len(b) // 16 * 16]), st.integers(0, 1 << 30))
def test_memory_encryption_depends_on_key_and_place(data: bytes, block: int) -> None:
    key, other, address = MemoryKey(bytes(32)), MemoryKey(bytes([1] * 32)), block * 16
    sealed = key.encrypt(address, data)
    assert key.decrypt(address, sealed) == data
    assert sealed != data
    assert key.encrypt(address + 16, data) != sealed
    assert other.encrypt(address, data) != sealed


def test_a_block_is_encrypted_alike_alone_or_among_others() -> None:
    key = MemoryKey(bytes(range(32)))
    page = bytes(range(256)) * 16
    sealed = key.encrypt(0x5000, page)
    assert sealed[0x120:0x130] == key.encrypt(0x5120, page[0x120:0x130])


def test_the_digest_of_a_normal_page_is_the_documented_chain() -> None:
    info = (
        bytes(48)
        + hashlib.sha384(b"x" * 4096).digest()
        + struct.pack("<HBB4BQ", 0x70, 1, 0, 0, 1, 2, 3, 0x9000)
    )
    assert extend(bytes(48), 1, b"x" * 4096, 0x9000, False, (1, 2, 3)) == hashlib.sha384(info).digest()


def test_tsc_fields_of_a_vmsa_do_not_count() -> None:
    area = bytearray(4096)
    plain = extend(bytes(48), 2, bytes(area), 0)
    area[0x2F0:0x300] = b"\xff" * 16
    assert extend(bytes(48), 2, bytes(area), 0) == plain
    area[0x300] = 1
    assert extend(bytes(48), 2, bytes(area), 0) != plain


def body(**fields: object) -> Body:
    sizes = {"family": 16, "image": 16, "tcb": 8, "reported_tcb": 8, "committed_tcb": 8, "launch_tcb": 8}
    sizes |= {"data": 64, "measurement": 48, "host_data": 32, "id_digest": 48, "author_digest": 48}
    sizes |= {"report_id": 32, "report_id_ma": 32, "chip_id": 64}
    values: dict[str, object] = {name: bytes(size) for name, size in sizes.items()}
    return Body(**(values | {"svn": 0, "policy": 0, "vmpl": 0, "key_flags": 0} | fields))  # type: ignore[arg-type]


def test_a_report_verifies_under_the_chips_chain() -> None:
    raw = sign(body(chip_id=chip_id(7), measurement=b"m" * 48), vcek(7, TCB))
    leaf, middle, root = (x509.load_der_x509_certificate(one) for one in chain(7, TCB))
    leaf.public_key().verify(der_signature(raw[SIGNED:]), raw[:SIGNED], ec.ECDSA(hashes.SHA384()))
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    hwid = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.4"))
    assert hwid.value.value == chip_id(7)
    assert vcek(7, TCB).private_numbers() != vcek(7, bytes(8)).private_numbers()
    assert vcek(7, TCB).private_numbers() != vcek(8, TCB).private_numbers()


def test_messages_open_only_as_they_were_sealed() -> None:
    page = seal(bytes(32), 5, 1, 0, b"request").ljust(4096, b"\0")
    message = Message.unpack(page)
    assert message is not None
    assert message.open(bytes(32)) == b"request"
    assert message.open(b"\1" * 32) is None
    changed = Message.unpack(page[:0x34] + b"\x07" + page[0x35:])
    assert changed is not None
    assert changed.open(bytes(32)) is None


def test_the_legacy_chain_hangs_together_up_to_the_vendor() -> None:
    one = Identity(3)
    pdh, pek, oca, cek = one.pdh(), one.pek(), one.oca(), one.cek()
    keys = {usage: key_in(cert, usage) for usage, cert in ((PDH, pdh), (PEK, pek), (OCA, oca), (CEK, cek))}
    assert all(keys.values())
    assert signed_by(pdh, PEK, keys[PEK])
    assert signed_by(pek, OCA, keys[OCA])
    assert signed_by(pek, CEK, keys[CEK])
    assert signed_by(oca, OCA, keys[OCA])
    assert signed_by(cek, ASK, one.key(ASK).public_key())
    assert not signed_by(pdh, PEK, keys[CEK])


def test_an_identity_survives_on_its_own_chip_alone() -> None:
    one = Identity(3).with_new(PDH).with_new(PEK)
    assert Identity.load(3, one.save()) == one
    assert Identity.load(4, one.save()) is None
    owned = one.with_owner(one.pek(), one.oca())
    assert isinstance(owned, Identity)
    assert Identity.load(3, owned.save()) == owned
    assert one.with_owner(one.oca(), one.pek()) is Status.INVALID_CERTIFICATE


def test_a_session_opens_for_both_ends_and_for_one_policy() -> None:
    ours, theirs = Identity(1).key(PDH), Identity(2).key(PDH)
    nonce, iv = b"n" * 16, b"i" * 16
    keys = sessions.Keys(b"t" * 16, b"k" * 16)
    blob = sessions.wrap(sessions.master(ours, theirs.public_key(), nonce), keys, nonce, iv, 5)
    assert len(blob) == 128
    shared = sessions.master(theirs, ours.public_key(), nonce)
    assert sessions.unwrap(shared, blob, 5) == keys
    assert sessions.unwrap(shared, blob, 4) is None
    assert sessions.unwrap(shared, bytes(128), 5) is None
