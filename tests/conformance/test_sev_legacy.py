"""Legacy guests:

handles, states, measurement, secrets, debugging, and the way from one platform to another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from sev_field import C_BIT, MIB, PAGE, Sev, Sevs, Tables, Vcpu

CERT, CHAIN = 2084, 6252
NOWHERE = 0xA0000


def status_of(host: Sev, handle: int) -> tuple[int, int, int]:
    host.did("GUEST_STATUS", handle=handle)
    return tuple(host.out("GUEST_STATUS", name) for name in ("policy", "asid", "state"))  # type: ignore[return-value]


def test_handles_are_the_lowest_free_and_used_again_at_once(legacy: Sev) -> None:
    handles = [legacy.legacy_guest() for _ in range(3)]
    assert handles == [1, 2, 3]
    legacy.did("DECOMMISSION", handle=2)
    assert legacy.legacy_guest() == 2


@pytest.mark.slow
def test_a_full_table_of_handles_says_so(legacy: Sev) -> None:
    for _ in range(1024):
        legacy.did("LAUNCH_START", policy=0)
    assert legacy.cmd("LAUNCH_START", policy=0) == 0x17
    legacy.did("DECOMMISSION", handle=1024)
    assert legacy.legacy_guest() == 1024


def test_the_states_of_a_launch(legacy: Sev) -> None:
    handle = legacy.legacy_guest(policy=1, asid=9)
    assert status_of(legacy, handle) == (1, 9, 1)
    blob = legacy.alloc()
    assert legacy.cmd("LAUNCH_MEASURE", handle=handle) == 0x04
    assert legacy.out("LAUNCH_MEASURE", "len") == 48
    assert status_of(legacy, handle)[2] == 1
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    assert status_of(legacy, handle)[2] == 2
    legacy.did("LAUNCH_FINISH", handle=handle)
    assert status_of(legacy, handle)[2] == 3
    assert status_of(legacy, 99) == (0, 0, 0)


def test_the_measurement_is_that_of_plaintext_policy_and_version(legacy: Sev) -> None:
    handle = legacy.legacy_guest(policy=0x0101_0000 | 5, asid=1)
    digest = hashlib.sha256()
    for n in range(3):
        page = legacy.alloc()
        data = bytes([n]) * PAGE
        legacy.write(page, data)
        name = "LAUNCH_UPDATE_VMSA" if n == 2 else "LAUNCH_UPDATE_DATA"
        legacy.did(name, handle=handle, pa=page, len=PAGE)
        digest.update(data)
    blob = legacy.alloc()
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=100)
    assert legacy.out("LAUNCH_MEASURE", "len") == 48
    raw = legacy.read(blob, 48)
    covered = bytes((4, 1, 55, 25)) + struct.pack("<I", 0x0101_0005) + digest.digest() + raw[32:]
    assert raw[:32] == hmac.digest(bytes(16), covered, "sha256")
    legacy.did("ATTESTATION", handle=handle, pa=blob, nonce=b"n" * 16, len=208)
    report = legacy.read(blob, 208)
    assert report[:0x10] == b"n" * 16
    assert report[0x10:0x30] == digest.digest()
    assert struct.unpack_from("<I", report, 0x30)[0] == 0x0101_0005


def test_an_asid_that_ran_is_dirty_and_one_that_did_not_is_clean(legacy: Sev) -> None:
    handle = legacy.legacy_guest(asid=8)
    legacy.did("DEACTIVATE", handle=handle)
    legacy.did("ACTIVATE", handle=handle, asid=8)
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=legacy.alloc(), len=48)
    legacy.did("LAUNCH_FINISH", handle=handle)
    legacy.did("DEACTIVATE", handle=handle)
    assert legacy.cmd("ACTIVATE", handle=handle, asid=8) == 0x0F
    assert legacy.cmd("DF_FLUSH") == 0x0E
    legacy.flush()
    legacy.did("ACTIVATE", handle=handle, asid=8)


def test_kinds_of_guests_have_their_own_asids(legacy: Sev) -> None:
    es, sev = legacy.legacy_guest(policy=4), legacy.legacy_guest(policy=0)
    assert legacy.cmd("ACTIVATE", handle=es, asid=8) == 0x0D
    assert legacy.cmd("ACTIVATE", handle=sev, asid=7) == 0x0D
    legacy.did("ACTIVATE", handle=es, asid=7)
    assert legacy.cmd("ACTIVATE", handle=es, asid=7) == 0x0C
    assert legacy.cmd("ACTIVATE", handle=es, asid=6) == 0x12
    legacy.did("ACTIVATE", handle=sev, asid=15)


def test_a_guest_can_be_bound_to_some_cpus(legacy: Sev, sev_depth: int) -> None:
    handle = legacy.legacy_guest()
    ids = legacy.alloc()
    legacy.write(ids, struct.pack("<II", 0, 1))
    raw = struct.pack("<IIIIQ", 0x18, handle, 8, 2, ids)
    legacy.write(legacy.buffer, raw)
    status = legacy.submit("ACTIVATE_EX", legacy.buffer)
    assert status == (0x15 if sev_depth else 0)
    if not sev_depth:
        legacy.did("LAUNCH_MEASURE", handle=handle, pa=legacy.alloc(), len=48)
        legacy.did("LAUNCH_FINISH", handle=handle)
        vcpu = Vcpu(legacy, Tables(legacy), 8, 3)
        assert vcpu.enter(cpu=1)["exitcode"] == "0x60"
        assert vcpu.enter(cpu=2)["exitcode"] == "0xffffffffffffffff"


def test_guests_share_a_key_where_the_policy_allows_it(legacy: Sev) -> None:
    first = legacy.legacy_guest(policy=0)
    assert legacy.cmd("LAUNCH_START", handle=first, policy=1) == 0x07
    assert legacy.cmd("LAUNCH_START", handle=first, policy=0) == 0
    closed = legacy.legacy_guest(policy=2)
    assert legacy.cmd("LAUNCH_START", handle=closed, policy=2) == 0x07


def test_a_secret_arrives_only_with_its_mac(legacy: Sev) -> None:
    handle = legacy.legacy_guest(asid=8)
    page, blob, packet = legacy.pages(3)
    legacy.did("LAUNCH_UPDATE_DATA", handle=handle, pa=page, len=PAGE)
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    secret, iv = b"the disk's key".ljust(16, b"\0"), bytes(range(16))
    data = Cipher(AES(bytes(16)), CTR(iv)).encryptor().update(secret)
    covered = b"\1" + bytes(4) + iv + struct.pack("<II", 16, 16) + data + legacy.read(blob, 32)
    fields = {"handle": handle, "hdr": packet, "hdr_len": 52, "guest": page + 64, "guest_len": 16}
    fields |= {"trans": packet + 64, "trans_len": 16}
    legacy.write(packet, bytes(4) + iv + bytes(32))
    legacy.write(packet + 64, data)
    assert legacy.cmd("LAUNCH_SECRET", **fields) == 0x0B
    legacy.write(packet, bytes(4) + iv + hmac.digest(bytes(16), covered, "sha256"))
    legacy.did("LAUNCH_SECRET", **fields)
    legacy.did("LAUNCH_FINISH", handle=handle)
    tables = Tables(legacy)
    tables.map(0, page)
    left = Vcpu(legacy, tables, 8, 3).do({"read": C_BIT | 64, "len": 16})
    assert left["steps"] == [{"hex": secret.hex()}]


def test_debugging_reads_and_writes_plaintext(legacy: Sev) -> None:
    handle = legacy.launched()
    plain, cipher, back = legacy.pages(3)
    legacy.write(plain, b"in the clear".ljust(32, b"!"))
    legacy.did("DBG_ENCRYPT", handle=handle, src=plain, dst=cipher, len=32)
    assert legacy.read(cipher, 32) != legacy.read(plain, 32)
    legacy.did("DBG_DECRYPT", handle=handle, src=cipher, dst=back, len=32)
    assert legacy.read(back, 32) == legacy.read(plain, 32)
    other = legacy.alloc()
    legacy.did("COPY", handle=handle, len=PAGE, src=cipher, dst=other)
    assert legacy.read(other, 32) != legacy.read(cipher, 32)
    legacy.did("DBG_DECRYPT", handle=handle, src=other, dst=back, len=32)
    assert legacy.read(back, 32) == legacy.read(plain, 32)


def test_a_swapped_page_comes_back_only_with_its_metadata(legacy: Sev) -> None:
    handle = legacy.launched()
    src, dst, mdata, plain = legacy.pages(4)
    legacy.write(plain, b"contents".ljust(PAGE, b"."))
    legacy.did("DBG_ENCRYPT", handle=handle, src=plain, dst=src, len=PAGE)
    legacy.did("SWAP_OUT", handle=handle, src=src, dst=dst, mdata=mdata, sw_data=0x1234)
    assert legacy.read(mdata, 8) == struct.pack("<Q", 0x1234)
    fields = {"handle": handle, "src": dst, "dst": src, "mdata": mdata}
    assert legacy.cmd("SWAP_IN", flags=4, **fields) == 0x16
    legacy.ok("fill", addr=src, len=PAGE)
    legacy.did("SWAP_IN", **fields)
    legacy.did("DBG_DECRYPT", handle=handle, src=src, dst=plain, len=PAGE)
    assert legacy.read(plain, 8) == b"contents"
    legacy.write(dst, b"x")
    assert legacy.cmd("SWAP_IN", **fields) == 0x0B


@pytest.fixture
def pair(sev: Sevs) -> tuple[Sev, Sev]:
    """Two hosts with platforms of their own."""
    one = sev(hosts=2)
    other = Sev(one.keyboard, 1)
    one.sev_up()
    other.sev_up()
    return one, other


def exported(host: Sev) -> tuple[bytes, bytes]:
    area = host.alloc(4 * PAGE)
    host.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    return host.read(area, CERT), host.read(area + PAGE, CHAIN)


def sent(source: Sev, target: Sev, handle: int, policy: int = 0) -> dict[str, int]:
    """Begin to send; the fields of RECEIVE_START, its areas in the target's memory."""
    pdh, session = source.pages(2)
    source.write(pdh, exported(target)[0])
    source.did("SEND_START", handle=handle, pdh=pdh, pdh_len=CERT, session=session, session_len=128)
    assert source.out("SEND_START", "policy") == policy
    there = target.pages(2)
    target.write(there[0], exported(source)[0])
    target.write(there[1], source.read(session, 128))
    return {"policy": policy, "dh": there[0], "dh_len": CERT, "session": there[1], "session_len": 128}


