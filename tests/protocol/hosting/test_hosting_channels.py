"""Channels, consoles, dumps and evidence: per child, and only for whom it belongs to."""

from __future__ import annotations

import hashlib

import msgpack
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from protocol.hosting.channels import OFFER_MS, RESETS
from protocol.hosting.console import CONSOLE_BYTES
from protocol.hosting.evidence import EVIDENCE_BYTES, FORMAT, KeySigner, Measured, Trust, verify
from protocol.hosting.limits import Limits, Offer
from protocol.hosting.machine import AttestGuest, DumpGuest

KEY = b"\0\0\0\1" + b"k" * 12
SIGNER = KeySigner(ec.derive_private_key(7, ec.SECP384R1()))


@pytest.fixture
def offering(small_world):
    """A world that offers everything."""
    return small_world(
        service={"offer": Offer(channels="vsock:2:{port}", dump=True), "trust": Trust(b"s" * 32, SIGNER)}
    )


@pytest.fixture
def alice(offering, join):
    return join(offering, 3)


@pytest.fixture
def bob(offering, join):
    return join(offering, 4)


def test_a_token_opens_once(offering, alice):
    child = alice.start()["child"]
    offered = alice.ask("channel.open", child=child, port=7)
    assert (offered["address"], offered["port"], offered["window"]) == ("vsock:2:5202", 5202, 65_536)
    opened = offering.service.redeem(alice.who, offered["token"])
    assert (opened.id, opened.child, opened.port) == (offered["channel"], child, 7)
    assert offering.service.redeem(alice.who, offered["token"]) is None


def test_a_token_opens_nothing_for_somebody_else(offering, alice, bob):
    child = alice.start()["child"]
    token = alice.ask("channel.open", child=child, port=7)["token"]
    assert offering.service.redeem(bob.who, token) is None
    assert offering.service.redeem(alice.who, b"guess" * 3 + b"!") is None
    assert bob.refused("channel.open", child=child, port=7)["name"] == "NOT_FOUND"


def test_the_same_key_is_the_same_channel(alice):
    child = alice.start()["child"]
    first = alice.ask("channel.open", KEY, child=child, port=7)
    assert alice.ask("channel.open", KEY, child=child, port=7) == first
    assert alice.refused("channel.open", KEY, child=child, port=8)["name"] == "KEY_CONFLICT"
    assert alice.ask("quota.get")["channels"]["charged"] == 1


def test_each_key_finds_its_own_channel_among_others(alice):
    child = alice.start()["child"]
    keys = [b"\0\0\0\1" + bytes([n]) * 12 for n in (1, 2, 3)]
    made = [alice.ask("channel.open", key, child=child, port=7)["channel"] for key in keys]
    assert len(set(made)) == 3
    assert [alice.ask("channel.open", key, child=child, port=7)["channel"] for key in keys] == made


def test_of_many_channels_that_were_reset_the_newest_are_told(offering, alice):
    child = alice.start()["child"]
    keys = [b"\0\0\0\1" + n.to_bytes(12, "big") for n in range(1, RESETS + 2)]
    for key in keys:
        offer = alice.ask("channel.open", key, child=child, port=7)
        offering.service.redeem(alice.who, offer["token"])
        alice.ask("reset", child=child)
    assert alice.refused("channel.open", keys[-1], child=child, port=7)["name"] == "CHANNEL_RESET"
    assert alice.refused("channel.open", keys[1], child=child, port=7)["name"] == "CHANNEL_RESET"
    alice.ask("channel.open", keys[0], child=child, port=7)


def test_the_end_of_a_stream_ends_its_channel_unless_its_boot_is_over(offering, alice, join):
    child = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    channel = alice.ask("channel.open", child=child, port=7)["channel"]
    offering.service.channel_over(alice.who, channel)
    assert offering.service.records()["channel"] == 0
    again = join(offering, 3, epoch=2)
    mine = again.ask("channel.open", child=again.start()["child"], port=7)["channel"]
    offering.service.channel_over(alice.who, mine)
    assert offering.service.records()["channel"] == 1


