"""Set Parameters, Unpack, Verify, with images as an owner builds them: sections 3.5 and 8.1 of the sheet."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from driver import Json
from s390_blocks import LOAD, MIB, NOT_MAPPED, OPERATING, PAGE
from s390_field import Host
from s390_guest import IMAGE_AT, Image, SecureGuest, boot_guest, plain_image, text_of

TWO_COMPONENTS: list[Json] = [
    {"gaddr": "0x10000", "hex": b"first".hex(), "tweak": "0x1"},
    {"gaddr": "0x40000", "len": 2 * PAGE + 1, "tweak": "0x2000000000000000"},
]

PLD, ALD, TLD = 0x0E0, 0x120, 0x160  # offsets of the digests in the header


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A configuration with a CPU that waits for its image."""
    return SecureGuest.create(host)


# -- the owner's workbench ----------------------------------------


def test_an_image_has_the_header_of_section_8_1(raw: Host) -> None:
    image = Image.build(raw)
    header = image.header
    assert header[:8] == b"IBMSecEx"
    assert int.from_bytes(header[0x08:0x0C], "big") == 0x100
    assert int.from_bytes(header[0x0C:0x10], "big") == len(header)
    assert int.from_bytes(header[0x20:0x28], "big") == 1, "one key slot"
    assert int.from_bytes(header[0x28:0x30], "big") == 128
    assert int.from_bytes(header[0x30:0x38], "big") == len(image.pages)
    assert len(header) == 0x1A0 + 80 + 128 + 16


def test_the_digests_of_the_header_are_those_of_the_pages(raw: Host) -> None:
    """8.1: SHA-512 over the encrypted pages, their addresses and their tweaks, in load order."""
    image = Image.build(raw, TWO_COMPONENTS)
    pages, addresses, tweaks = (hashlib.sha512() for _ in range(3))
    for gaddr, tweak, content in image.pages:
        pages.update(content)
        addresses.update(gaddr.to_bytes(8, "big"))
        tweaks.update(tweak[0].to_bytes(8, "big") + tweak[1].to_bytes(8, "big"))
    header = image.header
    for at, digest in ((PLD, pages), (ALD, addresses), (TLD, tweaks)):
        assert header[at : at + 64] == digest.digest()


def test_components_are_padded_to_pages_and_listed_in_load_order(raw: Host) -> None:
    image = Image.build(raw, TWO_COMPONENTS)
    assert [page[0] for page in image.pages] == [0x10000, 0x40000, 0x41000, 0x42000]
    assert [page[1] for page in image.pages] == [
        (1, 0),
        (0x2000000000000000, 0),
        (0x2000000000000000, 0x1000),
        (0x2000000000000000, 0x2000),
    ]
    assert {len(page[2]) for page in image.pages} == {PAGE}


def test_no_page_of_an_image_is_plain_and_no_two_are_alike(raw: Host) -> None:
    image = Image.build(raw, [{"gaddr": "0x10000", "len": 4 * PAGE}])
    contents = {page[2] for page in image.pages}
    assert len(contents) == 4
    assert bytes(PAGE) not in contents


def test_an_image_depends_on_the_seed_and_the_request_only(s390: Any) -> None:
    first, second, third = s390(), s390(), s390(seed=7)
    second.init()
    boot_guest(second)
    assert Image.build(first) == Image.build(second)
    assert Image.build(first) != Image.build(third)
    assert Image.build(first, plain_image(1)) != Image.build(first)


def test_the_workbench_does_not_touch_the_machine(raw: Host) -> None:
    Image.build(raw)
    assert raw.alloc() == MIB
    assert raw.books()["te"]["configs"] == 0


# -- success ----------------------------------------


def test_a_guest_finds_its_image_decrypted(host: Host, guest: SecureGuest) -> None:
    guest.load().start()
    for page in range(2):
        assert guest.fetch(IMAGE_AT + page * PAGE) == text_of(page)


def test_components_far_apart_are_loaded(host: Host, guest: SecureGuest) -> None:
    guest.load(Image.build(host, TWO_COMPONENTS)).start()
    assert guest.fetch(0x10000, 8) == b"first\0\0\0"
    assert guest.fetch(0x42000) == bytes(PAGE)


def test_an_unpacked_page_is_secure_at_once(host: Host, guest: SecureGuest) -> None:
    image = Image.build(host)
    guest.set_params(image.header).done()
    gaddr, tweak, content = image.pages[0]
    page = guest.back(gaddr, content)
    assert not host.is_secure(page)
    guest.unpack(gaddr, tweak).done()
    assert host.is_secure(page)
    assert host.books()["secure_pages"] == 1