def test_a_guest_travels_from_one_platform_to_the_other(pair: tuple[Sev, Sev]) -> None:
    source, target = pair
    handle = source.launched()
    plain, memory = source.pages(2)
    source.write(plain, b"luggage".ljust(64, b"."))
    source.did("DBG_ENCRYPT", handle=handle, src=plain, dst=memory, len=64)
    start = sent(source, target, handle)
    assert status_of(source, handle)[2] == 4
    hdr, trans = source.pages(2)
    packet = {
        "handle": handle,
        "hdr": hdr,
        "hdr_len": 0,
        "guest": memory,
        "guest_len": 64,
        "trans": trans,
        "trans_len": 0,
    }
    assert source.cmd("SEND_UPDATE_DATA", **packet) == 0x04
    assert (source.out("SEND_UPDATE_DATA", "hdr_len"), source.out("SEND_UPDATE_DATA", "trans_len")) == (
        52,
        64,
    )
    source.did("SEND_UPDATE_DATA", **packet | {"hdr_len": 52, "trans_len": 64})
    source.did("SEND_FINISH", handle=handle)
    assert status_of(source, handle)[2] == 6

    target.did("RECEIVE_START", **start)
    there = target.out("RECEIVE_START", "handle")
    target.did("ACTIVATE", handle=there, asid=10)
    hdr2, guest2, trans2, back = target.pages(4)
    target.write(hdr2, source.read(hdr, 52))
    target.write(trans2, source.read(trans, 64))
    arriving = {
        "handle": there,
        "hdr": hdr2,
        "hdr_len": 52,
        "guest": guest2,
        "guest_len": 64,
        "trans": trans2,
        "trans_len": 64,
    }
    target.did("RECEIVE_UPDATE_DATA", **arriving)
    target.write(trans2, b"\0")
    assert target.cmd("RECEIVE_UPDATE_DATA", **arriving) == 0x0B
    target.did("RECEIVE_FINISH", handle=there)
    assert status_of(target, there) == (0, 10, 3)
    target.did("DBG_DECRYPT", handle=there, src=guest2, dst=back, len=64)
    assert target.read(back, 64) == b"luggage".ljust(64, b".")


