"""Guest messages through the mailbox: reports, keys, what is refused where, and who can verify a report."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from sev_field import C_BIT, PAGE, POLICY, Sev, SnpVm, Tables, Vcpu
from sev_messages import opened, report, seal

REPORT = bytes(0x60)


class Asker:
    """A guest with its first message key, and the pages for a request."""

    def __init__(self, host: Sev) -> None:
        self.host = host
        self.vm = SnpVm(host, secrets=True)
        secrets = bytes.fromhex(self.vm.vcpu.do({"read": C_BIT, "len": 0xA0})["steps"][0]["hex"])
        assert secrets[:4] == struct.pack("<I", 3)
        self.keys = [secrets[at : at + 32] for at in (0x20, 0x40, 0x60, 0x80)]
        assert len(set(self.keys)) == 4
        self.request, self.response = host.pages(2)
        host.firmware(self.response)

    def send(self, message: bytes) -> int:
        self.host.write(self.request, message.ljust(PAGE, b"\0"))
        return self.host.cmd("SNP_GUEST_REQUEST", gctx=self.vm.gctx, req=self.request, resp=self.response)

    def answer(self, key: int = 0) -> bytes:
        return opened(self.keys[key], self.host.read(self.response, PAGE))[2]


@pytest.fixture
def asker(snp: Sev) -> Asker:
    return Asker(snp)


def test_a_report_says_what_the_guest_asked_for(asker: Asker) -> None:
    raw = report(asker.host, asker.vm.gctx, asker.keys[0], data=b"nonce")
    assert struct.unpack_from("<IIQ", raw) == (2, 0, POLICY)
    assert raw[0x50:0x90] == b"nonce".ljust(64, b"\0")
    assert struct.unpack_from("<II", raw, 0x30) == (0, 1)
    assert raw[0x40] & 1 == 1
    assert raw[0x160:0x180] == b"\xff" * 32
    assert raw[0x1E8:0x1EB] == raw[0x1EC:0x1EF] == bytes((25, 55, 1))
    chip = asker.host.alloc()
    asker.host.firmware(chip)
    assert asker.host.guarded("GET_ID", pa=chip, len=64)[0] == 0
    assert asker.host.read(chip, 64) == raw[0x1A0:0x1E0]


def test_reports_of_one_guest_have_one_id_and_grow_in_sequence(asker: Asker) -> None:
    first = report(asker.host, asker.vm.gctx, asker.keys[0], 1)
    second = report(asker.host, asker.vm.gctx, asker.keys[0], 3)
    assert first[0x140:0x160] == second[0x140:0x160]
    assert asker.send(seal(asker.keys[0], 3, REPORT)) == 0x1D


def test_a_report_is_signed(asker: Asker) -> None:
    raw = report(asker.host, asker.vm.gctx, asker.keys[0])
    r, s = (int.from_bytes(raw[at : at + 72], "little") for at in (0x2A0, 0x2A0 + 72))
    assert 0 < r < 1 << 384
    assert 0 < s < 1 << 384
    assert not any(raw[0x2A0 + 144 :])


def test_host_data_and_masks_show_in_a_report(snp: Sev, sev_depth: int) -> None:
    gctx = snp.snp_guest()
    secrets, vmsa = snp.pages(2)
    snp.measure(gctx, secrets, 0, kind=5)
    snp.write(vmsa + 0x3B0, b"\1")
    snp.measure(gctx, vmsa, 0xFFFFFFFFF000, kind=2)
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx, host_data=b"host data of this guest")
    tables = Tables(snp)
    tables.map(0, secrets)
    vcpu = Vcpu(snp, tables, 1, 7, vmsa)
    key = bytes.fromhex(vcpu.do({"read": C_BIT | 0x20, "len": 32})["steps"][0]["hex"])
    assert report(snp, gctx, key, 1)[0xC0:0xE0] == b"host data of this guest".ljust(32, b"\0")
    tcb = report(snp, gctx, key, 3)[0x38:0x40]
    snp.did("SNP_CONFIG", tcb=int.from_bytes(tcb, "little"), masks=3)
    masked = report(snp, gctx, key, 5)
    if sev_depth:  # difference: config
        assert any(masked[0x1A0:0x1E0])
        return
    assert masked[0x1A0:0x1E0] == bytes(64)
    assert masked[0x2A0:] == bytes(0x200)
    assert masked[0x48] == 2 | 7 << 2


@pytest.mark.parametrize(
    "broken",
    [
        {"algorithm": 2},
        {"header_version": 2},
        {"header_size": 0x40},
        {"size": 0xFA1},
        {"reserved": 1},
    ],
)
def test_malformed_headers_are_refused(asker: Asker, broken: dict[str, int]) -> None:
    assert asker.send(seal(asker.keys[0], 1, REPORT, **broken)) == 0x16


def test_refused_requests_move_no_counter_and_get_no_response(asker: Asker) -> None:
    before = asker.host.read(asker.response, 64)
    key = asker.keys[0]
    assert asker.send(seal(key, 1, REPORT, vmpck=4)) == 0x16
    assert asker.send(seal(asker.keys[1], 1, REPORT)) == 0x0B
    assert asker.send(seal(key, 2, REPORT)) == 0x1D
    assert asker.send(seal(key, 0, REPORT)) == 0x1D
    assert asker.send(seal(key, 1, REPORT, kind=0x13)) == 0x16
    assert asker.send(seal(key, 1, REPORT, version=9)) == 0x16
    assert asker.send(seal(key, 2, REPORT, version=9)) == 0x1D  # sequence before version
    assert asker.send(seal(asker.keys[1], 2, REPORT)) == 0x0B  # tag before sequence
    assert asker.host.read(asker.response, 64) == before
    assert asker.send(seal(key, 1, REPORT)) == 0


def test_what_the_guest_did_wrong_is_said_inside_the_response(asker: Asker) -> None:
    def status(sequence: int, vmpl: int = 0, select: int = 0, tail: bytes = bytes(24), key: int = 0) -> int:
        payload = bytes(64) + struct.pack("<II", vmpl, select) + tail
        assert asker.send(seal(asker.keys[key], sequence, payload, vmpck=key)) == 0
        return struct.unpack_from("<I", asker.answer(key))[0]

    assert status(1, select=4) == 0x16
    assert status(3, tail=b"\1".ljust(24, b"\0")) == 0x16
    assert status(5, select=3) == 0x27
    assert status(7, select=2) == 0x27
    assert status(9, select=7) == 0x16  # reserved bits before the key
    assert status(1, vmpl=0, key=1) == 0x16
    assert status(3, vmpl=0, select=3, key=1) == 0x27  # the key before the level
    assert status(5, vmpl=1, key=1) == 0
    assert status(11, select=1) == 0


def test_each_key_counts_for_itself(asker: Asker) -> None:
    for key in range(4):
        payload = bytes(64) + struct.pack("<II", key, 0) + bytes(24)
        assert asker.send(seal(asker.keys[key], 1, payload, vmpck=key)) == 0


def test_a_key_depends_on_what_is_mixed_in(asker: Asker) -> None:
    def key(sequence: int, select: int, svn: int = 0) -> tuple[int, bytes]:
        payload = struct.pack("<I4xQIIQ", 0, select, 0, svn, 0)
        assert asker.send(seal(asker.keys[0], sequence, payload, kind=3)) == 0
        plain = asker.answer()
        return struct.unpack_from("<I", plain)[0], plain[0x20:0x40]

    assert key(1, 0) == key(3, 0)
    assert key(5, 8) != key(7, 0)
    assert key(9, 0, svn=1)[0] == 0x16


def test_no_key_comes_of_a_migration_that_no_guest_has(asker: Asker) -> None:
    payload = struct.pack("<I4xQIIQ", 1, 0, 0, 0, 0)
    assert asker.send(seal(asker.keys[0], 1, payload, kind=3)) == 0
    plain = asker.answer()
    assert (struct.unpack_from("<I", plain)[0], any(plain[4:])) == (0x27, False)


def test_the_response_page_has_to_be_the_firmwares(asker: Asker) -> None:
    page = asker.host.alloc()
    fields = {"gctx": asker.vm.gctx, "req": asker.request}
    assert asker.host.cmd("SNP_GUEST_REQUEST", **fields, resp=page) == 0x1A
    assert asker.host.cmd("SNP_GUEST_REQUEST", **fields, resp=asker.vm.gctx) == 0x1A


# -- the ID block --------------------------------------------------------------------------------------


def raw_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    raw = struct.pack("<I", 2) + numbers.x.to_bytes(72, "little") + numbers.y.to_bytes(72, "little")
    return raw.ljust(0x404, b"\0")


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(0x200, b"\0")


@pytest.fixture
def id_block(snp: Sev) -> dict[str, object]:
    """A guest with one secrets page, and the right block and page for it."""
    gctx = snp.snp_guest()
    page = snp.alloc()
    snp.measure(gctx, page, 0, kind=5)
    info = bytes(96) + struct.pack("<HBB4xQ", 0x70, 5, 0, 0)
    owner, author = (ec.derive_private_key(n, ec.SECP384R1()) for n in (7, 8))
    digest = hashlib.sha384(info).digest()
    block = (
        digest + b"family".ljust(16, b"\0") + b"image".ljust(16, b"\0") + struct.pack("<IIQ", 1, 4, POLICY)
    )
    auth = bytearray(PAGE)
    auth[0:8] = struct.pack("<II", 1, 1)
    auth[0x40:0x240] = signed(owner, block)
    auth[0x240:0x644] = raw_key(owner)
    auth[0x680:0x880] = signed(author, raw_key(owner))
    auth[0x880:0xC84] = raw_key(author)
    places = snp.pages(2)
    return {"host": snp, "gctx": gctx, "block": bytearray(block), "auth": auth, "places": places}


def finish(case: dict[str, object], flags: int = 3) -> int:
    host, places = case["host"], case["places"]
    assert isinstance(host, Sev)
    host.write(places[0], bytes(case["block"]))  # type: ignore[index,call-overload]
    host.write(places[1], bytes(case["auth"]))  # type: ignore[index,call-overload]
    return host.cmd(
        "SNP_LAUNCH_FINISH",
        gctx=case["gctx"],
        id_block=places[0],
        id_auth=places[1],
        flags=flags,  # type: ignore[index]
    )


SPOIL = {
    0x0B: ("block", 0),
    0x07: ("block", 0x58),
    0x16: ("auth", 0),
    0x0A: ("auth", 0x40),
}


@pytest.mark.parametrize("first", range(4))
def test_an_id_block_is_looked_at_in_order(id_block: dict[str, object], first: int) -> None:
    """What comes later is wrong, too."""
    for area, at in list(SPOIL.values())[first:]:
        id_block[area][at] ^= 2  # type: ignore[index]
    assert finish(id_block) == list(SPOIL)[first]


def test_the_authors_signature_comes_last(id_block: dict[str, object]) -> None:
    id_block["auth"][0x690] ^= 1  # type: ignore[index]
    assert finish(id_block, 3) == 0x0A
    assert finish(id_block, 1) == 0


def test_a_good_id_block_is_accepted(id_block: dict[str, object]) -> None:
    assert finish(id_block) == 0


# -- standing still ---------------------------------------------------------------------------------


def test_a_request_parks_only_behind_the_last_of_its_checks(asker: Asker) -> None:
    """Tag and sequence number are looked at by the firmware that has the keys, however deep that is."""

    def send(message: bytes) -> dict[str, object]:
        host = asker.host
        host.write(asker.request, message.ljust(PAGE, b"\0"))
        host.write(host.buffer, struct.pack("<QQQ", asker.vm.gctx, asker.request, asker.response))
        return host.ask("call", cmdresp=0x094 << 16, lo=host.buffer, park=True)

    for message, wanted in (
        (seal(asker.keys[1], 1, REPORT), "0x8094000b"),
        (seal(asker.keys[0], 2, REPORT), "0x8094001d"),
    ):
        assert send(message)["ok"] == {"cmdresp": wanted, "lo": "0x0", "hi": "0x0"}
    parked = send(seal(asker.keys[0], 1, REPORT))
    assert parked["ok"] == {"parked": True}
    asker.host.write(asker.host.buffer + 0x100, bytes(16))
    busy = asker.host.insn("rmpupdate", 1, rax=asker.response, rcx=asker.host.buffer + 0x100)
    assert busy == {"rax": "0x3"}
    assert asker.host.ok("resume", call=parked["id"])["cmdresp"] == "0x80940000"
    assert opened(asker.keys[0], asker.host.read(asker.response, PAGE))[0] == 2
