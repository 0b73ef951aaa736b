"""Translation of the home space: section 8.4 of the fact sheet, one exception after the other."""

from __future__ import annotations

import pytest
from s390_blocks import (
    ADDRESSING,
    ASCE_TYPE,
    GIB,
    MIB,
    PAGE,
    PAGE_TRANSLATION,
    PROTECTION,
    REGION_THIRD,
    SEGMENT,
    TRANSLATION_SPECIFICATION,
)
from s390_field import AddressSpace, Host, HostFault

AT = 0x30_0000


def space_of(host: Host, kind: str = "segment", entries: int = 2048) -> AddressSpace:
    """A home space of the wanted kind on CPU 0."""
    space = AddressSpace(host, kind, entries=entries)
    host.control(cr13=space.asce)
    return space


def both(host: Host, virtual: int) -> list[HostFault]:
    """The faults of a load and a store at `virtual`."""
    return [
        host.fault("read", addr=hex(virtual), len=8, space="home"),
        host.fault("write", addr=hex(virtual), hex="00" * 8, space="home"),
    ]


@pytest.mark.parametrize(
    ("kind", "virtual", "code"),
    [
        ("segment", AT, SEGMENT),
        ("region", AT, REGION_THIRD),
        ("region", 7 << 31 | AT, REGION_THIRD),
        ("segment", 2 * GIB + AT, ASCE_TYPE),
        ("region", 1 << 42, ASCE_TYPE),
        ("segment", (1 << 64) - PAGE, ASCE_TYPE),
    ],
    ids=["segment", "region", "far_region", "above_segment_type", "above_region_type", "top"],
)
def test_what_is_not_mapped_says_at_which_table_the_walk_ended(
    raw: Host, kind: str, virtual: int, code: int
) -> None:
    space_of(raw, kind)
    load, store = both(raw, virtual)
    assert (load.code, load.page, load.write) == (code, virtual, False)
    assert (store.code, store.page, store.write) == (code, virtual, True)


def test_an_invalid_page_is_a_page_translation_exception(raw: Host) -> None:
    space = space_of(raw)
    space.map(AT, raw.alloc())
    for fault in both(raw, AT + PAGE):
        assert (fault.code, fault.page) == (PAGE_TRANSLATION, AT + PAGE)


def test_a_change_of_an_entry_takes_effect_at_once(raw: Host) -> None:
    space = space_of(raw)
    one, two = raw.page_of(1), raw.page_of(2)
    space.map(AT, one)
    assert raw.read(AT, 1, space="home") == b"\x01"
    space.map(AT, two)
    assert raw.read(AT, 1, space="home") == b"\x02"
    space.unmap(AT)
    assert both(raw, AT)[0].code == PAGE_TRANSLATION


def test_an_index_behind_the_length_of_the_table_is_not_mapped(raw: Host) -> None:
    space = space_of(raw, entries=512)
    space.map(AT, raw.page_of(3))
    assert raw.read(AT, 1, space="home") == b"\x03"
    assert both(raw, 512 * MIB)[0].code == SEGMENT


def test_a_protected_page_may_be_read_and_not_written(raw: Host) -> None:
    space = space_of(raw)
    page = raw.page_of(4)
    space.map(AT, page, protect=True)
    assert raw.read(AT, 1, space="home") == b"\x04"
    fault = raw.fault("write", addr=hex(AT), hex="ff", space="home")
    assert (fault.code, fault.page, fault.write) == (PROTECTION, AT, True)
    assert raw.read(page, 1) == b"\x04"


def test_a_protected_segment_protects_its_pages(raw: Host) -> None:
    space = space_of(raw)
    space.map(AT, raw.page_of(5))
    entry = space.segment_entry(AT)
    raw.put(entry, raw.get(entry) | 0x200)
    assert raw.fault("write", addr=hex(AT), hex="ff", space="home").code == PROTECTION


def test_a_segment_may_be_one_frame_of_a_mib(raw: Host) -> None:
    space = space_of(raw)
    frame = raw.alloc(MIB, align=MIB)
    raw.put(space.segment_entry(AT), frame | 0x400)
    raw.write(AT + 0x12345, b"deep inside", space="home")
    assert raw.read(frame + 0x12345, 11) == b"deep inside"


def test_an_entry_of_the_wrong_type_is_malformed(raw: Host) -> None:
    space = space_of(raw, "region")
    space.map(AT, raw.alloc())
    raw.put(space.top, raw.get(space.top) & ~0x0C)
    assert both(raw, AT)[0].code == TRANSLATION_SPECIFICATION


@pytest.mark.parametrize("level", ["top", "page_table", "frame"])
def test_a_table_or_frame_outside_memory_is_an_addressing_exception(raw: Host, level: str) -> None:
    space = space_of(raw)
    space.map(AT, raw.alloc())
    outside = 2200 * MIB
    if level == "top":
        raw.control(cr13=outside | 0x103)
    elif level == "page_table":
        raw.put(space.segment_entry(AT), outside)
    else:
        raw.put(space.page_entry(AT), outside)
    assert both(raw, AT)[0].code == ADDRESSING


def test_a_store_over_a_hole_stores_nothing(raw: Host) -> None:
    space = space_of(raw)
    page = raw.page_of(6)
    space.map(AT, page)
    for op, fields in (("write", {"hex": "ff" * 16}), ("fill", {"len": 16, "byte": 0xFF})):
        fault = raw.fault(op, addr=hex(AT + PAGE - 8), space="home", **fields)
        assert (fault.code, fault.page, fault.write) == (PAGE_TRANSLATION, AT + PAGE, True)
        assert raw.read(page, PAGE) == b"\x06" * PAGE