def test_a_vcpu_that_travels_runs_where_it_arrives(pair: tuple[Sev, Sev]) -> None:
    source, target = pair
    handle = source.legacy_guest(policy=4, asid=2)
    vmsa, blob, hdr, trans = source.pages(4)
    source.did("LAUNCH_UPDATE_VMSA", handle=handle, pa=vmsa, len=PAGE)
    source.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    source.did("LAUNCH_FINISH", handle=handle)
    start = sent(source, target, handle, policy=4)
    packet = {"handle": handle, "hdr_len": 52, "guest_len": PAGE, "trans_len": PAGE}
    source.did("SEND_UPDATE_VMSA", **packet, hdr=hdr, guest=vmsa, trans=trans)
    source.did("SEND_FINISH", handle=handle)

    target.did("RECEIVE_START", **start)
    packet["handle"] = target.out("RECEIVE_START", "handle")
    target.did("ACTIVATE", handle=packet["handle"], asid=2)
    hdr2, trans2, there = target.pages(3)
    target.write(hdr2, source.read(hdr, 52))
    target.write(trans2, source.read(trans, PAGE))
    vcpu = Vcpu(target, Tables(target), 2, 7, there)
    assert vcpu.enter()["exitcode"] == "0xffffffffffffffff"
    target.did("RECEIVE_UPDATE_VMSA", **packet, hdr=hdr2, guest=there, trans=trans2)
    target.did("RECEIVE_FINISH", handle=packet["handle"])
    assert vcpu.enter()["exitcode"] == "0x60"


