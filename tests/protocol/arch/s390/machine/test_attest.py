"""Attestation: what the measurement covers, that each mistake has its code, and which of two is named."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.evidence import attestation
from protocol.arch.s390.evidence.attestation import FLAG_IMAGE_KEY, Evidence
from protocol.arch.s390.guest import Read, Touch, Uvc
from protocol.arch.s390.image import Component, host_key
from protocol.effects import Fault

PAGE = 0x1000
REQUEST = 0x20000
MEASUREMENT = 0x21000
ADDITIONAL = 0x22000
END = 2 << 20  # of the guest's memory
SEED = 11

HOST = host_key(SEED, "host")
OTHER = host_key(SEED, "other")


def request(**options: Any) -> attestation.Request:
    options = {"hosts": [HOST], "seed": 3, "digest": b"r"} | options
    return attestation.build(options.pop("hosts"), **options)


@dataclass
class Asking:
    """Everything of one call that a test may spoil."""

    raw: bytearray
    token: int = 0
    user: bytes = b""
    user_length: int | None = None
    measurement_length: int = 64
    additional_length: int = 32
    at: int = REQUEST
    measurement: int = MEASUREMENT
    additional: int = ADDITIONAL

    def block(self) -> bytes:
        made = bytearray(0x188)
        struct.pack_into(">HH", made, 0, 0x188, 0x1020)
        struct.pack_into(">QQ", made, 0x18, self.at, self.token)
        length = len(self.user) if self.user_length is None else self.user_length
        struct.pack_into(">H", made, 0x2E, length)
        made[0x30 : 0x30 + len(self.user)] = self.user
        struct.pack_into(">IQ", made, 0x13C, self.measurement_length, self.measurement)
        struct.pack_into(">IQ", made, 0x15C, self.additional_length, self.additional)
        return bytes(made)


@pytest.fixture
def attested(guest: Any) -> Any:
    """A guest with pages for request and answers."""
    for gaddr in (REQUEST, MEASUREMENT, ADDITIONAL):
        guest.secure(gaddr)
    return guest


def ask(guest: Any, asking: Asking) -> Any:
    if asking.at < END - PAGE:
        guest.write(asking.at, bytes(asking.raw))
    return guest.uvc(asking.block())


def evidence(guest: Any, asked: attestation.Request, user: bytes = b"", **options: Any) -> Evidence:
    reply = ask(guest, Asking(bytearray(asked.raw), user=user, **options)).done()
    return Evidence(
        uid=reply.block[0x148:0x158],
        measurement=guest.read(MEASUREMENT, 64),
        additional=guest.read(ADDITIONAL, 32),
        user_data=user,
    )


class TestTheMeasurement:
    """What the owner finds out, computed here from the documented items."""

    def test_is_an_hmac_over_what_names_the_guest(self, attested: Any) -> None:
        asked = request()
        got = evidence(attested, asked, b"public key of an ssh server")
        header = attested.image.header
        items = header[0xE0:0x1A0] + header[-16:] + got.uid
        items += struct.pack(">HHI", 27, 0, 32) + b"public key of an ssh server"
        items += (asked.nonce or b"") + got.additional
        assert got.measurement == hmac.new(asked.measurement_key, items, hashlib.sha512).digest()
        assert got.additional == hashlib.sha256(HOST.public).digest()

    def test_is_verified_by_the_workbench(self, attested: Any) -> None:
        asked = request()
        got = evidence(attested, asked, b"words")
        assert attestation.verify(asked, attested.image.header, got)
        assert attestation.image_key_hash(asked, got) == HOST.public_hash

    def test_does_without_nonce_and_without_additional_data(self, attested: Any) -> None:
        asked = request(nonce=False, flags=0)
        reply = ask(attested, Asking(bytearray(asked.raw), additional=0, additional_length=0)).done()
        got = Evidence(reply.block[0x148:0x158], attested.read(MEASUREMENT, 64))
        assert attestation.verify(asked, attested.image.header, got)

    @pytest.mark.parametrize("spoil", ["uid", "measurement", "additional", "user_data"])
    def test_changed_evidence_is_found_out(self, attested: Any, spoil: str) -> None:
        asked = request()
        got = evidence(attested, asked, b"words")
        for bit in (0, -1):
            value = bytearray(getattr(got, spoil))
            value[bit] ^= 1
            fields = {name: getattr(got, name) for name in ("uid", "measurement", "additional", "user_data")}
            changed = Evidence(**fields | {spoil: bytes(value)})
            assert not attestation.verify(asked, attested.image.header, changed)

    def test_another_image_is_found_out(self, attested: Any) -> None:
        asked = request()
        got = evidence(attested, asked)
        other = attested.bench.image([Component(0x10000, b"another kernel", 0x7)])
        assert not attestation.verify(asked, other.header, got)
        assert attestation.verify(asked, attested.image.header, got)

    def test_evidence_for_another_request_is_found_out(self, attested: Any) -> None:
        got = evidence(attested, request())
        assert not attestation.verify(request(digest=b"later"), attested.image.header, got)

    def test_two_guests_of_one_image_have_their_own_identifiers(self, attested: Any) -> None:
        other = attested.bench.boot(attested.image)
        for gaddr in (REQUEST, MEASUREMENT, ADDITIONAL):
            other.secure(gaddr)
        asked = request()
        one, two = evidence(attested, asked), evidence(other, asked)
        assert one.uid != two.uid
        assert evidence(attested, asked).uid == one.uid

    def test_a_request_for_several_machines_is_opened_by_each(self, attested: Any) -> None:
        asked = request(hosts=[OTHER, HOST])
        assert attestation.verify(asked, attested.image.header, evidence(attested, asked))

    def test_longer_areas_keep_what_is_behind(self, attested: Any) -> None:
        attested.write(MEASUREMENT, b"\xee" * 128)
        evidence(attested, request(), measurement_length=128)
        assert attested.read(MEASUREMENT + 64, 64) == b"\xee" * 64


# -- each mistake by itself, in the order of the checks ----------------------------------------------------


def put(at: int, width: int, value: int) -> Callable[[Asking], None]:
    def spoil(asking: Asking) -> None:
        asking.raw[at : at + width] = value.to_bytes(width, "big")

    return spoil


def attribute(name: str, value: int) -> Callable[[Asking], None]:
    return lambda asking: setattr(asking, name, value)


MISTAKES: list[tuple[str, Callable[[Asking], None], int]] = [
    ("token", attribute("token", 0xFF), 0x0101),
    ("user data", attribute("user_length", 257), 0x0102),
    ("request", attribute("at", END + PAGE), 0x0103),
    ("version", put(0x08, 4, 0), 0x0106),
    ("no slots", put(0x27, 1, 0), 0x0108),
    ("length", put(0x0C, 4, 0x181), 0x0107),
    ("encrypted size", put(0x2C, 4, 80), 0x0109),
    ("flags", put(0x30, 8, 1 << 62), 0x010A),
    ("algorithm", put(0x38, 4, 2), 0x010B),
    ("measurement length", attribute("measurement_length", 63), 0x010D),
    ("additional length", attribute("additional_length", 31), 0x010E),
    ("tag", put(0x170, 16, 0), 0x010C),
    ("measurement area", attribute("measurement", END), 0x0104),
    ("additional area", attribute("additional", END - 16), 0x0105),
]
names = [name for name, _, _ in MISTAKES]


def spoiled(*mistakes: tuple[str, Callable[[Asking], None], int]) -> Asking:
    asking = Asking(bytearray(request(nonce=False).raw))
    for _, spoil, _ in mistakes:
        spoil(asking)
    return asking


@pytest.mark.parametrize("mistake", MISTAKES, ids=names)
def test_each_mistake_has_its_code(attested: Any, mistake: Any) -> None:
    reply = ask(attested, spoiled(mistake))
    assert (reply.cc, reply.rc) == (1, mistake[2])
    assert reply.block[0x148:0x158] == bytes(16), "no identifier on an error"
    assert attested.read(MEASUREMENT, 64) == bytes(64)


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.combinations(MISTAKES, 2)),
    ids=[f"{one}, {two}" for one, two in itertools.combinations(names, 2)],
)
def test_of_two_mistakes_the_earlier_is_named(attested: Any, first: Any, second: Any) -> None:
    assert ask(attested, spoiled(second, first)).rc == first[2]


@pytest.mark.parametrize("length", [0x187, 0x189, 0x40, 0x190])
def test_the_block_has_one_length(attested: Any, length: int) -> None:
    block = bytearray(spoiled(MISTAKES[0]).block())
    block[:2] = length.to_bytes(2, "big")
    assert attested.uvc(bytes(block)).rc == 0x0005, "before the token"


@pytest.mark.parametrize(
    ("edits", "rc"),
    [
        ([put(0x0C, 4, 0x17F)], 0x0107),
        ([put(0x0C, 4, 0)], 0x0107),
        ([put(0x0C, 4, 0xFFFF_FFFF)], 0x0107),
        ([put(0x27, 1, 2)], 0x0107),
        ([put(0x27, 1, 255)], 0x0107),
        ([put(0x0C, 4, 0x190)], 0x0109),  # room for a nonce, and the size says there is none
        ([put(0x2C, 4, 17)], 0x0109),
        ([put(0x2C, 4, 0)], 0x0109),
        ([put(0x30, 8, (1 << 64) - 1)], 0x010A),
        ([put(0x30, 8, FLAG_IMAGE_KEY ^ ((1 << 64) - 1))], 0x010A),
        ([put(0x38, 4, 0)], 0x010B),
    ],
)
def test_requests_that_the_unit_tests_know(attested: Any, edits: Any, rc: int) -> None:
    """pv-attest.c, and what follows from the one rule of 8.5."""
    asking = Asking(bytearray(request(nonce=False).raw.ljust(0x200, b"\0")))
    for edit in edits:
        edit(asking)
    assert ask(attested, asking).rc == rc


def test_a_minimal_request_that_nobody_sealed_is_judged_up_to_its_seal(attested: Any) -> None:
    """As the unit tests do, which have no cryptography."""
    raw = bytearray(0x180)
    struct.pack_into(">II", raw, 0x08, 0x100, 0x180)
    raw[0x27] = 1
    struct.pack_into(">IQI", raw, 0x2C, 64, FLAG_IMAGE_KEY, 1)
    assert ask(attested, Asking(raw)).rc == 0x010C
    assert ask(attested, Asking(raw, measurement_length=0)).rc == 0x010D
    assert ask(attested, Asking(raw, additional_length=0)).rc == 0x010E


# One guest serves all examples: a call that is refused changes nothing.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 0x180 * 8 - 1))
def test_no_flipped_bit_of_a_request_goes_unseen(attested: Any, bit: int) -> None:
    raw = bytearray(request(nonce=False).raw)
    raw[bit // 8] ^= 0x80 >> bit % 8
    reply = ask(attested, Asking(raw))
    assert reply.rc in {0x0106, 0x0107, 0x0108, 0x0109, 0x010A, 0x010B, 0x010C}


def test_a_request_for_another_machine_does_not_open(attested: Any) -> None:
    assert ask(attested, Asking(bytearray(request(hosts=[OTHER]).raw))).rc == 0x010C


def test_user_data_of_256_bytes_is_the_most(attested: Any) -> None:
    asked = request()
    got = evidence(attested, asked, bytes(range(256)))
    assert attestation.verify(asked, attested.image.header, got)


def test_a_request_may_cross_a_page(attested: Any) -> None:
    attested.secure(REQUEST - PAGE)
    asked = request()
    asking = Asking(bytearray(asked.raw), at=REQUEST - 0x40)
    ask(attested, asking).done()


def test_the_rest_of_a_request_is_asked_for_as_its_head_is(attested: Any) -> None:
    attested.secure(REQUEST - PAGE)
    asking = Asking(bytearray(request().raw), at=REQUEST - 0x40)
    attested.write(asking.at, bytes(asking.raw))
    attested.write(0x8000, asking.block())
    attested.export(REQUEST)
    left = attested.enter(Uvc(0x8000))
    assert isinstance(left, Fault)
    assert (left.code, left.address & ~0xFFF) == (0x3E, REQUEST)
    attested.secure(REQUEST)
    assert attested.run() == [{"cc": 0}]


@pytest.mark.parametrize("at", [END - 0x20, END - 0x40, END - 0x17F])
def test_a_request_that_begins_inside_and_ends_outside_is_not_accessible(attested: Any, at: int) -> None:
    attested.secure(END - PAGE)
    attested.write(at, request(nonce=False).raw[: END - at])
    assert attested.uvc(Asking(bytearray(), at=at).block()).rc == 0x0103


@pytest.mark.parametrize("page", [REQUEST, MEASUREMENT, ADDITIONAL])
def test_a_page_that_the_host_took_is_asked_for_and_the_call_done_again(attested: Any, page: int) -> None:
    asked = request()
    attested.write(REQUEST, asked.raw)
    attested.write(0x8000, Asking(bytearray(asked.raw)).block())
    attested.export(page)
    left = attested.enter(Uvc(0x8000), Read(0x8004, 2))
    assert isinstance(left, Fault)
    assert (left.code, left.address & ~0xFFF) == (0x3E, page)
    attested.secure(page)
    assert attested.run() == [{"cc": 0}, {"hex": "0001"}]
    got = attested.read(0x8148, 16), attested.read(MEASUREMENT, 64), attested.read(ADDITIONAL, 32)
    assert attestation.verify(asked, attested.image.header, Evidence(*got))


def test_a_host_sees_attestation_as_not_installed(guest: Any) -> None:
    assert guest.bench.call(0x188, 0x1020).rc == 0x0002


def test_the_guests_query_offers_version_1_and_the_key_of_the_image(guest: Any) -> None:
    reply = guest.call(0x120, 0x0001).done()
    assert reply.u(0xE0) == 1 << 63
    assert reply.u(0xE8) == FLAG_IMAGE_KEY
    assert reply.u(0x10) & 1 << (63 - 28)


def test_the_same_request_comes_of_the_same_seed_and_digest() -> None:
    assert request().raw == request().raw
    assert request().raw != request(digest=b"other").raw
    assert len(request(nonce=False).raw) == 0x180
    assert len(request().raw) == 0x190


def test_touching_nothing_else(attested: Any) -> None:
    """The areas get the measurement and the hash, the block its codes and the identifier."""
    attested.write(ADDITIONAL, b"\xee" * 64)
    asking = Asking(bytearray(request().raw), user=b"x" * 256)
    reply = ask(attested, asking).done()
    before = bytearray(asking.block())
    before[4:8] = reply.block[4:8]
    before[0x148:0x158] = reply.block[0x148:0x158]
    assert reply.block == bytes(before)
    assert attested.read(ADDITIONAL + 32, 32) == b"\xee" * 32
    assert attested.run(Touch(REQUEST)) == [{}]
