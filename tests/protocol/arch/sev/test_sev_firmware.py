"""Firmware of guests: what it has to say of itself, and what is wrong with one that says it badly."""

from __future__ import annotations

import pytest

from protocol.arch.sev import ovmf
from protocol.arch.sev.ovmf import Firmware, Section
from protocol.arch.sev.status import PageType
from protocol.arch.sev.structs import PAGE

HASHES, AT = 0x10, 0x81_0C00
Words = dict[bytes, int]


def image(words: Words, listed: bytes = b"", tail: bytes = b"") -> bytes:
    """A page of firmware: its list of SNP pages at the start, its table of GUIDs at the end."""
    table = tail
    for guid, word in words.items():
        table += word.to_bytes(4, "little") + ovmf._ENTRY.pack(22, guid)
    table += ovmf._ENTRY.pack(len(table) + 18, ovmf._FOOTER)
    return listed.ljust(PAGE - 32 - len(table), b"\0") + table + bytes(32)


def snp(*sections: tuple[int, int, int], magic: bytes = b"ASEV", version: int = 1) -> bytes:
    body = b"".join(ovmf._SECTION.pack(*each) for each in sections)
    return ovmf._HEADER.pack(magic, 16 + len(body), version, len(sections)) + body


def test_firmware_says_where_other_vcpus_start_and_where_hashes_lie() -> None:
    firmware = Firmware(image({ovmf._RESET_BLOCK: 0x80_B004, ovmf._HASH_TABLE: AT}))
    assert (firmware.start_of_others, firmware.hash_table, firmware.gpa) == (0x80_B004, AT, (1 << 32) - PAGE)
    assert firmware.sections() == [], "it says nothing of SNP"


def test_firmware_without_a_table_is_for_no_guest_but_the_plain_ones() -> None:
    firmware = Firmware(bytes(PAGE))
    assert firmware.sections() == []
    with pytest.raises(ValueError, match="not built for SEV-ES"):
        _ = firmware.start_of_others
    with pytest.raises(ValueError, match="names no place for hashes"):
        _ = firmware.hash_table
    with pytest.raises(ValueError, match="has no place for hashes"):
        _ = Firmware(image({ovmf._HASH_TABLE: 0})).hash_table


@pytest.mark.parametrize("size", [0, PAGE - 1])
def test_firmware_is_whole_pages(size: int) -> None:
    with pytest.raises(ValueError, match=f"here are {size} bytes"):
        Firmware(bytes(size))


def test_firmware_fits_below_4_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovmf, "FOUR_GIB", 2 * PAGE)
    assert Firmware(bytes(PAGE)).gpa == PAGE
    with pytest.raises(ValueError, match="does not fit below 4 GiB"):
        Firmware(bytes(2 * PAGE))


@pytest.mark.parametrize("length", [17, 200])
def test_an_entry_that_is_too_short_or_longer_than_the_table_breaks_it(length: int) -> None:
    with pytest.raises(ValueError, match="table of GUIDs is broken"):
        Firmware(image({}, tail=ovmf._ENTRY.pack(length, ovmf._METADATA)))


@pytest.mark.parametrize(
    ("start", "listed", "wrong"),
    [
        (PAGE, snp((0, PAGE, 1), magic=b"TDVF"), "of another kind: b'TDVF' 1"),
        (PAGE, snp((0, PAGE, 1), version=2), "of another kind: b'ASEV' 2"),
        (PAGE, snp((0, PAGE, 9)), "nobody knows: type 9 at 0x0"),
        (PAGE, snp((16, PAGE, 1)), "nobody knows: type 1 at 0x10"),
        (PAGE, snp((0, PAGE + 16, 1)), "nobody knows: type 1 at 0x0"),
        (8, b"", "lies outside it"),
    ],
    ids=["magic", "version", "kind", "address", "size", "outside"],
)
def test_a_list_of_snp_pages_that_makes_no_sense_is_refused(start: int, listed: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Firmware(image({ovmf._METADATA: start}, listed)).sections()


def test_a_list_of_snp_pages_that_nobody_could_hold_is_refused() -> None:
    """A small file may not ask for much: neither by many sections nor by large ones."""
    words = {ovmf._METADATA: PAGE}
    most = tuple((n * PAGE, PAGE, 1) for n in range(ovmf.MAX_SECTIONS))
    assert len(Firmware(image(words, snp(*most))).sections()) == ovmf.MAX_SECTIONS
    with pytest.raises(ValueError, match="lists 65 SNP sections; at most 64 are allowed"):
        Firmware(image(words, snp(*most, (0, PAGE, 1)))).sections()
    half = ovmf.MAX_BYTES // 2
    assert len(Firmware(image(words, snp((0, half, 1), (half, half, 1)))).sections()) == 2
    with pytest.raises(ValueError, match=f"more than {ovmf.MAX_BYTES} bytes"):
        Firmware(image(words, snp((0, half, 1), (half, half + PAGE, 1)))).sections()


def test_hashes_that_would_cross_into_the_next_page_are_refused() -> None:
    hashes = ovmf.kernel_hashes(b"kernel", b"", "quiet")
    for at, fits in ((PAGE - len(hashes), True), (PAGE - len(hashes) + 1, False)):
        words = {ovmf._METADATA: PAGE, ovmf._HASH_TABLE: 0x81_0000 + at}
        firmware = Firmware(image(words, snp((0x81_0000, PAGE, HASHES))))
        if fits:
            *_, (_, _, page) = firmware.pages(hashes)
            assert page.endswith(hashes) and len(page) == PAGE
        else:
            with pytest.raises(ValueError, match=f"{len(hashes)} bytes of hashes do not fit"):
                list(firmware.pages(hashes))


def test_hashes_take_the_page_that_the_firmware_keeps_for_them() -> None:
    sections = ((0x80_0000, 2 * PAGE, 1), (0x81_0000, PAGE, HASHES))
    words = {ovmf._METADATA: PAGE, ovmf._HASH_TABLE: AT}
    firmware = Firmware(image(words, snp(*sections)))
    assert firmware.sections() == [Section(*each) for each in sections]
    hashes = ovmf.kernel_hashes(b"kernel", b"", "quiet")
    _, *zero, (gpa, kind, page) = firmware.pages(hashes)
    assert [each[:2] for each in zero] == [(0x80_0000, PageType.ZERO), (0x80_1000, PageType.ZERO)]
    assert (gpa, kind) == (0x81_0000, PageType.NORMAL) and page[AT % PAGE :].startswith(hashes)
    assert list(firmware.pages(b""))[-1] == (0x81_0000, PageType.ZERO, bytes(PAGE))
    with pytest.raises(ValueError, match="has no page for hashes"):
        list(Firmware(image(words, snp(sections[0]))).pages(hashes))
