"""Set Parameters: each way to be wrong has its code, and of two the earlier check speaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.image import (
    PCF_BACKUP_KEY,
    SCF_KNOWN,
    Component,
    HostKey,
    Image,
    Refusal,
    Unsealed,
    build,
    host_key,
    unseal,
)
from protocol.arch.s390.image.header import Fixed, Secrets
from protocol.arch.s390.image.keys import gcm_seal, key_pair, scalar_from, wrap

Opened = Callable[[bytes], Unsealed | Refusal]

ONE = [Component(0x10000, b"program", 0x1)]
SIZE = 0x1A0 + 2 * 80 + 128 + 16


def changed(header: bytes, *edits: tuple[int, int, int]) -> bytes:
    """Put numbers into a header: offset, length in bytes, value."""
    raw = bytearray(header)
    for at, length, value in edits:
        raw[at : at + length] = value.to_bytes(length, "big")
    return bytes(raw)


def edit(at: int, value: int, length: int = 8) -> tuple[int, int, int]:
    return at, length, value


VERSION = edit(0x08, 0x200, 4)
MAGIC = edit(0x00, 0)
FLAGS = edit(0x38, 1 << 63)
NO_SLOTS = edit(0x20, 0)
LENGTH = edit(0x0C, SIZE + 1, 4)
AREA = edit(0x28, 127)
CUSTOMER = edit(0x40, 1, 1)
HOST_SLOT = edit(0x1F0, 0)
WRAPPED = edit(0x210, 0)
CIPHERTEXT = edit(SIZE - 0x90, 0)

# In the order of the checks.
SINGLE = [
    (VERSION, (0x0104, 0x0001)),
    (MAGIC, (0x0104, 0x0000)),
    (FLAGS, (0x0106, 0x0030)),
    (NO_SLOTS, (0x010A, 0x0040)),
    (LENGTH, (0x010A, 0x0031)),
    (AREA, (0x010A, 0x0039)),
    (CUSTOMER, (0x0108, 0x000B)),
    (HOST_SLOT, (0x0108, 0x0005)),
    (WRAPPED, (0x0108, 0x0006)),
    (CIPHERTEXT, (0x0108, 0x0007)),
]


def test_a_good_header_opens(image: Image, opened: Opened) -> None:
    got = opened(image.header)
    assert isinstance(got, Unsealed)
    assert got.cck == image.cck
    assert got.tag == image.header[-16:]
    assert got.pages == len(image.pages)


@pytest.mark.parametrize(("wrong", "codes"), SINGLE)
def test_one_mistake_has_its_codes(
    image: Image, opened: Opened, wrong: tuple[int, int, int], codes: tuple[int, int]
) -> None:
    assert opened(changed(image.header, wrong)) == Refusal(*codes)


@pytest.mark.parametrize(
    ("first", "second"),
    [(first, second) for at, first in enumerate(SINGLE) for second in SINGLE[at + 1 :]],
)
def test_of_two_mistakes_the_earlier_check_speaks(
    image: Image,
    opened: Opened,
    first: tuple[tuple[int, int, int], tuple[int, int]],
    second: tuple[tuple[int, int, int], tuple[int, int]],
) -> None:
    assert opened(changed(image.header, second[0], first[0])) == Refusal(*first[1])


@settings(max_examples=200)
@given(bit=st.integers(0, SIZE * 8 - 1))
@example(bit=0x1C * 8)  # reserved
@example(bit=0x38 * 8 + 34)  # a supported flag
@example(bit=0x1A0 * 8)  # the slot of another machine
@example(bit=SIZE * 8 - 1)  # the tag
def test_any_flipped_bit_is_refused_for_a_sensible_reason(image: Image, opened: Opened, bit: int) -> None:
    raw = bytearray(image.header)
    raw[bit // 8] ^= 0x80 >> bit % 8
    got = opened(bytes(raw))
    assert isinstance(got, Refusal)
    assert got in {Refusal(*codes) for _, codes in SINGLE}


@given(st.binary(max_size=0x400))
@example(b"")
def test_bytes_that_are_no_header_are_refused(opened: Opened, raw: bytes) -> None:
    assert opened(raw) == Refusal(0x0104, 0x0001)


@pytest.mark.parametrize("length", [0x40, 0x1A0, 0x1F0, SIZE - 1])
def test_a_header_given_with_too_short_a_length_is_a_length_mismatch(
    image: Image, opened: Opened, length: int
) -> None:
    assert opened(image.header[:length]) == Refusal(0x010A, 0x0031)


def test_a_header_given_with_too_long_a_length_is_a_length_mismatch(image: Image, opened: Opened) -> None:
    assert opened(image.header + bytes(8)) == Refusal(0x010A, 0x0031)
    longer = changed(image.header, edit(0x0C, 0x2008, 4)) + bytes(0x2008 - SIZE)
    assert opened(longer) == Refusal(0x010A, 0x0031)


@pytest.mark.parametrize("slots", [3, 4, 2**63, 2**64 - 1])
def test_more_slots_than_there_is_room_for_are_a_length_mismatch(
    image: Image, opened: Opened, slots: int
) -> None:
    assert opened(changed(image.header, edit(0x20, slots))) == Refusal(0x010A, 0x0031)


def test_an_image_for_another_machine_does_not_open_here(other: HostKey, opened: Opened) -> None:
    assert opened(build(ONE, seed=1, digest=b"", slots=[other]).header) == Refusal(0x0108, 0x0005)


def test_an_image_for_nobody_has_no_slots(opened: Opened) -> None:
    assert opened(build(ONE, seed=1, digest=b"", slots=[]).header) == Refusal(0x010A, 0x0040)


@pytest.mark.parametrize("bit", [n for n in range(64) if not 0x300050E3 >> (63 - n) & 1])
def test_every_flag_that_the_machine_does_not_offer_is_refused(
    host: HostKey, opened: Opened, bit: int
) -> None:
    image = build(ONE, seed=1, digest=b"", slots=[host], pcf=1 << (63 - bit))
    assert opened(image.header) == Refusal(0x0106, 0x0030)


def test_all_offered_flags_are_taken(host: HostKey, opened: Opened) -> None:
    got = opened(build(ONE, seed=1, digest=b"", slots=[host], pcf=0x300050E3, scf=SCF_KNOWN).header)
    assert isinstance(got, Unsealed)
    assert (got.pcf, got.scf) == (0x300050E3, SCF_KNOWN)


def test_an_unsupported_secret_flag_is_found_after_opening(host: HostKey, opened: Opened) -> None:
    header = build(ONE, seed=1, digest=b"", slots=[host], scf=1).header
    assert opened(header) == Refusal(0x0109, 0x0000)
    assert opened(changed(header, edit(len(header) - 8, 0))) == Refusal(0x0108, 0x0007)


def test_optional_items_are_not_taken(host: HostKey, opened: Opened) -> None:
    customer, key = key_pair(scalar_from(b"owner" * 20)), bytes(range(32))
    fixed = Fixed.unpack(build(ONE, seed=1, digest=b"", slots=[host]).header)
    aad = changed(fixed.pack(), (0x40, 160, int.from_bytes(customer.public, "big")))
    aad += wrap(key, customer.scalar, host).pack()
    secrets = Secrets(bytes(32), bytes(64), bytes(16), 0, items=1)
    area, tag = gcm_seal(key, fixed.iv, aad, secrets.pack())
    assert opened(aad + area + tag) == Refusal(0x010A, 0x0039)


class TestBackupKey:
    """A second key of the machine opens an image if, and only if, its owner allows that."""

    @pytest.fixture
    def backup(self) -> HostKey:
        return host_key(7, "backup")

    @pytest.mark.parametrize(
        ("slot", "pcf", "codes"),
        [
            ("backup", PCF_BACKUP_KEY, None),
            ("host", PCF_BACKUP_KEY, None),
            ("backup", 0, (0x0108, 0x0005)),
            ("other", PCF_BACKUP_KEY, (0x0108, 0x0034)),
        ],
    )
    def test_the_flag_decides(
        self, host: HostKey, backup: HostKey, slot: str, pcf: int, codes: tuple[int, int] | None
    ) -> None:
        named = {"host": host, "backup": backup, "other": host_key(7, "other")}
        image = build(ONE, seed=1, digest=b"", slots=[named[slot]], pcf=pcf)
        got = unseal(image.header, host, supported_pcf=PCF_BACKUP_KEY, supported_scf=0, backup=backup)
        if codes is not None:
            assert got == Refusal(*codes)
            return
        assert isinstance(got, Unsealed)
        assert got.key_hash == named[slot].public_hash, "evidence names the key that opened the image"

    def test_a_machine_without_one_reports_its_host_key(self, backup: HostKey, opened: Opened) -> None:
        image = build(ONE, seed=1, digest=b"", slots=[backup], pcf=PCF_BACKUP_KEY)
        assert opened(image.header) == Refusal(0x0108, 0x0005)
