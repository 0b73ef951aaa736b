"""One bit of an image is another: Set Parameters, Unpack or Verify says so, with the code that it has to be.

Every bit of the header, of a key slot, of a page, of a page's address and tweak, on the machine itself. A
sample of the same through the console at every depth is in `tests/conformance/test_s390_image_flips.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest_bench import MIB, PAGE, Bench, Guest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.image import Component, Image
from protocol.arch.s390.image.build import ImagePage

SLOT, AREA = 0x1A0, 0x1F0  # of a header with one slot
HEADER_BYTES = AREA + 128 + 16
SUPPORTED_PCF = 0x3000_50E3
SET_PARAMS, UNPACK, VERIFY = 0x0300, 0x0301, 0x0302
DONE = (VERIFY, 0x0001, 0)

Ended = tuple[int, int, int]  # the last call, rc, rrc

ONE = [Component(0x10000, b"a kernel, " * 1000, 0x7)]


def flipped(data: bytes, bit: int) -> bytes:
    """Bit 0 is the leftmost."""
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def wanted_of_a_header(bit: int) -> tuple[int, int]:
    """rc and rrc for one changed bit, by the field that it is in: section 8.1 of the fact sheet."""
    at = bit // 8
    fields = (
        (0x08, 0x0104, 0x0000),  # magic
        (0x0C, 0x0104, 0x0001),  # version
        (0x10, 0x010A, 0x0031),  # length
        (0x20, 0x0108, 0x0007),  # initialisation vector: authenticated
        (0x28, 0x010A, 0x0031),  # one more slot, or many: no room
        (0x30, 0x010A, 0x0039),  # size of the encrypted area
        (0x38, 0x0108, 0x0007),  # number of pages
        (0x40, 0x0106, 0x0030),  # plaintext flags
        (0xE0, 0x0108, 0x000B),  # the owner's public key: no point of the curve
        (SLOT, 0x0108, 0x0007),  # digests
        (SLOT + 32, 0x0108, 0x0005),  # hash of the host key
        (AREA, 0x0108, 0x0006),  # wrapped key, its tag
        (HEADER_BYTES, 0x0108, 0x0007),  # encrypted area, tag
    )
    rc, rrc = next((rc, rrc) for end, rc, rrc in fields if at < end)
    if 0x38 <= at < 0x40 and SUPPORTED_PCF >> (63 - bit % 64) & 1:
        return 0x0108, 0x0007  # a flag that the machine knows
    if bit == 0x28 * 8 - 1:
        return 0x010A, 0x0040  # no slot is left
    return rc, rrc


class Owner:
    """A host that loads one image after the other, each for a configuration of its own."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.image = self.bench.image(ONE, pcf=0)
        assert len(self.image.header) == HEADER_BYTES

    def load(self, header: bytes, pages: tuple[ImagePage, ...]) -> Ended:
        bench = self.bench
        guest = Guest.create(bench, 2, 0)
        try:
            for code, rc, rrc in self._calls(guest, header, pages):
                ended = code, rc, rrc
                if rc != 1:
                    break
            return ended
        finally:
            bench.call(0x40, 0x0101, q18=guest.handle).done()

    def _calls(self, guest: Guest, header: bytes, pages: tuple[ImagePage, ...]) -> Iterator[Ended]:
        bench = self.bench
        at = bench.alloc()
        assert bench.uv.write(at, header) is None
        asked = bench.call(0x50, SET_PARAMS, q18=guest.handle, q20=at, w28=len(header))
        yield SET_PARAMS, asked.rc, asked.u(6, 2)
        for page in pages:
            if page.gaddr < 2 * MIB:
                where = guest.back(page.gaddr)
                if bench.uv.refusal(where, PAGE) is None:
                    assert bench.uv.write(where, page.data) is None
            tweak, offset = page.tweak
            done = bench.call(0x50, UNPACK, q18=guest.handle, q20=page.gaddr, q28=tweak, q30=offset)
            yield UNPACK, done.rc, done.u(6, 2)
        verified = bench.call(0x40, VERIFY, q18=guest.handle)
        yield VERIFY, verified.rc, verified.u(6, 2)


@pytest.fixture(scope="module")
def owner() -> Owner:
    return Owner()


def header_flip_is_found(owner: Owner, bit: int) -> None:
    image = owner.image
    assert owner.load(flipped(image.header, bit), image.pages) == (SET_PARAMS, *wanted_of_a_header(bit)), bit


def with_page(image: Image, number: int, page: ImagePage) -> tuple[ImagePage, ...]:
    return (*image.pages[:number], page, *image.pages[number + 1 :])


def test_the_image_as_it_is_can_be_loaded(owner: Owner) -> None:
    assert owner.load(owner.image.header, owner.image.pages) == DONE


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bit=st.integers(0, HEADER_BYTES * 8 - 1))
def test_a_bit_of_the_header_or_a_slot_is_found_by_set_params(owner: Owner, bit: int) -> None:
    header_flip_is_found(owner, bit)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_bit_of_the_header_is_found(owner: Owner, part: int) -> None:
    for bit in range(part, HEADER_BYTES * 8, 8):
        header_flip_is_found(owner, bit)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(number=st.integers(0, 2), bit=st.integers(0, PAGE * 8 - 1))
def test_a_bit_of_a_page_is_found_by_verify(owner: Owner, number: int, bit: int) -> None:
    page = owner.image.pages[number]
    changed = ImagePage(page.gaddr, page.tweak, flipped(page.data, bit))
    assert owner.load(owner.image.header, with_page(owner.image, number, changed)) == (VERIFY, 0x0102, 0x001B)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_every_bit_of_a_tweak_is_found_by_verify(owner: Owner, number: int) -> None:
    page = owner.image.pages[number]
    for bit in range(64):
        for tweak in ((page.tweak[0] ^ 1 << bit, page.tweak[1]), (page.tweak[0], page.tweak[1] ^ 1 << bit)):
            changed = with_page(owner.image, number, ImagePage(page.gaddr, tweak, page.data))
            assert owner.load(owner.image.header, changed) == (VERIFY, 0x0102, 0x001C), bit


@pytest.mark.parametrize("number", range(3))
def test_every_bit_of_an_address_is_found_by_unpack_or_verify(owner: Owner, number: int) -> None:
    image = owner.image
    page = image.pages[number]
    places = [other.gaddr for other in image.pages]
    for bit in range(64):
        gaddr = page.gaddr ^ 1 << bit
        if gaddr >= 2 * MIB:
            wanted = UNPACK, 0x0101, 0
        elif gaddr % PAGE:
            wanted = UNPACK, 0x0102, 0
        elif gaddr in places:
            wanted = UNPACK, 0x0104, 0  # whichever of the two comes second finds the page secure
        else:
            wanted = VERIFY, 0x0102, 0x001A
        assert (
            owner.load(image.header, with_page(image, number, ImagePage(gaddr, page.tweak, page.data)))
            == wanted
        )


def test_pages_in_another_order_are_found_by_verify(owner: Owner) -> None:
    one, two, three = owner.image.pages
    assert owner.load(owner.image.header, (two, one, three)) == (VERIFY, 0x0102, 0x001A)
