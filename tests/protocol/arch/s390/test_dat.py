"""The walk of section 8.4: every level, every exception, against a second way to say what a table maps."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat
from protocol.effects import Fault

MEMORY = 1 << 24
LEVELS = {0: z.SEGMENT_TRANSLATION, 1: z.REGION_THIRD, 2: z.REGION_SECOND, 3: z.REGION_FIRST}
SHIFTS = {0: 20, 1: 31, 2: 42, 3: 53}


class Tables(NamedTuple):
    """Tables in a memory of their own; a table of level n has its entries at `origins[n]`."""

    memory: dict[int, int]
    origins: dict[int, int]

    def read(self, address: int, length: int) -> bytes | Fault:
        if address + length > MEMORY:
            return z.program(z.ADDRESSING, address)
        return self.memory.get(address, 0).to_bytes(length, "big")

    def entry_at(self, level: int, address: int) -> int:
        if level < 0:
            return self.origins[-1] + 8 * (address >> 12 & 0xFF)
        return self.origins[level] + 8 * (address >> SHIFTS[level] & 0x7FF)

    def put(self, level: int, address: int, value: int) -> None:
        self.memory[self.entry_at(level, address)] = value

    def get(self, level: int, address: int) -> int:
        return self.memory[self.entry_at(level, address)]


FRAME = 0xABC000


def mapped(kind: int, address: int) -> tuple[Tables, int]:
    """Tables of every level from `kind` down that map one page of `address` to FRAME, and their ASCE."""
    tables = Tables({}, {level: 0x100000 + (level + 1) * 0x4000 for level in range(-1, 4)})
    for level in range(kind, 0, -1):
        tables.put(level, address, tables.origins[level - 1] | level << 2 | 3)
    tables.put(0, address, tables.origins[-1])
    tables.put(-1, address, FRAME)
    return tables, tables.origins[kind] | dat.PRIVATE | kind << 2 | 3


def highest(kind: int) -> int:
    return (1 << min(64, SHIFTS[kind] + 11)) - 1


kinds = st.integers(0, 3)


@given(kinds, st.data(), st.booleans())
def test_a_mapped_page_is_found_through_tables_of_every_kind(
    kind: int, data: st.DataObject, write: bool
) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    tables, asce = mapped(kind, address)
    assert dat.walk(tables.read, asce, address, write) == FRAME | address & 0xFFF


@given(kinds, st.data())
def test_an_invalid_entry_names_its_level_and_the_address(kind: int, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    level = data.draw(st.integers(-1, kind))
    tables, asce = mapped(kind, address)
    invalid = 0x400 if level < 0 else 0x20
    tables.put(level, address, tables.get(level, address) | invalid)
    want = z.PAGE_TRANSLATION if level < 0 else LEVELS[level]
    assert dat.walk(tables.read, asce, address, False) == z.program(want, address)
    assert dat.walk(tables.read, asce, address, True) == z.program(want, address, True)


@given(kinds, st.data())
def test_a_protected_level_protects_the_page_against_stores_alone(kind: int, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    level = data.draw(st.integers(-1, kind))
    tables, asce = mapped(kind, address)
    tables.put(level, address, tables.get(level, address) | dat.PROTECT)
    assert dat.walk(tables.read, asce, address, False) == FRAME | address & 0xFFF
    assert dat.walk(tables.read, asce, address, True) == z.program(z.PROTECTION, address, True)


@given(st.integers(0, 2), st.data())
def test_an_address_above_what_the_type_can_express_is_an_asce_type_exception(
    kind: int, data: st.DataObject
) -> None:
    address = data.draw(st.integers(highest(kind) + 1, (1 << 64) - 1))
    tables, asce = mapped(kind, 0)
    assert dat.walk(tables.read, asce, address, False) == z.program(z.ASCE_TYPE, address)


@given(kinds, st.integers(0, 3), st.data())
def test_an_index_behind_the_top_tables_length_is_not_mapped(
    kind: int, length: int, data: st.DataObject
) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    tables, asce = mapped(kind, address)
    found = dat.walk(tables.read, asce & ~3 | length, address, False)
    if (address >> SHIFTS[kind] & 0x7FF) >> 9 > length:
        assert found == z.program(LEVELS[kind], address)
    else:
        assert found == FRAME | address & 0xFFF


@given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.data())
def test_a_lower_table_has_an_offset_and_a_length(
    kind: int, offset: int, length: int, data: st.DataObject
) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    tables, asce = mapped(kind, address)
    entry = tables.get(kind, address)
    tables.put(kind, address, entry & ~0xC3 | offset << 6 | length)
    inside = offset <= (address >> SHIFTS[kind - 1] & 0x7FF) >> 9 <= length
    found = dat.walk(tables.read, asce, address, False)
    assert found == (FRAME | address & 0xFFF if inside else z.program(LEVELS[kind - 1], address))


@given(kinds, st.data())
def test_an_entry_of_another_type_is_malformed(kind: int, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    level = data.draw(st.integers(0, kind))
    wrong = data.draw(st.sampled_from([other for other in range(4) if other != level]))
    tables, asce = mapped(kind, address)
    tables.put(level, address, tables.get(level, address) & ~0x0C | wrong << 2)
    assert dat.walk(tables.read, asce, address, True) == z.program(z.TRANSLATION_SPECIFICATION, address, True)


def test_a_page_entry_with_its_reserved_bit_is_malformed() -> None:
    tables, asce = mapped(0, 0x5000)
    tables.put(-1, 0x5000, FRAME | 0x800)
    assert dat.walk(tables.read, asce, 0x5000, False) == z.program(z.TRANSLATION_SPECIFICATION, 0x5000)


@given(st.integers(0, highest(0)))
def test_a_segment_may_be_a_frame_of_a_mib(address: int) -> None:
    tables, asce = mapped(0, address)
    tables.put(0, address, 0x7FF00000 | dat.FORMAT)
    assert dat.walk(tables.read, asce, address, True) == 0x7FF00000 | address & 0xFFFFF


@pytest.mark.parametrize("level", [-1, 0, 1, 2, 3])
def test_a_table_outside_memory_is_an_addressing_exception_of_the_access(level: int) -> None:
    address = 0x1234567
    tables, asce = mapped(3, address)
    if level == 3:
        asce = MEMORY | asce & 0xFFF
    else:
        above = tables.get(level + 1, address)
        tables.put(level + 1, address, MEMORY | (above & 0xFFF if level >= 0 else 0))
    assert dat.walk(tables.read, asce, address, True) == z.program(z.ADDRESSING, address, True)


def test_a_frame_outside_memory_is_found_and_refused_by_who_uses_it() -> None:
    tables, asce = mapped(0, 0)
    tables.put(-1, 0, 1 << 50)
    assert dat.walk(tables.read, asce, 0x123, False) == 1 << 50 | 0x123


@given(st.integers(0, (1 << 64) - 1), st.booleans())
def test_a_real_space_translates_nothing(address: int, write: bool) -> None:
    tables, asce = mapped(0, 0)
    assert dat.walk(tables.read, asce | dat.REAL_SPACE, address, write) == address


@given(kinds, st.data())
def test_the_trail_names_every_table_that_was_read(kind: int, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, highest(kind)))
    tables, asce = mapped(kind, address)
    trail: list[dat.Step] = []
    dat.walk(tables.read, asce, address, False, trail)
    assert [(step.level, step.origin) for step in trail] == [
        (level, tables.origins[level]) for level in range(kind, -2, -1)
    ]
    for step in trail:
        span = 1 << (SHIFTS[step.level] + 11 if step.level >= 0 else 20)
        assert step.base == address // span * span
        assert step.length == (0x4000 if step.level >= 0 else 0x800)


@given(kinds, st.data())
def test_bits_that_mean_nothing_here_change_nothing(kind: int, data: st.DataObject) -> None:
    """Storage alteration and space switch of an ASCE; the common bit of a segment."""
    address = data.draw(st.integers(0, highest(kind)))
    tables, asce = mapped(kind, address)
    tables.put(0, address, tables.get(0, address) | data.draw(st.sampled_from([0, 0x10])))
    extra = data.draw(st.sampled_from([0, 0x40, 0x80, 0xC0]))
    assert dat.walk(tables.read, asce | extra, address, True) == FRAME | address & 0xFFF
