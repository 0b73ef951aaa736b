"""An image as a file: the header, then every page in load order with its address and its tweak.

The file is this emulator's own (a guess of nothing: the real builder puts boot stages around the components,
and the guest unpacks itself). The header is the one of `header`, byte for byte, and says by its own fields
how long it is and how many pages follow. A file that ends behind its header is a header alone. What the owner
keeps, the customer communication key, is not in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from protocol.arch.s390.image.build import Image, ImagePage
from protocol.arch.s390.image.header import FIXED_BYTES, HEADER_BYTES_MAX, MAGIC, Fixed, header_bytes
from protocol.arch.s390.image.pages import PAGE_BYTES

_PAGE_HEAD = struct.Struct(">QQQ")  # guest absolute address, component prefix, offset in the component
RECORD_BYTES = _PAGE_HEAD.size + PAGE_BYTES


def looks_like_one(head: bytes) -> bool:
    """Whether a file with these first bytes means to be an image."""
    return head.startswith(MAGIC)


def pages_in(head: bytes, size: int) -> int:
    """How many pages a file of `size` bytes holds, from its first 0x1A0 bytes. Raises ValueError."""
    if not looks_like_one(head):
        raise ValueError(f"it does not begin with {MAGIC.decode()}")
    if len(head) < FIXED_BYTES:
        raise ValueError(f"it ends inside its header: {len(head)} bytes, a header has {header_bytes(0):#x}")
    fixed = Fixed.unpack(head)
    if not header_bytes(0) <= fixed.size <= HEADER_BYTES_MAX:
        raise ValueError(
            f"its header says that it has {fixed.size:#x} bytes; allowed: {header_bytes(0):#x} to "
            f"{HEADER_BYTES_MAX:#x}"
        )
    if size == fixed.size:
        return 0
    if size != fixed.size + fixed.pages * RECORD_BYTES:
        raise ValueError(
            f"it has {size} bytes; a header of {fixed.size} and {fixed.pages} pages of {RECORD_BYTES} each "
            f"make {fixed.size + fixed.pages * RECORD_BYTES}"
        )
    return fixed.pages


def pack_file(image: Image) -> bytes:
    """The bytes of an image file."""
    return b"".join(_parts(image.header, image.pages))


def _parts(header: bytes, pages: Iterable[ImagePage]) -> Iterable[bytes]:
    yield header
    for page in pages:
        yield _PAGE_HEAD.pack(page.gaddr, *page.tweak)
        yield page.data


def unpack_file(data: bytes) -> Image:
    """The image in a file; nothing but its shape is judged. Raises ValueError saying what is wrong."""
    count = pages_in(data[:FIXED_BYTES], len(data))
    at = Fixed.unpack(data).size
    return Image(data[:at], tuple(_page(data, at + n * RECORD_BYTES) for n in range(count)), b"")


def _page(data: bytes, at: int) -> ImagePage:
    gaddr, prefix, offset = _PAGE_HEAD.unpack_from(data, at)
    return ImagePage(gaddr, (prefix, offset), data[at + _PAGE_HEAD.size : at + RECORD_BYTES])
