"""Pages outside the guest: encrypted, counted into digests, exported and taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.image import (
    Digests,
    Image,
    Refusal,
    Unsealed,
    decrypt_page,
    encrypt_page,
    export_key,
    final_tweak,
    seal_page,
    tweak_component,
    unseal_page,
)
from protocol.arch.s390.image.pages import GENERATIONS_MAX, RRC_ALD, RRC_PAGES, RRC_PLD, RRC_TLD, Tweak

XTS_KEY = bytes(range(64))
SEAL_KEY = export_key(7, 0x1234)

doublewords = st.integers(0, 2**64 - 1)
page_addresses = st.integers(0, 2**52 - 1).map(lambda number: number << 12)
generations = st.integers(0, GENERATIONS_MAX - 1)
contents = st.binary(min_size=16, max_size=16).map(lambda block: (block * 256)[:4096])


@given(st.tuples(doublewords, doublewords), contents)
def test_an_image_page_comes_back_with_its_tweak_only(tweak: Tweak, plain: bytes) -> None:
    encrypted = encrypt_page(XTS_KEY, tweak, plain)
    assert len(encrypted) == 4096
    assert encrypted != plain
    assert decrypt_page(XTS_KEY, tweak, encrypted) == plain
    assert decrypt_page(XTS_KEY, (tweak[0], tweak[1] ^ 0x1000), encrypted) != plain
    assert decrypt_page(XTS_KEY, (tweak[0] ^ 1, tweak[1]), encrypted) != plain


@given(page_addresses, generations, contents)
def test_an_exported_page_comes_back(gaddr: int, generation: int, page: bytes) -> None:
    sealed, tag = seal_page(SEAL_KEY, gaddr, generation, page)
    assert (len(sealed), len(tag)) == (4096, 16)
    assert sealed != page
    assert unseal_page(SEAL_KEY, gaddr, generation, sealed, tag) == page


@given(contents, st.integers(0, 4096 * 8 - 1))
def test_an_exported_page_with_a_flipped_bit_is_refused(page: bytes, bit: int) -> None:
    sealed, tag = seal_page(SEAL_KEY, 0x1000, 5, page)
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    assert unseal_page(SEAL_KEY, 0x1000, 5, bytes(changed), tag) is None


def test_an_older_export_or_another_place_is_refused() -> None:
    sealed, tag = seal_page(SEAL_KEY, 0x1000, 5, bytes(4096))
    assert unseal_page(SEAL_KEY, 0x1000, 6, sealed, tag) is None
    assert unseal_page(SEAL_KEY, 0x2000, 5, sealed, tag) is None
    assert unseal_page(export_key(7, 0x1235), 0x1000, 5, sealed, tag) is None


@given(page_addresses, generations, contents)
def test_an_exported_page_opens_with_its_component_and_the_nonce(
    gaddr: int, generation: int, page: bytes
) -> None:
    """The owner has no more than that, the component out of a dump's storage state."""
    sealed, _ = seal_page(SEAL_KEY, gaddr, generation, page)
    component = tweak_component(gaddr, generation)
    assert component[:4] != b"\xff" * 4, "that would be a special component"
    tweak = bytes(one | other for one, other in zip(component, SEAL_KEY.nonce, strict=True))
    decryptor = Cipher(algorithms.AES(SEAL_KEY.xts_key), modes.XTS(tweak)).decryptor()
    assert decryptor.update(sealed) == page


@given(st.sets(st.tuples(page_addresses, generations), min_size=2, max_size=2))
def test_no_two_exports_share_a_tweak(exports: set[tuple[int, int]]) -> None:
    """Component OR nonce: where the nonce had bits in the component's place, two could fall together."""
    one, other = (final_tweak(tweak_component(*export), SEAL_KEY.nonce) for export in exports)
    assert one != other


def test_two_exports_of_the_same_page_look_different() -> None:
    first, _ = seal_page(SEAL_KEY, 0x1000, 5, bytes(4096))
    second, _ = seal_page(SEAL_KEY, 0x1000, 6, bytes(4096))
    assert first != second