def test_a_session_is_for_one_platform_and_one_policy(pair: tuple[Sev, Sev]) -> None:
    source, target = pair
    start = sent(source, target, source.launched())
    assert target.cmd("RECEIVE_START", **start | {"policy": 1}) == 0x0B
    target.did("PDH_GEN")
    assert target.cmd("RECEIVE_START", **start) == 0x0B
    assert source.cmd("SEND_CANCEL", handle=1) == 0
    assert status_of(source, 1)[2] == 3


def test_what_may_not_be_sent_is_not(pair: tuple[Sev, Sev]) -> None:
    source, _ = pair
    handle = source.launched(policy=8)
    page = source.alloc()
    assert source.cmd("SEND_START", handle=handle, session=page, session_len=1) == 0x04
    assert source.out("SEND_START", "session_len") == 128
    assert (
        source.cmd("SEND_START", handle=handle, pdh=page, pdh_len=CERT, session=page, session_len=128) == 0x07
    )


def test_a_sev_policy_wants_the_peers_whole_chain(pair: tuple[Sev, Sev], sev_depth: int) -> None:
    source, target = pair
    handle = source.launched(policy=0x20)
    pdh, chain = exported(target)
    area = source.alloc(5 * PAGE)
    source.write(area, pdh)
    fields = {"handle": handle, "pdh": area, "pdh_len": CERT, "session": area + 4 * PAGE, "session_len": 128}
    assert source.cmd("SEND_START", **fields) == 0x07
    source.write(area + PAGE, chain)
    fields |= {"plat": area + PAGE, "plat_len": CHAIN}
    source.write(area + PAGE + 0x20, b"\xff")
    assert source.cmd("SEND_START", **fields) == 0x07
    source.write(area + PAGE, chain)
    assert source.cmd("SEND_START", **fields) == (0x15 if sev_depth else 0)  # difference: chain