def test_a_channel_that_was_reset_is_told_once_to_whoever_asks_again(offering, alice):
    child = alice.start()["child"]
    first = alice.ask("channel.open", KEY, child=child, port=7)
    offering.service.redeem(alice.who, first["token"])
    alice.ask("reset", child=child)
    error = alice.refused("channel.open", KEY, child=child, port=7)
    assert (error["name"], error["retryable"], error["detail"]) == (
        "CHANNEL_RESET",
        True,
        {"cause": "STARTING"},
    )
    assert alice.ask("channel.open", KEY, child=child, port=7)["channel"] != first["channel"]


def test_an_offer_that_nobody_took_up_was_no_channel_to_be_reset(offering, alice):
    child = alice.start()["child"]
    alice.ask("channel.open", KEY, child=child, port=7)
    offering.pass_time(OFFER_MS)
    alice.ask("channel.open", KEY, child=child, port=7)


def test_an_offer_that_nobody_takes_up_goes(offering, alice):
    child = alice.start()["child"]
    token = alice.ask("channel.open", child=child, port=7)["token"]
    offering.pass_time(OFFER_MS)
    assert offering.service.redeem(alice.who, token) is None
    assert alice.ask("quota.get")["channels"]["charged"] == 0


@pytest.mark.parametrize("end", ["stop", "destroy", "reset", "lost", "ended", "gone"])
def test_a_channel_ends_when_its_child_is_not_ready_any_more(offering, alice, end):
    child = alice.start()["child"]
    channel = alice.ask("channel.open", child=child, port=7)
    offering.service.redeem(alice.who, channel["token"])
    if end == "lost":
        offering.service.guest_lost(child, offering.now_ms)
    elif end == "ended":
        offering.service.guest_ended(child, 1, offering.now_ms)
    elif end == "gone":
        offering.gone(alice.who)
    else:
        alice.ask(end, child=child)
    assert offering.service.cuts() == [channel["channel"]]
    assert offering.service.cuts() == []
    assert offering.service.records()["channel"] == 0
    assert sum(offering.service.statistics().channel_resets.values()) == 1


def an_open_channel(world, client, key=None):
    child = client.start()["child"]
    token = client.ask("channel.open", key, child=child, port=7)["token"]
    return world.service.redeem(client.who, token)


def test_what_a_channel_carried_is_counted_each_way(offering, alice):
    channel = an_open_channel(offering, alice)
    offering.service.channel_carried(channel, "sent", 5, 0.25)
    offering.service.channel_carried(channel, "sent", 2, 0.5)
    offering.service.channel_carried(channel, "received", 3, 0.0)
    told = offering.service.statistics()
    assert (told.channel_bytes["sent"], told.channel_bytes["received"]) == (7, 3)
    assert (told.channel_wait_s["sent"], told.channel_wait_s["received"]) == (0.75, 0.0)


HALF_OPEN_MS = Limits().half_open


@pytest.fixture
def patient(small_world):
    """A host whose leases outlive everything here."""

    def make(**limits):
        offer = Offer(channels="vsock:2:{port}")
        return small_world(service={"offer": offer}, limits={"lease": 1 << 31, **limits})

    return make


def test_a_channel_that_stays_half_open_and_silent_is_reset_and_its_credit_returned(patient, join):
    offering = patient()
    alice = join(offering, 3)
    channel = an_open_channel(offering, alice, KEY)
    offering.service.channel_shut(channel)
    offering.pass_time(HALF_OPEN_MS - 1)
    offering.service.channel_carried(channel, "received", 5, 0.0)
    offering.pass_time(HALF_OPEN_MS - 1)
    assert alice.ask("quota.get")["channels"]["charged"] == 1, "what still answers is not silent"
    offering.pass_time(1)
    assert offering.service.cuts() == [channel.id]
    assert alice.ask("quota.get")["channels"]["charged"] == 0
    assert offering.service.statistics().channel_resets == {"half_open": 1}
    told = alice.refused("channel.open", KEY, child=channel.child, port=7)
    assert (told["name"], told["detail"]) == ("CHANNEL_RESET", {"cause": "half_open"})


