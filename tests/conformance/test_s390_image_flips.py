"""One changed bit of an image, at every depth: the same code by the same call.

All bits on the machine itself: `tests/protocol/arch/s390/machine/test_image_bit_flips.py`.
"""

from __future__ import annotations

import pytest
from s390_blocks import PAGE
from s390_field import Host
from s390_guest import Image, SecureGuest, plain_image

# Offset in the header -> rc, rrc; one bit of each field.
HEADER = {
    0x00: (0x0104, 0x0000),
    0x0B: (0x0104, 0x0001),
    0x0F: (0x010A, 0x0031),
    0x10: (0x0108, 0x0007),
    0x20: (0x010A, 0x0031),
    0x27: (0x010A, 0x0040),
    0x2F: (0x010A, 0x0039),
    0x37: (0x0108, 0x0007),
    0x38: (0x0106, 0x0030),
    0x3F: (0x0108, 0x0007),
    0x8F: (0x0108, 0x000B),
    0xE0: (0x0108, 0x0007),
    0x19F: (0x0108, 0x0007),
    0x1A0: (0x0108, 0x0005),
    0x1C0: (0x0108, 0x0006),
    0x1EF: (0x0108, 0x0006),
    0x1F0: (0x0108, 0x0007),
    0x27F: (0x0108, 0x0007),
}


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


def test_a_bit_of_the_header_is_named_by_set_params(host: Host) -> None:
    image = Image.build(host)
    guest = SecureGuest.create(host)
    for at, code in HEADER.items():
        guest.set_params(flip(image.header, at)).refused(*code)
    guest.set_params(image.header).done()


@pytest.mark.parametrize("at", [0, 1, PAGE // 2, PAGE - 1])
@pytest.mark.parametrize("number", [0, 1])
def test_a_bit_of_a_page_is_named_by_verify(host: Host, number: int, at: int) -> None:
    image = Image.build(host)
    gaddr, tweak, content = image.pages[number]
    image.pages[number] = (gaddr, tweak, flip(content, at, 0x10))
    guest = SecureGuest.create(host)
    guest.set_params(image.header).done()
    guest.unpack_all(image)
    guest.verify().refused(0x0102, 0x001B)
    guest.verify().refused(0x0102, 0x001B)


@pytest.mark.parametrize("which", [0, 1], ids=["prefix", "offset"])
@pytest.mark.parametrize("bit", [0, 12, 63])
def test_a_bit_of_a_tweak_is_named_by_verify(host: Host, which: int, bit: int) -> None:
    image = Image.build(host)
    gaddr, tweak, content = image.pages[1]
    wrong = (tweak[0] ^ (1 << bit if not which else 0), tweak[1] ^ (1 << bit if which else 0))
    image.pages[1] = (gaddr, wrong, content)
    guest = SecureGuest.create(host)
    guest.set_params(image.header).done()
    guest.unpack_all(image)
    guest.verify().refused(0x0102, 0x001C)


@pytest.mark.parametrize(
    ("bit", "rc"), [(0, 0x0102), (11, 0x0102), (12, 0x0104), (21, 0x0101), (63, 0x0101), (17, None)]
)
def test_a_bit_of_an_address_is_named_by_unpack_or_verify(host: Host, bit: int, rc: int | None) -> None:
    image = Image.build(host, plain_image(2))
    guest = SecureGuest.create(host)
    guest.set_params(image.header).done()
    gaddr, tweak, content = image.pages[0]
    second, second_tweak, second_content = image.pages[1]
    guest.back(second, second_content)
    guest.unpack(second, second_tweak).done()  # so that bit 12 leads to a page that is secure
    wrong = gaddr ^ 1 << bit
    if rc is None:
        guest.back(wrong, content)
        guest.unpack(wrong, tweak).done()
        guest.verify().refused(0x0102, 0x001A)
    else:
        guest.unpack(wrong, tweak).refused(rc)