def test_a_header_for_several_machines_fits_each_of_them(host: Host, guest: SecureGuest) -> None:
    guest.load(Image.build(host, keys=["other", "host"])).start()
    assert guest.fetch(IMAGE_AT) == text_of(0)


def test_the_supported_control_flags_are_accepted(host: Host, guest: SecureGuest) -> None:
    guest.set_params(Image.build(host, pcf="0x20000000").header).done()


def test_the_header_is_virtual_in_the_home_space(host: Host) -> None:
    """2.1 I: two pages that are neighbours in the home space only."""
    space = host.use_home()
    guest = SecureGuest.create(host)
    header = Image.build(host).header
    first, second = host.alloc(3 * PAGE), host.alloc()
    at = host.to_home(first, 2 * PAGE)
    space.map(at + PAGE, second)
    host.write(first + PAGE - 100, header[:100])
    host.write(second, header[100:])
    guest.set_params(header, at=at + PAGE - 100).done()


# -- set parameters refused ----------------------------------------


def test_an_image_for_another_machine_is_refused(host: Host, guest: SecureGuest) -> None:
    guest.set_params(Image.build(host, keys=["other"]).header).refused(0x0108, 0x0005)


def test_an_unsupported_plaintext_control_flag_is_refused(host: Host, guest: SecureGuest) -> None:
    guest.set_params(Image.build(host, pcf="0x4").header).refused(0x0106, 0x0030)


def test_an_unsupported_version_is_refused(host: Host, guest: SecureGuest) -> None:
    header = bytearray(Image.build(host).header)
    header[0x08:0x0C] = (0x200).to_bytes(4, "big")
    guest.set_params(bytes(header)).refused(0x0104, 0x0001)


@pytest.mark.parametrize("off_by", [-16, -1, 1, 16])
def test_a_length_that_is_not_the_headers_own_is_refused(host: Host, guest: SecureGuest, off_by: int) -> None:
    header = Image.build(host).header
    guest.set_params(header, len(header) + off_by).refused(0x010A, 0x0031)


def test_a_header_without_key_slots_is_refused(host: Host, guest: SecureGuest) -> None:
    """3.5: 0x010A with rrc 0x0040; that no slot matches (0x0108) is just as true."""
    header = bytearray(Image.build(host).header)
    header[0x20:0x28] = bytes(8)
    reply = guest.set_params(bytes(header)).refused()
    assert (reply.rc, reply.rrc) in ((0x010A, 0x0040), (0x010A, 0x0031), (0x0108, 0x0005))


@pytest.mark.parametrize(
    "at",
    [0x010, 0x030, 0x038, 0x041, PLD, ALD, TLD, 0x1A0 + 32, 0x1A0 + 64, 0x1A0 + 80, -17, -1],
    ids=hex,
)
def test_a_header_that_was_tampered_with_is_refused(host: Host, guest: SecureGuest, at: int) -> None:
    """8.1: all before the encrypted area is authenticated with it. The codes are not all known."""
    right = Image.build(host).header
    header = bytearray(right)
    header[at] ^= 0x01
    guest.set_params(bytes(header)).refused()
    guest.set_params(right).done()


def test_a_header_that_is_not_mapped_is_an_rc_and_no_exception(host: Host) -> None:
    """3.5: 0x0103, also if a later part is inaccessible only."""
    host.use_home()
    guest = SecureGuest.create(host)
    header = Image.build(host).header
    page = host.alloc()
    at = host.to_home(page)
    host.write(page + PAGE - 100, header[:100])
    guest.set_params(header, at=at + PAGE - 100).refused(0x0103)
    guest.set_params(header, at=at + PAGE).refused(0x0103)
    whole = host.alloc()
    host.write(whole, header)
    guest.set_params(header, at=host.to_home(whole)).done()


def test_a_header_in_storage_that_is_not_the_hosts_is_refused(host: Host, guest: SecureGuest) -> None:
    guest.set_params(Image.build(host).header, at=guest.plan["base"]).refused()


# -- unpack refused ----------------------------------------


def test_unpack_wants_parameters_first(host: Host, guest: SecureGuest) -> None:
    """5.2; the code is not known."""
    gaddr, tweak, content = Image.build(host).pages[0]
    page = guest.back(gaddr, content)
    guest.unpack(gaddr, tweak).refused()
    assert host.read(page) == content


def test_unpack_of_a_page_that_is_not_mapped_can_be_repeated(host: Host, guest: SecureGuest) -> None:
    """3.5: 0x010A; fault it in and retry."""
    image = Image.build(host)
    guest.set_params(image.header).done()
    gaddr, tweak, _ = image.pages[0]
    guest.unpack(gaddr, tweak).refused(NOT_MAPPED)
    guest.space.page_entry(gaddr)
    guest.unpack(gaddr, tweak).refused(NOT_MAPPED)
    guest.unpack_all(image)
    guest.verify().done()