def test_a_domain_policy_wants_a_peer_with_the_same_owner(pair: tuple[Sev, Sev], sev_depth: int) -> None:
    source, target = pair
    handle = source.launched(policy=0x10)
    area = source.alloc(5 * PAGE)
    fields = {"handle": handle, "pdh": area, "pdh_len": CERT, "session": area + 4 * PAGE, "session_len": 128}
    fields |= {"plat": area + PAGE, "plat_len": CHAIN}
    for peer, status in ((target, 0x07), (source, 0x15 if sev_depth else 0)):  # difference: chain
        pdh, chain = exported(peer)
        source.write(area, pdh)
        source.write(area + PAGE, chain)
        assert source.cmd("SEND_START", **fields) == status


def test_certificates_of_a_peer_that_lie_in_no_memory_are_not_looked_at(legacy: Sev) -> None:
    plain, proud = legacy.launched(asid=8), legacy.launched(policy=0x20, asid=9)
    page = legacy.alloc()
    fields = {"pdh_len": CERT, "plat_len": CHAIN, "session": page, "session_len": 128}
    assert legacy.cmd("SEND_START", handle=plain, pdh=NOWHERE, **fields) == 0x09
    assert legacy.cmd("SEND_START", handle=proud, pdh=page, plat=NOWHERE, **fields) == 0x07


def test_a_swap_with_memory_that_is_none_is_refused(legacy: Sev) -> None:
    handle = legacy.launched()
    src, dst, mdata = legacy.pages(3)
    place = {"src": src, "dst": dst, "mdata": mdata}
    for name in place:
        assert legacy.cmd("SWAP_OUT", handle=handle, **place | {name: NOWHERE}) == 0x09
    legacy.did("SWAP_OUT", handle=handle, **place)


def test_the_trusted_region_takes_no_store(sev: Sevs) -> None:
    """Without SNP such a store is lost (guess); it is the firmware's until the platform is shut down."""
    host = sev()
    tmr = host.alloc(MIB, MIB)
    for edge in (tmr - PAGE, tmr, tmr + MIB):
        host.write(edge, b"before..")
    host.did("INIT", flags=1, tmr=tmr, tmr_len=MIB)
    host.write(tmr - 4, b"12345678")
    assert host.read(tmr - 4, 8) == b"1234" + b"befo"
    host.write(tmr + MIB - 4, b"12345678")
    assert host.read(tmr + MIB - 4, 8) == bytes(4) + b"5678"
    host.did("SHUTDOWN")
    host.write(tmr, b"after")
    assert host.read(tmr, 5) == b"after"


# -- an owner who is no platform -----------------------------------------------------------------------


def certified(key: ec.EllipticCurvePrivateKey, usage: int, algorithm: int) -> bytearray:
    """A certificate of this key, without a signature."""
    own = key.public_key().public_numbers()
    head = struct.pack("<IBBHIII", 1, 1, 55, 0, usage, algorithm, 2)
    return bytearray((head + own.x.to_bytes(72, "little") + own.y.to_bytes(72, "little")).ljust(CERT, b"\0"))


def signed_in(cert: bytearray, owner: ec.EllipticCurvePrivateKey) -> None:
    """The owner's signature goes in the first of the two places."""
    r, s = decode_dss_signature(owner.sign(bytes(cert[:0x414]), ec.ECDSA(hashes.SHA384())))
    area = struct.pack("<II", 0x1001, 0x102) + r.to_bytes(72, "little") + s.to_bytes(72, "little")
    cert[0x414 : 0x414 + len(area)] = area