def test_a_channel_whose_sides_are_both_there_may_be_silent(patient, join):
    offering = patient()
    an_open_channel(offering, join(offering, 3))
    offering.pass_time(2 * HALF_OPEN_MS)
    assert offering.service.cuts() == []


def test_a_host_may_let_them_be(patient, join):
    world = patient(half_open=0)
    client = join(world, 3)
    assert client.ask("hello", versions=[1])["limits"]["half_open_ms"] == 0
    world.service.channel_shut(an_open_channel(world, client))
    world.pass_time(10 * HALF_OPEN_MS)
    assert world.service.cuts() == []


def test_channels_are_bounded_and_closed(small_world, join):
    world = small_world(service={"offer": Offer(channels="vsock:2:{port}")}, channels=1)
    client = join(world, 3)
    child = client.start()["child"]
    name = client.ask("channel.open", child=child, port=7)["channel"]
    assert client.refused("channel.open", child=child, port=8)["detail"]["dimension"] == "channels"
    for _ in range(2):
        client.ask("channel.close", channel=name)
    assert world.service.cuts() == [name]
    client.ask("channel.open", child=child, port=8)


def test_a_channel_needs_a_child_that_is_ready(alice):
    child = alice.start(mode="reserve")["child"]
    assert alice.refused("channel.open", child=child, port=7)["detail"] == {
        "have": "RESERVED",
        "need": ["READY"],
    }


# The console


def test_a_console_is_read_by_cursor_and_tells_what_was_lost(offering, alice):
    child = alice.start(debug=True)["child"]
    offering.service.console_wrote(child, b"hello ")
    offering.service.console_wrote(child, b"world")
    assert alice.ask("console.read", child=child, max=6) == {"data": b"hello ", "cursor": 6, "lost": 0}
    assert alice.ask("console.read", child=child, cursor=6)["data"] == b"world"
    offering.service.console_wrote(child, b"x" * CONSOLE_BYTES)
    told = alice.ask("console.read", child=child, cursor=6, max=1)
    assert told == {"data": b"x", "cursor": 12, "lost": 5}
    assert alice.ask("console.read", child=child, cursor=1 << 40)["data"], "a cursor of a former life"


def test_a_production_child_has_no_console_and_is_not_dumped(offering, alice, bob):
    child = alice.start()["child"]
    offering.service.console_wrote(child, b"secret")
    assert alice.refused("console.read", child=child)["name"] == "POLICY"
    assert alice.refused("dump", child=child)["name"] == "POLICY"
    debug = alice.start(debug=True)["child"]
    assert bob.refused("console.read", child=debug)["name"] == "NOT_FOUND"
    assert alice.ask("quota.get")["console_bytes"]["charged"] == CONSOLE_BYTES


def test_a_debug_child_is_dumped_piece_by_piece(alice, image):
    child = alice.start(debug=True)["child"]
    got, size = b"", 1
    while len(got) < size:
        piece = alice.ask("dump", child=child, offset=len(got), count=50)
        got, size = got + piece["data"], piece["size"]
    assert got == image


def test_a_dump_that_the_machine_refuses_names_its_stage(offering, alice, no):
    child = alice.start(debug=True)["child"]
    offering.machine.fail[DumpGuest] = [no]
    error = alice.refused("dump", child=child)
    assert (error["name"], error["stage"]) == ("TE_ERROR", "dump")


@pytest.mark.parametrize(
    "body", [{"kind": "dump"}, {"kind": "attest", "nonce": b"n"}], ids=lambda b: b["kind"]
)
def test_a_child_that_does_not_run_is_neither_dumped_nor_measured(offering, alice, body):
    child = alice.start(debug=True)["child"]
    alice.ask("stop", child=child)
    asked = len(offering.machine.asked)
    error = alice.refused(child=child, **body)
    assert (error["name"], error["detail"]) == ("BAD_STATE", {"have": "STOPPED", "need": ["READY"]})
    assert len(offering.machine.asked) == asked


def test_the_console_of_a_debug_child_ends_with_it(offering, alice):
    child = alice.start(debug=True)["child"]
    assert offering.service.records()["console"] == 1
    alice.ask("destroy", child=child)
    assert offering.service.records()["console"] == 0
    assert alice.ask("quota.get")["console_bytes"]["charged"] == 0


