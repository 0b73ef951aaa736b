"""What the fuzzer has found in readers: exceptions that are no refusal, and limits that were missing."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

sys.path.insert(0, str(Path(__file__).parent))

from images import tdvf_image
from papers import _right_report, enclave, root

from actors.commands.hosted_serve import read_policy
from actors.compare.diff import BadBase
from actors.compare.shown import shown
from actors.costs import UnreadableCosts
from actors.costs import load as load_costs
from actors.hosting.store import Store, StoreError
from actors.hosting.vmm.qemu import unpack
from actors.runtime.transport.pki import Authority
from protocol.arch import load
from protocol.arch.s390.evidence.secrets import Entry, SecretList
from protocol.arch.s390.host import dump
from protocol.arch.s390.image.keys import public_key
from protocol.arch.sev import image as sev
from protocol.arch.sev import ovmf
from protocol.arch.tdx import quote
from protocol.cost.exits import BadProfile
from protocol.cost.exits import read as read_profile
from protocol.crossing import inline
from protocol.errors import OperationFailed
from protocol.hosting import CountingBook, Limits, evidence
from protocol.hosting.journal import DamagedJournal, Row, SimulatedDisk, open_row
from protocol.hosting.recovery import restore
from protocol.hosting.registry import Registry
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

PAGE = 4096


# -- what a requester sends, or shows ----------------------------------------------------------------------


def loaded(arch: str, image: Any) -> None:
    """A host makes a guest of an image that was sent."""
    comparison: Any = load(arch).comparison
    memory = max(64, load(arch).profiles["small"].host_least_mib()[0] + 8) << 20
    rig = comparison.compose(Sizes("small", 0, 1, memory, 2, 1, {}), Ledger())
    random = Random(0)
    host = comparison.software(rig, 0, random, pages="two_fault", bulk=False, image=image)
    for act in (op.BootHost(), op.Create(0, 4, 1), op.Load(0)):
        inline(host.perform(act), rig.below(0))


@pytest.mark.parametrize("gaddr", [0x10000, 4 << 20, 1 << 60, 0x10008])
def test_a_host_of_s390_loads_no_page_twice_or_outside_its_guest(gaddr: int) -> None:
    """A page that was secure already faulted in the host itself; an address beyond its tables had no end."""
    comparison: Any = load("s390").comparison
    made = comparison.image(1, 2, None)
    page = made.pages[0]._replace(gaddr=gaddr) if hasattr(made.pages[0], "_replace") else None
    page = page or type(made.pages[0])(gaddr, made.pages[0].tweak, made.pages[0].data)
    with pytest.raises(OperationFailed, match="outside its memory, or one twice"):
        loaded("s390", type(made)(made.header, (*made.pages, page), b""))


@pytest.mark.parametrize(
    "body",
    [
        [0, []],
        [b"header", [[1, 2, 3, b"short"]]],
        [b"header", [[-1, 2, 3, bytes(PAGE)]]],
        [b"header", [["at", 2, 3, bytes(PAGE)]]],
    ],
)
def test_an_image_of_s390_that_travelled_has_its_types(body: Any) -> None:
    with pytest.raises(ValueError, match="no image"):
        load("s390").comparison.unpack_image(msgpack.packb(body))  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [["none", b"", bytes(PAGE)], [["x"], b"", b""], [1, 2], ["EPYC-v4", 5, 0.5]])
def test_what_is_wrapped_around_firmware_is_looked_at(body: Any) -> None:
    packed = msgpack.packb(body)
    whole = sev._HEAD.pack(sev._MAGIC, len(packed)) + packed
    with pytest.raises(ValueError):
        sev.launch_of(whole, 1, snp=True)
    with pytest.raises(ValueError, match="without its head"):
        sev.launch_of(whole[:16], 1, snp=True)


def firmware(sections: list[tuple[int, int, int]], hash_table: int = 0x81_0000) -> bytes:
    made = bytearray(PAGE)
    body = b"".join(ovmf._SECTION.pack(*each) for each in sections)
    made[: 16 + len(body)] = ovmf._HEADER.pack(b"ASEV", 16 + len(body), 1, len(sections)) + body
    table = b""
    for guid, word in ((ovmf._METADATA, PAGE), (ovmf._HASH_TABLE, hash_table)):
        table += word.to_bytes(4, "little") + ovmf._ENTRY.pack(22, guid)
    table += ovmf._ENTRY.pack(len(table) + 18, ovmf._FOOTER)
    made[-32 - len(table) : -32] = table
    return bytes(made)


def test_firmware_may_not_list_more_memory_than_a_host_has() -> None:
    """A page of firmware could make its host lay out a million pages for each line of its list."""
    assert len(list(ovmf.Firmware(firmware([(0, PAGE, 1)])).pages(b""))) == 2
    with pytest.raises(ValueError, match="more than"):
        ovmf.Firmware(firmware([(0, 0xFFFF_F000, 1)])).sections()
    with pytest.raises(ValueError, match="at most 64"):
        ovmf.Firmware(firmware([(0, PAGE, 1)] * 65)).sections()


def test_hashes_fit_into_their_page() -> None:
    wrong = ovmf.Firmware(firmware([(0x81_0000, PAGE, 0x10)], hash_table=0x81_0FF0))
    with pytest.raises(ValueError, match="do not fit"):
        list(wrong.pages(bytes(0xA0)))


def test_firmware_of_a_td_that_contradicts_itself_costs_its_guest_and_not_its_host() -> None:
    wrong = bytearray(tdvf_image())
    wrong[0x1000 + 16 + 8] ^= 1  # the first section's address
    with pytest.raises(OperationFailed, match="TDVF"):
        loaded("tdx", bytes(wrong))


def test_an_image_for_qemu_that_was_cut_is_no_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image", "w:gz") as archive:
        archive.add(__file__, "kernel")
    (tmp_path / "image").write_bytes((tmp_path / "image").read_bytes()[:-900])
    with pytest.raises(ValueError, match="no tar archive"):
        unpack(tmp_path / "image", tmp_path)


# -- evidence ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer() -> evidence.KeySigner:
    return evidence.KeySigner(ec.derive_private_key(1, ec.SECP384R1()))


@pytest.mark.parametrize("field", ["payload", "signature"])
def test_evidence_with_a_trusted_key_and_anything_else_proves_nothing(
    signer: evidence.KeySigner, field: str
) -> None:
    """The key is public: who is in the way can bring it."""
    made = evidence.evidence(signer, {"debug": False, "nonce": b"n"}, evidence.Measured(bytes(48)))
    assert evidence.verify(made, signer.public_key(), b"n")["nonce"] == b"n"
    outer = msgpack.unpackb(made) | {field: 5}
    with pytest.raises(ValueError, match="no evidence"):
        evidence.verify(msgpack.packb(outer), signer.public_key(), b"n")


@pytest.mark.parametrize("field", ["format", "key", "payload"])
def test_evidence_nests_as_deep_as_it_likes_and_is_none(signer: evidence.KeySigner, field: str) -> None:
    """What msgpack reads may be deeper than Python can say."""
    outer = {"format": evidence.FORMAT, "payload": b"", "signature": b"", "key": signer.public_key()}
    deep = b"\x91" * 1015 + b"\xc0"
    parts = [msgpack.packb(name) + (deep if name == field else msgpack.packb(outer[name])) for name in outer]
    with pytest.raises(ValueError, match=r"no evidence|another format|not trusted"):
        evidence.verify(b"\x84" + b"".join(parts), signer.public_key(), b"n")


def test_a_vcpu_type_nests_as_deep_as_it_likes_and_is_none() -> None:
    packed = b"\x93" + b"\x91" * 1015 + b"\xc0" + msgpack.packb(b"") + msgpack.packb(bytes(PAGE))
    with pytest.raises(ValueError, match="VCPU type"):
        sev.launch_of(sev._HEAD.pack(sev._MAGIC, len(packed)) + packed, 1, snp=True)


@pytest.mark.parametrize("payload", [b"\xc1", b"\x05", b"\x80", b"\x91\x05"])
def test_a_host_may_sign_nonsense(signer: evidence.KeySigner, payload: bytes) -> None:
    outer = {"format": evidence.FORMAT, "payload": payload, "signature": signer.sign(payload)}
    with pytest.raises(ValueError, match=r"no evidence|not this nonce"):
        evidence.verify(msgpack.packb(outer | {"key": signer.public_key()}), signer.public_key(), b"n")


def _of_an_unknown_curve(der: bytes) -> bytes:
    """The same key, said to be on a curve that nobody has."""
    curve = bytes.fromhex("2a8648ce3d030107")
    assert curve in der
    return der.replace(curve, curve[:-1] + b"\x63")


def test_a_trusted_key_of_an_unknown_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    trusted = _of_an_unknown_curve(der)
    made = {"format": evidence.FORMAT, "payload": b"", "signature": b"", "key": trusted}
    with pytest.raises(ValueError, match="trusted key"):
        evidence.verify(msgpack.packb(made), trusted, b"n")


# -- what `nestbed pki` reads -------------------------------------------------------------------------------


def test_an_authority_whose_key_is_of_an_unknown_curve_is_refused(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "pki")
    der = made.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = base64.encodebytes(_of_an_unknown_curve(der))
    (made.folder / "ca.key").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(ValueError, match=r"ca\.key"):
        Authority.open(made.folder)


def test_an_authority_whose_key_asks_for_a_password_is_refused(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "pki")
    locked = made.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    (made.folder / "ca.key").write_bytes(locked)
    with pytest.raises(ValueError, match=r"ca\.key"):
        Authority.open(made.folder)


def test_an_authority_whose_key_is_too_short_for_its_kind_is_refused(tmp_path: Path) -> None:
    """OpenSSL has no name for what is wrong then, and the library says so with an error of its own."""
    made = Authority.create(tmp_path / "pki")
    short = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    long = short.replace(bytes.fromhex("06032b6570"), bytes.fromhex("06032b6571"))  # Ed448
    text = base64.encodebytes(long)
    (made.folder / "ca.key").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\n" + text + b"-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(ValueError, match=r"ca\.key"):
        Authority.open(made.folder)


def _of_version_4(pem: bytes) -> bytes:
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    third = bytes.fromhex("a003020102")
    assert der.count(third) == 1
    text = base64.encodebytes(der.replace(third, third[:-1] + b"\3"))
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def test_a_certificate_of_a_version_that_is_none_is_refused(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki")
    made = authority.issue("l1", "one", ["127.0.0.1"])
    made.certificate.write_bytes(_of_version_4(made.certificate.read_bytes()))
    with pytest.raises(ValueError, match=r"l1-one\.pem"):
        made.says()
    made.authority.write_bytes(odd := _of_version_4(made.authority.read_bytes()))
    with pytest.raises(ValueError, match=r"ca\.pem"):
        Authority.open(authority.folder)
    with pytest.raises(ValueError, match="no public key and no certificate"):
        public_key(odd)
    with pytest.raises(ValueError, match="proves nothing"):
        quote.verify(enclave().quote(_right_report()), _of_version_4(root()))


def test_a_certificate_that_names_itself_twice_is_refused(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "pki").issue("l1", "one", ["127.0.0.1"])
    once = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    der = bytearray(once.public_bytes(serialization.Encoding.DER))
    names, usage = bytes.fromhex("0603551d11"), bytes.fromhex("0603551d25")  # its names, what it is for
    assert der.count(names) == der.count(usage) == 1
    spoilt = x509.load_der_x509_certificate(bytes(der.replace(usage, names)))
    made.certificate.write_bytes(spoilt.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ValueError, match=r"l1-one\.pem"):
        made.says()


# -- quotes of TDX ------------------------------------------------------------------------------------------


def test_a_quote_whose_certificate_is_of_an_unknown_curve_proves_nothing() -> None:
    made = enclave().quote(_right_report())
    begin, end = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----"
    first = made.index(begin) + len(begin)
    last = made.index(end)
    der = base64.b64decode(made[first:last])
    text = base64.b64encode(_of_an_unknown_curve(der))
    lines = b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
    assert len(lines) == last - first
    with pytest.raises(ValueError, match="proves nothing"):
        quote.verify(made[:first] + lines + made[last:], root())


# -- what an owner of a guest on s390 gets -----------------------------------------------------------------


@pytest.mark.parametrize(
    "part", [[5, [], b"", []], [b"", [7], b"", []], [b"", [], None, []], [b"", [], b"", [["x", b""]]]]
)
def test_a_dump_that_travelled_has_its_types(part: Any) -> None:
    with pytest.raises(ValueError, match="no dump"):
        dump.unpack(msgpack.packb(part))


def test_a_list_of_secrets_says_no_more_than_its_page_holds() -> None:
    page = SecretList(1, 0, (Entry(0, 3, 32, bytes(32)),)).pack()
    for wrong in (page[:-1], b"", b"\xff\xff" + page[2:]):
        with pytest.raises(ValueError):
            SecretList.unpack(wrong)


# -- files -------------------------------------------------------------------------------------------------

PERF = "VM-EXIT Samples\n  HLT {} 50.00% 30.00%\n"
STAT = "Timestamp,kvm_exit\n2024-01-01T00:00:00,{}\n2024-01-01T00:00:01{},1\n"


@pytest.mark.parametrize(
    "text", [PERF.format("9" * 5000), STAT.format("inf", ""), STAT.format("nan", ""), STAT.format("-5", "")]
)
def test_a_profile_has_numbers_that_can_be(text: str) -> None:
    with pytest.raises(BadProfile):
        read_profile(text, 1.0)


def test_a_profile_with_and_without_a_zone_of_time_is_read() -> None:
    assert read_profile(STAT.format("3", "+00:00")).total == pytest.approx(2)


def test_costs_and_policies_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_bytes(b"x = " + b"[" * 5000)
    with pytest.raises(UnreadableCosts, match="nested too deeply"):
        load_costs(deep)
    for wrong in (deep.read_bytes(), b"\xff", b" " * ((1 << 20) + 1)):
        deep.write_bytes(wrong)
        with pytest.raises(typer.Exit):
            read_policy(deep)


@pytest.mark.parametrize("more", [{"claims": 5}, {"scenario": {"name": []}, "model": 1}])
def test_a_run_of_somebody_else_is_shown_or_refused(more: dict[str, Any]) -> None:
    run = {"results": [{"arch": "s390", "path": "nested", "depth": 1, "counts": {}, "phases": {}}]}
    with pytest.raises(BadBase, match="no run of this program"):
        shown(Path("run.json"), run | more, 100)


# -- a journal that was damaged ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [("child", b"", 5), ("child", 5, b"\x80"), ("child", b"", "text"), (5, b"", b"")]
)
def test_a_row_has_its_types(row: Any) -> None:
    """A column of SQLite holds whatever was put there."""
    with pytest.raises(DamagedJournal, match="a kind, and bytes"):
        SimulatedDisk([Row(*row)])


@pytest.mark.parametrize("data", [b"\xc1", b"\x05"])
def test_a_row_that_is_no_map_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(DamagedJournal, match="a row of the journal"):
        open_row(data)


@pytest.mark.parametrize(
    ("kind", "body"),
    [("requester", {"alive": True}), ("child", {"state": "READY"}), ("host", {"made": 1}), ("odd", {})],
)
def test_a_row_that_lacks_a_field_is_refused(kind: str, body: dict[str, Any]) -> None:
    registry = Registry(Limits(), SimulatedDisk().journal, CountingBook(), 1)
    with pytest.raises(DamagedJournal):
        restore(registry, [Row(kind, bytes(16), msgpack.packb(body))])


def damaged(directory: Path, kind: str, data: bytes) -> None:
    directory.mkdir(mode=0o700)
    Store(directory / "journal.sqlite").close()
    with closing(sqlite3.connect(directory / "journal.sqlite", isolation_level=None)) as file:
        file.execute("INSERT INTO rows VALUES (?, ?, ?)", (kind, b"\0\0\0\3", data))


def test_a_store_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    damaged(tmp_path / "d", "child", b"\xc1")
    store = Store(tmp_path / "d" / "journal.sqlite")
    try:
        with pytest.raises(StoreError, match="a row of the journal"):
            store.load()
    finally:
        store.close()


def test_a_service_over_a_damaged_journal_ends_with_its_reason() -> None:
    with tempfile.TemporaryDirectory(prefix="nb-") as short:  # names of sockets have 107 bytes
        damaged(Path(short) / "d", "requester", msgpack.packb({"alive": True}))
        command = [sys.executable, "-P", "-m", "nestbed", "hosted", "serve", f"{short}/d"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 3
    assert "the journal is damaged: KeyError: 'epoch'" in ran.stderr
    assert "Traceback" not in ran.stderr
