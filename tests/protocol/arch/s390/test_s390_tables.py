"""Tables that a host builds in its own memory."""

from __future__ import annotations

from protocol.arch.s390.compose import compose
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.tables import GuestTable


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