def test_where_only_the_owner_can_open_a_dump_any_child_is_dumped(small_world, join, image):
    alice = join(small_world(service={"offer": Offer(dump=True, sealed=True)}), 3)
    child = alice.start()["child"]
    assert alice.ask("dump", child=child) == {"size": len(image), "data": image}


# Evidence


def test_evidence_names_the_requester_and_its_boot(alice, image):
    child = alice.start()["child"]
    made = alice.ask("attest", child=child, nonce=b"fresh", user_data=b"mine")["evidence"]
    said = verify(made, SIGNER.public_key(), b"fresh")
    assert (said["requester"], said["epoch"], said["child"]) == (3, 1, child)
    assert said["measurement"] == hashlib.sha384(image).digest()
    assert (said["debug"], said["user_data"]) == (False, b"mine")
    assert said["te"] == b"what the TE signed over fresh"


def test_the_evidence_of_a_debug_child_measures_nothing(alice):
    child = alice.start(debug=True)["child"]
    made = alice.ask("attest", child=child, nonce=b"n")["evidence"]
    said = verify(made, SIGNER.public_key(), b"n")
    assert (said["debug"], said["measurement"]) == (True, bytes(48))


def test_evidence_that_was_tampered_with_or_is_old_is_not_believed(alice):
    child = alice.start()["child"]
    made = alice.ask("attest", child=child, nonce=b"n")["evidence"]
    outer = msgpack.unpackb(made)
    other = KeySigner(ec.derive_private_key(8, ec.SECP384R1()))
    with pytest.raises(ValueError, match="nonce"):
        verify(made, SIGNER.public_key(), b"another")
    with pytest.raises(ValueError, match="trusted"):
        verify(made, other.public_key(), b"n")
    forged = msgpack.packb(outer | {"payload": outer["payload"].replace(b"nonce", b"nonsE")})
    with pytest.raises(ValueError, match="verify"):
        verify(forged, SIGNER.public_key(), b"n")
    with pytest.raises(ValueError, match=FORMAT):
        verify(msgpack.packb(outer | {"format": "x"}), SIGNER.public_key(), b"n")
    with pytest.raises(ValueError, match="no evidence"):
        verify(b"\xc1", SIGNER.public_key(), b"n")


def test_what_is_no_evidence_says_so_before_any_key_is_tried(alice):
    outer = msgpack.unpackb(alice.ask("attest", child=alice.start()["child"], nonce=b"n")["evidence"])
    for wrong in ({"payload": "text"}, {"signature": 5}):
        with pytest.raises(ValueError, match="payload and signature are bytes"):
            verify(msgpack.packb(outer | wrong), SIGNER.public_key(), b"n")
    with pytest.raises(ValueError, match="the trusted key cannot be used"):
        verify(msgpack.packb(outer | {"key": b"no key"}), b"no key", b"n")


@pytest.mark.parametrize(
    ("payload", "said"),
    [(b"\xc1", "no evidence"), (msgpack.packb([1]), "not this nonce"), (msgpack.packb({}), "not this nonce")],
    ids=["no msgpack", "no map", "no nonce"],
)
def test_a_host_that_is_trusted_may_sign_what_is_no_evidence(payload, said):
    made = {
        "format": FORMAT, "payload": payload, "signature": SIGNER.sign(payload), "key": SIGNER.public_key(),
    }  # fmt: skip
    with pytest.raises(ValueError, match=said):
        verify(msgpack.packb(made), SIGNER.public_key(), b"n")


def test_evidence_that_does_not_fit_into_an_answer_is_refused(offering, alice):
    child = alice.start()["child"]
    offering.machine.fail[AttestGuest] = [Measured(bytes(48), bytes(EVIDENCE_BYTES))]
    error = alice.refused("attest", child=child, nonce=b"n")
    assert error["name"] == "ATTEST_FAILED"
    assert f"at most {EVIDENCE_BYTES}" in error["cause"][0]