def test_unpack_of_a_page_that_is_not_writable_can_be_repeated(host: Host, guest: SecureGuest) -> None:
    image = Image.build(host)
    guest.set_params(image.header).done()
    gaddr, tweak, content = image.pages[0]
    page = host.alloc()
    host.write(page, content)
    guest.space.map(gaddr, page, protect=True)
    guest.unpack(gaddr, tweak).refused(NOT_MAPPED)
    assert host.read(page) == content
    guest.space.map(gaddr, page)
    guest.unpack_all(image)
    guest.verify().done()


def test_unpack_behind_the_guests_storage_is_refused(host: Host, guest: SecureGuest) -> None:
    image = Image.build(host)
    guest.set_params(image.header).done()
    page = guest.back(guest.plan["len"], image.pages[0][2])
    guest.unpack(guest.plan["len"], (1, 0)).refused()
    assert host.read(page) == image.pages[0][2]


def test_unpack_into_a_donated_page_is_refused(host: Host, guest: SecureGuest) -> None:
    image = Image.build(host)
    guest.set_params(image.header).done()
    guest.space.map(IMAGE_AT, guest.plan["base"])
    guest.unpack(IMAGE_AT, (1, 0)).refused()
    assert host.is_secure(guest.plan["base"])


# -- verify refused ----------------------------------------


def load_changed(guest: SecureGuest, pages: list[Any]) -> None:
    """Unpack `pages` with the header of the right image."""
    guest.set_params(Image.build(guest.host).header).done()
    guest.unpack_all(Image(b"", pages))


def test_a_modified_page_is_found(host: Host, guest: SecureGuest) -> None:
    pages = Image.build(host).pages
    gaddr, tweak, content = pages[1]
    changed = content[:77] + bytes([content[77] ^ 0x10]) + content[78:]
    load_changed(guest, [pages[0], (gaddr, tweak, changed)])
    guest.verify().refused(0x0102, 0x001B)


def test_a_wrong_tweak_is_found(host: Host, guest: SecureGuest) -> None:
    pages = Image.build(host).pages
    load_changed(guest, [pages[0], (pages[1][0], (2, 0x1000), pages[1][2])])
    guest.verify().refused(0x0102, 0x001C)


def test_a_wrong_address_is_found(host: Host, guest: SecureGuest) -> None:
    pages = Image.build(host).pages
    load_changed(guest, [pages[0], (0x30000, pages[1][1], pages[1][2])])
    guest.verify().refused(0x0102, 0x001A)


def test_a_missing_page_is_found(host: Host, guest: SecureGuest) -> None:
    load_changed(guest, Image.build(host).pages[:1])
    guest.verify().refused(0x0102, 0x001D)


def test_an_additional_page_is_found(host: Host, guest: SecureGuest) -> None:
    pages = Image.build(host).pages
    load_changed(guest, [*pages, (0x30000, (1, 0x2000), bytes(PAGE))])
    reply = guest.verify().refused(0x0102)
    assert reply.rrc in (0x001A, 0x001B, 0x001C, 0x001D)


def test_pages_in_another_order_are_found(host: Host, guest: SecureGuest) -> None:
    """8.1: the digests are over the load order."""
    load_changed(guest, list(reversed(Image.build(host).pages)))
    assert guest.verify().refused(0x0102).rrc in (0x001A, 0x001B, 0x001C)


def test_verify_wants_parameters_first(host: Host, guest: SecureGuest) -> None:
    guest.verify().refused()


@pytest.mark.parametrize("state", [LOAD, OPERATING])
@pytest.mark.parametrize("stage", ["created", "params", "unpacked", "mismatch"])
def test_a_guest_that_is_not_verified_does_not_start(
    host: Host, guest: SecureGuest, stage: str, state: int
) -> None:
    """2.3 [I]; the code is not known."""
    image = Image.build(host)
    if stage != "created":
        guest.set_params(image.header).done()
    if stage == "unpacked":
        guest.unpack_all(image)
    if stage == "mismatch":
        guest.unpack_all(Image(b"", image.pages[:1]))
        guest.verify().refused(0x0102)
    guest.set_state(state).refused()


def test_with_dat_off_the_header_is_at_a_real_address(host: Host, guest: SecureGuest) -> None:
    """3.4 rule 2: every field that is otherwise home-virtual is a real address."""
    lowcore = host.alloc(2 * PAGE, align=2 * PAGE)
    header = Image.build(host).header
    host.write(lowcore + 0x400, header)
    host.cpu(0, prefix=hex(lowcore))
    guest.set_params(header, at=0x400).done()