def test_the_digests_are_sha512_over_pages_addresses_and_tweaks() -> None:
    digests = Digests()
    digests.add(0x1000, (0xAB, 0), b"p" * 4096)
    digests.add(0x2000, (0xAB, 0x1000), b"q" * 4096)
    assert digests.pages == 2
    assert digests.pld == hashlib.sha512(b"p" * 4096 + b"q" * 4096).digest()
    assert digests.ald == hashlib.sha512((0x1000).to_bytes(8, "big") + (0x2000).to_bytes(8, "big")).digest()
    tweaks = (0xAB << 64).to_bytes(16, "big") + ((0xAB << 64) + 0x1000).to_bytes(16, "big")
    assert digests.tld == hashlib.sha512(tweaks).digest()


@pytest.fixture(scope="module")
def expected(image: Image, opened: Callable[[bytes], Unsealed | Refusal]) -> Unsealed:
    """What Set Parameters took out of the header."""
    got = opened(image.header)
    assert isinstance(got, Unsealed)
    return got


def unpacked(image: Image) -> Digests:
    """Unpack the whole image as it should be."""
    digests = Digests()
    for page in image.pages:
        digests.add(page.gaddr, page.tweak, page.data)
    return digests


def test_an_image_unpacked_in_order_verifies(image: Image, expected: Unsealed) -> None:
    assert unpacked(image).compare(expected) is None


def test_pages_in_another_order_do_not_verify(image: Image, expected: Unsealed) -> None:
    digests = Digests()
    for page in reversed(image.pages):
        digests.add(page.gaddr, page.tweak, page.data)
    assert digests.compare(expected) == RRC_ALD


def test_a_missing_page_is_reported_as_a_wrong_number(image: Image, expected: Unsealed) -> None:
    digests = Digests()
    for page in image.pages[:-1]:
        digests.add(page.gaddr, page.tweak, page.data)
    assert digests.compare(expected) == RRC_PAGES


@pytest.mark.parametrize(
    ("what", "rrc"),
    [("gaddr", RRC_ALD), ("data", RRC_PLD), ("tweak", RRC_TLD)],
)
def test_one_wrong_page_has_its_own_reason(image: Image, expected: Unsealed, what: str, rrc: int) -> None:
    digests = Digests()
    for number, page in enumerate(image.pages):
        wrong = number == 1
        digests.add(
            page.gaddr + 0x1000 * (wrong and what == "gaddr"),
            (page.tweak[0], page.tweak[1] + 0x1000) if wrong and what == "tweak" else page.tweak,
            bytes(4096) if wrong and what == "data" else page.data,
        )
    assert digests.compare(expected) == rrc


@pytest.mark.parametrize(
    ("wrong", "rrc"),
    [
        (("pages", "ald", "pld", "tld"), RRC_PAGES),
        (("ald", "pld", "tld"), RRC_ALD),
        (("pld", "tld"), RRC_PLD),
        (("tld",), RRC_TLD),
    ],
)
def test_of_several_mismatches_the_first_is_named(
    image: Image, expected: Unsealed, wrong: tuple[str, ...], rrc: int
) -> None:
    for field in wrong:
        expected = (
            replace(expected, pages=expected.pages + 1)
            if field == "pages"
            else replace(expected, **{field: bytes(64)})  # type: ignore[arg-type]
        )
    assert unpacked(image).compare(expected) == rrc


@settings(max_examples=30)
@given(data=st.data())
def test_any_flipped_bit_of_any_page_fails_verification(
    image: Image, expected: Unsealed, data: st.DataObject
) -> None:
    target = data.draw(st.integers(0, len(image.pages) - 1))
    bit = data.draw(st.integers(0, 4096 * 8 - 1))
    digests = Digests()
    for number, page in enumerate(image.pages):
        changed = bytearray(page.data)
        if number == target:
            changed[bit // 8] ^= 1 << bit % 8
        digests.add(page.gaddr, page.tweak, bytes(changed))
    assert digests.compare(expected) == RRC_PLD