def test_a_key_that_is_on_no_elliptic_curve_verifies_nothing(alice):
    made = msgpack.unpackb(alice.ask("attest", child=alice.start()["child"], nonce=b"n")["evidence"])
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="not on an elliptic curve"):
        verify(msgpack.packb(made | {"key": der}), der, b"n")


def test_a_guest_that_cannot_be_measured_has_no_evidence(offering, alice, no):
    child = alice.start()["child"]
    offering.machine.fail[AttestGuest] = [no]
    error = alice.refused("attest", child=child, nonce=b"")
    assert (error["name"], error["who"], error["stage"]) == ("ATTEST_FAILED", "te", "attest")


# Adoption


def lingering(client, **more):
    return client.start(on_owner_loss="linger", linger_s=60, **more)["child"]


def test_the_next_boot_adopts_with_the_credential_of_the_former_one(offering, alice, join):
    credential = alice.ask("hello", versions=[1])["credential"]
    child = alice.ask(
        "start",
        KEY,
        spec={"image": hashlib.sha256(b"a kernel, an initial ramdisk and a header " * 3).digest()}
        | {"vcpus": 1, "memory_mib": 1, "on_owner_loss": "linger", "linger_s": 60},
    )["child"]
    again = join(offering, 3, epoch=2)
    assert again.ask("list")["children"] == []
    gone = b"g" * 16
    for _ in range(2):
        told = again.ask("adopt", credential=credential, epoch=1, children=[child, gone])
        assert told == {"adopted": [child], "lost": [gone]}
    assert again.ask("describe", child=child)["state"] == "READY"
    offering.pass_time(25_000)
    again.ask("lease.renew")
    offering.pass_time(25_000)
    again.ask("lease.renew")
    offering.pass_time(25_000)
    assert offering.machine.guests == {child: "running"}, "its grace is over, and it has an owner"
    spec = {"image": again.ask("describe", child=child)["image"], "vcpus": 1, "memory_mib": 1}
    spec |= {"on_owner_loss": "linger", "linger_s": 60}
    assert again.ask("start", KEY, spec=spec)["child"] == child, "the key of the former boot answers"
    assert again.ask("destroy", child=child)["state"] == "RELEASED"


@pytest.mark.parametrize("wrong", ["credential", "epoch", "requester"])
def test_without_the_credential_nothing_is_adopted(offering, alice, bob, join, wrong):
    credential = alice.ask("hello", versions=[1])["credential"]
    child = lingering(alice)
    again = bob if wrong == "requester" else join(offering, 3, epoch=2)
    told = again.refused(
        "adopt",
        credential=b"x" * 32 if wrong == "credential" else credential,
        epoch=7 if wrong == "epoch" else 1,
    )
    assert told["name"] == "NOT_FOUND"
    assert again.refused("describe", child=child)["name"] == "NOT_FOUND"


def test_only_what_was_asked_for_is_adopted_and_the_rest_may_be_later(offering, alice, join):
    credential = alice.ask("hello", versions=[1])["credential"]
    one, other = lingering(alice), lingering(alice)
    again = join(offering, 3, epoch=2)
    assert again.ask("adopt", credential=credential, epoch=1, children=[one])["adopted"] == [one]
    assert [child["child"] for child in again.ask("list")["children"]] == [one]
    assert sorted(again.ask("adopt", credential=credential, epoch=1)["adopted"]) == sorted([one, other])


def test_what_the_present_boot_started_itself_is_not_adopted(offering, alice, join):
    credential = alice.ask("hello", versions=[1])["credential"]
    former = lingering(alice)
    again = join(offering, 3, epoch=2)
    own = lingering(again)
    told = again.ask("adopt", credential=credential, epoch=1, children=[former, own])
    assert told == {"adopted": [former], "lost": [own]}
    assert again.ask("describe", child=own)["state"] == "READY"


def test_what_does_not_linger_is_not_there_to_be_adopted(offering, alice, join):
    credential = alice.ask("hello", versions=[1])["credential"]
    child = alice.start()["child"]
    again = join(offering, 3, epoch=2)
    told = again.ask("adopt", credential=credential, epoch=1, children=[child])
    assert told == {"adopted": [], "lost": [child]}