class Owner:
    """Makes a session for a platform, as the owner's own program would: keys that only the two know."""

    def __init__(self, platform: Sev) -> None:
        self.tek, self.tik = bytes(range(16)), bytes(range(16, 32))
        self._key = ec.derive_private_key(77, ec.SECP384R1())
        pdh = exported(platform)[0]
        x, y = (int.from_bytes(pdh[at : at + 72], "little") for at in (0x14, 0x5C))
        peer = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
        self._shared = self._key.exchange(ec.ECDH(), peer)

    def certificate(self) -> bytes:
        return bytes(certified(self._key, 0x1003, 0x103))

    def session(self, policy: int) -> bytes:
        nonce, iv = bytes(16), bytes(range(16))
        master = derived(self._shared, b"sev-master-secret", nonce)
        wrapped = Cipher(AES(derived(master, b"sev-kek")), CTR(iv)).encryptor().update(self.tek + self.tik)
        mac = hmac.digest(derived(master, b"sev-kik"), wrapped, "sha256")
        return nonce + wrapped + iv + mac + hmac.digest(self.tik, struct.pack("<I", policy), "sha256")


def derived(key: bytes, label: bytes, context: bytes = b"") -> bytes:
    return hmac.digest(
        key, struct.pack("<I", 1) + label + b"\0" + context + struct.pack("<I", 128), "sha256"
    )[:16]


def test_an_owner_signs_the_platforms_key_and_is_its_owner_from_then_on(legacy: Sev) -> None:
    """The CSR is a certificate without a signature; the owner's own signs itself."""
    csr, pek, oca = legacy.pages(3)
    legacy.did("PEK_CSR", pa=csr, len=CERT)
    raw = bytearray(legacy.read(csr, CERT))
    assert struct.unpack_from("<I", raw, 8)[0] == 0x1002
    assert not any(raw[0x41C:0x61C]), "nobody has signed it"
    key = ec.derive_private_key(78, ec.SECP384R1())
    root = certified(key, 0x1001, 0x102)
    signed_in(root, key)
    signed_in(raw, key)
    legacy.write(oca, bytes(root))
    fields = {"pek": pek, "pek_len": CERT, "oca": oca, "oca_len": CERT}
    for at, wrong in ((0x10, 3), (0x14, raw[0x14] ^ 1)):  # another curve; a point that lies on none
        legacy.write(pek, bytes(raw[:at]) + bytes((wrong,)) + bytes(raw[at + 1 :]))
        assert legacy.cmd("PEK_CERT_IMPORT", **fields) == 0x06
    other = certified(key, 0x1002, 0x102)
    signed_in(other, key)
    legacy.write(pek, bytes(other))
    assert legacy.cmd("PEK_CERT_IMPORT", **fields) == 0x06, "a good certificate, of another key"
    legacy.write(pek, bytes(raw))
    legacy.did("PEK_CERT_IMPORT", **fields)
    legacy.did("PLATFORM_STATUS")
    assert legacy.out("PLATFORM_STATUS", "owner") & 1 == 1
    _, chain = exported(legacy)
    assert chain[:0x61C] == bytes(raw[:0x61C])
    assert struct.unpack_from("<I", chain, 0x61C)[0] == 0x1004, "and the chip has signed it, too"
    assert chain[CERT : 2 * CERT] == bytes(root)


def test_a_launch_with_a_session_is_measured_with_its_owners_keys(legacy: Sev) -> None:
    owner = Owner(legacy)
    dh, session, blob = legacy.pages(3)
    legacy.write(dh, owner.certificate())
    fields = {"policy": 1, "dh": dh, "dh_len": CERT, "session": session, "session_len": 128}
    legacy.write(session, owner.session(policy=1))
    assert legacy.cmd("LAUNCH_START", **fields | {"policy": 3}) == 0x0B, "the session is for another policy"
    legacy.did("LAUNCH_START", **fields)
    handle = legacy.out("LAUNCH_START", "handle")
    assert status_of(legacy, handle) == (1, 0, 1)
    legacy.did("ACTIVATE", handle=handle, asid=8)
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    raw = legacy.read(blob, 48)
    covered = bytes((4, 1, 55, 25)) + struct.pack("<I", 1) + hashlib.sha256().digest() + raw[32:]
    assert raw[:32] == hmac.digest(owner.tik, covered, "sha256")
