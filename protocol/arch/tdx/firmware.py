"""Virtual firmware for a TD (TDVF): the file says itself which of its pages go where and which are measured.

Sources: Intel TDX Virtual Firmware Design Guide, metadata of the image; QEMU `hw/i386/tdvf.c`. A table of
GUIDs before the reset vector holds the place of a descriptor, counted from the end of the file; the
descriptor lists sections. Any other file is an image of pages that follow one another, all measured.

The hand-off block list (type TD_HOB) is made by the VMM and not measured; here it is zeroes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from protocol.memory.store import PAGE

# GUIDs as they stand in the file: 96b582de-1fb2-45f7-baea-a366c55a082d, e47a6535-984a-4798-865e-4685a7bf8ec2
FOOTER = bytes.fromhex("de82b596 b21f f745 baea a366c55a082d")
METADATA = bytes.fromhex("35657ae4 4a98 9847 865e 4685a7bf8ec2")
FOOTER_END = 32  # bytes behind the table: the reset vector
ENTRY = Struct(
    "<H16s"
)  # length with this, GUID; they stand behind their data, so the table is read backwards
OFFSET = Struct("<I")
DESCRIPTOR = Struct("<4sIII")  # signature, length, version, number of sections
SECTION = Struct("<IIQQII")
SIGNATURE, VERSION = b"TDVF", 1
MAX_SECTIONS, MAX_BYTES = 64, 64 << 20
ADDRESS_LIMIT = 1 << 47
FIRMWARE, VARIABLES, HAND_OFF, TEMPORARY = range(4)  # types of sections that are added before the TD runs
MEASURED, ADDED_LATER = 1 << 0, 1 << 1  # attributes
CHUNK = 256


class Section(NamedTuple):
    """`offset` and `raw` say what of the file is in it, `address` and `size` where it goes in the guest."""

    offset: int
    raw: int
    address: int
    size: int
    kind: int
    attributes: int


class Placed(NamedTuple):
    """A page as it is added before the TD runs."""

    gpa: int
    data: bytes
    measured: bool


def sections(image: bytes) -> tuple[Section, ...]:
    """What the file says, none if it is no TDVF. Raises ValueError where it contradicts itself."""
    at = _descriptor(image)
    if at is None:
        return ()
    if at < 0 or at + DESCRIPTOR.size > len(image):
        raise ValueError("TDVF: the descriptor does not lie in the file")
    signature, length, version, count = DESCRIPTOR.unpack_from(image, at)
    if signature != SIGNATURE or version != VERSION:
        raise ValueError(f"TDVF: {signature!r} version {version}; allowed: {SIGNATURE!r} version {VERSION}")
    if count > MAX_SECTIONS or length < DESCRIPTOR.size + count * SECTION.size or at + length > len(image):
        raise ValueError(
            f"TDVF: {count} sections in {length} bytes; allowed: at most {MAX_SECTIONS}, in the file"
        )
    found = tuple(
        Section(*SECTION.unpack_from(image, at + DESCRIPTOR.size + number * SECTION.size))
        for number in range(count)
    )
    for section in found:
        _check(section, len(image))
    if sum(section.size for section in found) > MAX_BYTES:
        raise ValueError(f"TDVF: its sections have more than {MAX_BYTES} bytes")
    return found


def _descriptor(image: bytes) -> int | None:
    """Where the descriptor is; None if no entry of the table says so."""
    end = len(image) - FOOTER_END
    at = end - ENTRY.size
    if at < 0 or image[at + 2 : end] != FOOTER:
        return None
    (left,) = Struct("<H").unpack_from(image, at)
    first = end - left
    while at > max(first, 0):
        length, guid = ENTRY.unpack_from(image, at - ENTRY.size) if at >= ENTRY.size else (0, b"")
        if length < ENTRY.size or at - length < max(first, 0):
            return None
        if guid == METADATA and length == ENTRY.size + OFFSET.size:
            offset: int = OFFSET.unpack_from(image, at - length)[0]
            return len(image) - offset
        at -= length
    return None


def _check(section: Section, size: int) -> None:
    where = f"TDVF: section at {section.address:#x}"
    if section.address % PAGE or section.size % PAGE or section.address + section.size > ADDRESS_LIMIT:
        raise ValueError(f"{where}: not whole pages of private memory")
    if section.raw > section.size or section.offset + section.raw > size:
        raise ValueError(f"{where}: its bytes do not lie in the file, or not in the section")


def placed(image: bytes, first: int) -> Iterator[Placed]:
    """Yield the pages in the order in which they are added; a plain image's from address `first` on."""
    found = sections(image)
    if not found:
        for at in range(0, len(image), PAGE):
            yield Placed(first + at, image[at : at + PAGE], True)
    for section in found:
        if section.kind > TEMPORARY or section.attributes & ADDED_LATER:
            continue
        raw = image[section.offset : section.offset + section.raw].ljust(section.size, b"\0")
        for at in range(0, section.size, PAGE):
            yield Placed(section.address + at, raw[at : at + PAGE], bool(section.attributes & MEASURED))


def mrtd(image: bytes, first: int) -> bytes:
    """What MRTD comes to if the TD is loaded with this image and nothing else (section 6.4)."""
    digest = hashlib.sha384()
    for page in placed(image, first):
        digest.update(_block(b"MEM.PAGE.ADD", page.gpa))
        for at in range(0, PAGE if page.measured else 0, CHUNK):
            digest.update(_block(b"MR.EXTEND", page.gpa + at) + page.data[at : at + CHUNK])
    return digest.digest()


def _block(name: bytes, gpa: int) -> bytes:
    return (name.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(128, b"\0")
