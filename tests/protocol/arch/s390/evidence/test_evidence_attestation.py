"""The owner's side of attestation, held to the layouts and to published answers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.evidence import attestation as form
from protocol.arch.s390.evidence import request as requests
from protocol.arch.s390.evidence.attestation import Evidence, ImageTags, build, measure, verify
from protocol.arch.s390.evidence.request import Head, RequestError, unseal
from protocol.arch.s390.image import Component, host_key
from protocol.arch.s390.image import build as build_image

HOST, OTHER = host_key(1, "host"), host_key(1, "other")
HEADER = build_image([Component(0x10000, b"x", 1)], seed=1, digest=b"", slots=[HOST]).header
SEALED = build([HOST], seed=1, digest=b"").raw
TAGS = ImageTags(b"\1" * 64, b"\2" * 64, b"\3" * 64, b"\4" * 16)


@pytest.mark.parametrize(
    ("user", "nonce", "additional", "expected"),
    [
        (b"\7" * 256, b"\x08" * 16, b"\x09" * 128, "88794c62cce7bcf26216deb3f48f13fe"),
        (b"\7" * 256, None, b"\x09" * 128, "fbd4f738a390edd9470"),
        (b"", None, b"\x09" * 128, "63671fbf295036eb1071f7182e7d6343"),
    ],
)
def test_the_measurement_gives_the_published_answers(
    user: bytes, nonce: bytes | None, additional: bytes, expected: str
) -> None:
    """Known answers of s390-tools `rust/pv/src/uvattest/attest.rs` (their first bytes)."""
    assert measure(b"\x41" * 64, TAGS, b"\5" * 16, user, nonce, additional).hex().startswith(expected[:18])


def test_a_request_has_the_documented_layout() -> None:
    raw = build([HOST, OTHER], seed=1, digest=b"", nonce=False).raw
    assert raw[:8] == bytes(8)
    assert struct.unpack_from(">II", raw, 8) == (0x100, len(raw))
    assert len(raw) == 0xE0 + 2 * 80 + 64 + 16
    assert (raw[0x27], struct.unpack_from(">I", raw, 0x2C)[0]) == (2, 64)
    assert struct.unpack_from(">QII", raw, 0x30) == (1 << 61, 1, 0)
    assert raw[0xE0:0x100] == HOST.public_hash
    assert raw[0x130:0x150] == OTHER.public_hash


@pytest.mark.parametrize("nonce", [False, True])
@pytest.mark.parametrize("machine", [HOST, OTHER])
def test_each_machine_that_has_a_slot_opens_it(nonce: bool, machine: object) -> None:
    asked = build([OTHER, HOST], seed=1, digest=b"", nonce=nonce)
    head = Head.read(asked.raw)
    opened = unseal(asked.raw, head, form.KEYS_AT, machine)  # type: ignore[arg-type]
    assert opened == asked.measurement_key + (asked.nonce or b"")
    assert (asked.nonce is not None) == nonce


def test_no_other_machine_does() -> None:
    raw = build([OTHER], seed=1, digest=b"").raw
    assert unseal(raw, Head.read(raw), form.KEYS_AT, HOST) is None


@settings(max_examples=50)
@given(bit=st.integers(0, 0x190 * 8 - 1))
def test_a_flipped_bit_anywhere_keeps_it_shut(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    head = Head.read(bytes(changed))._replace(slots=1, area=80)  # a wrong shape is found before
    assert unseal(bytes(changed), head, form.KEYS_AT, HOST) is None


def test_a_request_needs_a_machine() -> None:
    with pytest.raises(RequestError, match="0 host keys"):
        build([], seed=1, digest=b"")
    with pytest.raises(RequestError, match="1 to 255"):
        build([HOST] * 256, seed=1, digest=b"")


@pytest.mark.slow
def test_a_request_has_room_for_255_machines() -> None:
    assert len(build([HOST] * 255, seed=1, digest=b"", nonce=True).raw) == form.REQUEST_MAX


class TestVerify:
    def evidence(self, asked: form.Request, user: bytes = b"u") -> Evidence:
        uid, additional = b"\5" * 16, HOST.public_hash
        tags = ImageTags.of_header(HEADER)
        made = measure(asked.measurement_key, tags, uid, user, asked.nonce, additional)
        return Evidence(uid, made, additional, user)

    def test_takes_what_answers_the_request(self) -> None:
        asked = build([HOST], seed=1, digest=b"")
        assert verify(asked, HEADER, self.evidence(asked))

    def test_refuses_additional_data_that_nobody_asked_for(self) -> None:
        asked = build([HOST], seed=1, digest=b"", flags=0)
        assert not verify(asked, HEADER, self.evidence(asked))
        assert form.image_key_hash(asked, self.evidence(asked)) is None

    def test_tells_user_data_from_additional_data(self) -> None:
        """The lengths are in the measurement: no byte can move from one to the other."""
        asked = build([HOST], seed=1, digest=b"", nonce=False)
        got = self.evidence(asked, b"u" * 8)
        moved = Evidence(got.uid, got.measurement, b"u" + got.additional[:31], b"u" * 7)
        assert not verify(asked, HEADER, moved)

    def test_the_tags_are_those_of_the_header(self) -> None:
        assert ImageTags.of_header(HEADER).pack() == HEADER[0xE0:0x1A0] + HEADER[-16:]


def test_flags_have_their_sizes() -> None:
    assert form.additional_bytes(0) == 0
    assert form.additional_bytes(form.FLAG_NONCE) == 0
    assert form.additional_bytes((1 << 64) - 1) == 32 + 32 + 64 + 320


def test_the_head_comes_back() -> None:
    raw = build([HOST], seed=1, digest=b"").raw
    head = Head.read(raw)
    assert (head.version, head.length, head.slots, head.area) == (requests.VERSION_1, len(raw), 1, 80)
    assert head.iv == raw[0x10:0x1C]
