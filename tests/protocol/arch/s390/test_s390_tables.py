"""Tables that a host builds in its own memory."""

from __future__ import annotations

from protocol.arch.s390.compose import compose
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.tables import GuestTable
from protocol.memory.store import PAGE, PAGE_SHIFT


def test_to_take_away_what_no_table_maps_stores_nothing() -> None:
    host = compose(PROFILES["small"], 1).chain[0]
    table = GuestTable(host.memory, host.pool)
    table.map(5, 7)

    def content() -> list[object]:
        return [host.memory.read(frame << PAGE_SHIFT, PAGE) for frame in table.occupied()]

    before = content()
    assert not table.unmap(0x105)
    assert not table.unmap_segment(1)
    assert content() == before
    assert table.unmap(5)
    assert table.unmap_segment(0)
    assert not table.unmap(5), "the table that had it is gone"
    assert table.segments() == []


def test_what_is_reserved_is_reserved_once() -> None:
    host = compose(PROFILES["small"], 1).chain[0]
    table = GuestTable(host.memory, host.pool)
    table.reserve(0, 1024)
    free, frames = host.pool.free, table.frames
    table.reserve(0, 1024)
    table.reserve(256, 512)
    for page in range(0, 1024, 256):
        table.map(page, 7)
    assert (host.pool.free, table.frames) == (free, frames)
    table.reserve(0, 2048)
    assert table.frames == frames + 2, "four page tables more, two in a frame"
