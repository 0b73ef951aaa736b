"""Control blocks: every field at the offset of the sheet, what is packed is unpacked, other bytes ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390 import structs
from protocol.arch.s390.structs import CreateConfig, CreateCpu, Query, SieEntry

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))

# Section 2.1 of the sheet: field -> (offset, width).
CREATE_CONFIG = {
    "base": (0x20, 8), "variable": (0x28, 8), "flags": (0x36, 2), "mso": (0x38, 8), "length": (0x40, 8),
    "sca": (0x48, 8), "asce": (0x50, 8),
}  # fmt: skip
CREATE_CPU = {"config": (0x20, 8), "storage": (0x28, 8), "number": (0x36, 2), "state": (0x38, 8)}
# Section 4.
QUERY = {
    "calls": (0x10, 8), "base_len": (0x40, 8), "conf_base_len": (0x50, 8), "conf_virtual_len": (0x58, 8),
    "conf_variable_len": (0x60, 8), "cpu_len": (0x68, 8), "max_configs": (0x7C, 4), "max_storage": (0x80, 8),
    "max_cpu_id": (0x9E, 2), "features": (0xA0, 8), "header_versions": (0xB0, 8), "pcf": (0xB8, 8),
    "dump_storage_len": (0xC8, 8), "dump_finalize_len": (0xD0, 8), "attestation_versions": (0xE0, 8),
    "attestation_flags": (0xE8, 8), "secret_versions": (0xF8, 8), "secret_flags": (0x100, 8),
    "secret_types": (0x108, 8), "max_associations": (0x110, 2), "max_retrievable": (0x112, 2),
}  # fmt: skip


def at(raw: bytes, place: tuple[int, int]) -> int:
    offset, width = place
    return int.from_bytes(raw[offset : offset + width], "big")


def fields_of(layout: dict[str, tuple[int, int]]) -> st.SearchStrategy[dict[str, int]]:
    widths = {8: u64, 4: u32, 2: u16}
    return st.fixed_dictionaries({name: widths[width] for name, (_, width) in layout.items()})


def holds_only(raw: bytes, layout: dict[str, tuple[int, int]], first: int) -> bool:
    """Every byte from `first` on that no field covers is zero."""
    covered = {byte for offset, width in layout.values() for byte in range(offset, offset + width)}
    return not any(value for place, value in enumerate(raw) if place >= first and place not in covered)


@given(fields_of(CREATE_CONFIG))
def test_create_configuration_has_the_sheets_layout(values: dict[str, int]) -> None:
    raw = bytes(CreateConfig(**values).pack())
    assert (len(raw), raw[:8]) == (0x80, b"\x00\x80\x01\x00" + bytes(4))
    assert {name: at(raw, place) for name, place in CREATE_CONFIG.items()} == values
    assert holds_only(raw, CREATE_CONFIG, 8)
    assert CreateConfig.unpack(raw)._asdict() == values


@given(fields_of(CREATE_CPU))
def test_create_cpu_has_the_sheets_layout(values: dict[str, int]) -> None:
    raw = bytes(CreateCpu(**values).pack())
    assert (len(raw), raw[:8]) == (0x60, b"\x00\x60\x01\x20" + bytes(4))
    assert {name: at(raw, place) for name, place in CREATE_CPU.items()} == values
    assert holds_only(raw, CREATE_CPU, 8)
    assert CreateCpu.unpack(raw)._asdict() == values


@given(st.binary(min_size=0x80, max_size=0x80))
def test_reserved_bytes_of_a_block_are_ignored(raw: bytes) -> None:
    config, cpu = CreateConfig.unpack(raw), CreateCpu.unpack(raw)
    assert config._asdict() == {name: at(raw, place) for name, place in CREATE_CONFIG.items()}
    assert cpu._asdict() == {name: at(raw, place) for name, place in CREATE_CPU.items()}


@given(fields_of(QUERY), st.sampled_from([0xC8, 0x100, 0x120]))
def test_a_query_has_the_sheets_layout(values: dict[str, int], length: int) -> None:
    query = Query(**values, length=length)
    raw = bytes(0x10) + query.pack()
    assert len(raw) == length
    known = {name: place for name, place in QUERY.items() if sum(place) <= length}
    assert {name: at(raw, place) for name, place in known.items()} == {name: values[name] for name in known}
    assert holds_only(raw, QUERY, 0)
    block = length.to_bytes(2, "big") + raw[2:]
    assert Query.unpack(block) == query._replace(**dict.fromkeys(set(QUERY) - set(known), 0))


@given(st.binary(min_size=0x400, max_size=0x400))
def test_a_state_description_is_read_where_the_sheet_says(raw: bytes) -> None:
    entry = SieEntry.unpack(raw)
    assert entry.cpu_handle == at(raw, (0x10, 8))
    assert entry.config_handle == at(raw, (0x18, 8))
    assert entry.timer == at(raw, (0x28, 8))
    assert (entry.iictl, entry.sdf) == (raw[0x55], raw[0x68])
    assert entry.sida == at(raw, (0x180, 8))
    assert entry.gprs == tuple(at(raw, (0x380 + 8 * which, 8)) for which in range(16))


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        (structs.INIT, [(0x18, 8), (0x20, 8)]),
        (structs.NODATA, [(0x18, 8)]),
        (structs.PADDR, [(0x18, 8)]),
        (structs.HANDLE_GADDR, [(0x18, 8), (0x20, 8)]),
        (structs.SHARE, [(0x20, 8)]),
        (structs.UNPACK, [(0x18, 8), (0x20, 8), (0x28, 8), (0x30, 8)]),
        (structs.SET_STATE, [(0x18, 8), (0x27, 1)]),
        (structs.SET_PARAMS, [(0x18, 8), (0x20, 8), (0x28, 4)]),
        (structs.DUMP_AREA, [(0x18, 8), (0x20, 8)]),
        (structs.DUMP_STORAGE, [(0x18, 8), (0x20, 8), (0x28, 8)]),
    ],
    ids=["init", "nodata", "paddr", "gaddr", "share", "unpack", "state", "params", "dump", "dump_storage"],
)
def test_the_fields_of_a_block_are_where_the_sheet_says(layout, places: list[tuple[int, int]]) -> None:
    values = [
        0x11 * (which + 1) << 8 * (width - 1) | which + 1 if width > 1 else which + 1
        for which, (_, width) in enumerate(places)
    ]
    raw = bytes(structs.block(0x50, 0x1234, layout, *values))
    assert raw[:8] == b"\x00\x50\x12\x34" + bytes(4)
    assert [at(raw, place) for place in places] == values == list(layout.unpack_from(raw))
    assert holds_only(raw, {str(place): place for place in places}, 8)


@given(u16, u16)
def test_a_header_says_how_long_a_block_is_and_what_it_asks_for(length: int, code: int) -> None:
    raw = structs.header(max(length, 8), code)
    assert structs.HEADER.unpack_from(raw) == (max(length, 8), code, 0, 0)
    assert len(raw) == max(length, 8)
