"""The bytes of an SE header stand where the sheet says (8.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390.image import PCF_ALLOW_DUMP, PCF_BACKUP_KEY, PCF_PLAIN_COMPONENTS, HostKey, Image
from protocol.arch.s390.image.header import (
    FIXED_BYTES,
    HEADER_BYTES_MAX,
    SECRETS_BYTES,
    SLOT_BYTES,
    SLOTS_MAX,
    Fixed,
    Secrets,
    Slot,
    header_bytes,
    unpack_slots,
)


def test_the_parts_have_the_documented_lengths() -> None:
    assert (FIXED_BYTES, SLOT_BYTES, SECRETS_BYTES) == (0x1A0, 80, 128)
    assert header_bytes(1) == 0x280
    assert header_bytes(SLOTS_MAX) <= HEADER_BYTES_MAX < header_bytes(SLOTS_MAX + 1)


def test_flag_bits_count_from_the_most_significant() -> None:
    assert PCF_ALLOW_DUMP == 0x20000000
    assert PCF_PLAIN_COMPONENTS == 0x10000000
    assert PCF_BACKUP_KEY == 0x2


def test_every_field_has_its_offset(image: Image, host: HostKey, other: HostKey) -> None:
    raw = image.header

    def number(at: int, length: int) -> int:
        return int.from_bytes(raw[at : at + length], "big")

    assert raw[:8] == b"IBMSecEx"
    assert number(0x08, 4) == 0x100
    assert number(0x0C, 4) == len(raw) == 0x1A0 + 2 * 80 + 128 + 16
    assert raw[0x1C:0x20] == bytes(4)
    assert number(0x20, 8) == 2
    assert number(0x28, 8) == 128
    assert number(0x30, 8) == len(image.pages) == 3
    assert number(0x38, 8) == 0
    assert raw[0x1A0:0x1C0] == other.public_hash
    assert raw[0x1F0:0x210] == host.public_hash


@given(st.binary(min_size=FIXED_BYTES, max_size=FIXED_BYTES))
def test_the_fixed_part_survives_a_round_trip(raw: bytes) -> None:
    assert Fixed.unpack(raw).pack() == raw


@given(st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES), st.integers(0, 4))
def test_slots_survive_a_round_trip(raw: bytes, count: int) -> None:
    assert Slot.unpack(raw).pack() == raw
    assert b"".join(slot.pack() for slot in unpack_slots(raw * count)) == raw * count


@given(st.binary(min_size=SECRETS_BYTES, max_size=SECRETS_BYTES))
def test_the_encrypted_area_survives_a_round_trip(raw: bytes) -> None:
    assert Secrets.unpack(raw).pack() == raw
